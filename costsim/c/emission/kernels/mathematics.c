/* Mathematics without a library. */

static float costsim_of_bits(uint32_t bits) {
    union {
        uint32_t bits;
        float value;
    } both;
    both.bits = bits;
    return both.value;
}

static uint32_t costsim_bits_of(float value) {
    union {
        uint32_t bits;
        float value;
    } both;
    both.value = value;
    return both.bits;
}

/* Square root, exactly rounded: one instruction where there is one, else bit by bit. */
float costsim_sqrt(float x) {
#if defined(__ARM_FP) && (__ARM_FP & 4) && !defined(__aarch64__)
    float root;
    __asm__("vsqrt.f32 %0, %1" : "=t"(root) : "t"(x));
    return root;
#else
    uint32_t bits = costsim_bits_of(x), root = 0, rest = 0, mantissa;
    int32_t exponent = (int32_t)(bits >> 23), i;
    if (exponent >= 255 || bits == 0 || bits == 0x80000000u) {
        return exponent > 255 ? costsim_of_bits(0x7fc00000u) : x;
    }
    mantissa = bits & 0x7fffffu;
    if (exponent == 0) {
        exponent = 1;
        while (!(mantissa & 0x800000u)) {
            mantissa <<= 1;
            exponent--;
        }
    }
    mantissa |= 0x800000u;
    exponent -= 127;
    if (exponent & 1) {
        mantissa <<= 1;
        exponent--;
    }
    /* 24 bits of the root, and one more to round by: the remainder is never exactly half. */
    for (i = 0; i < 25; i++) {
        uint32_t two = i < 12 ? (mantissa >> (23 - 2 * i)) & 3u : i == 12 ? (mantissa << 1) & 3u : 0u;
        uint32_t trial = 4u * root + 1u;
        rest = 4u * rest + two;
        root *= 2u;
        if (rest >= trial) {
            rest -= trial;
            root++;
        }
    }
    root = (root >> 1) + (root & 1u);
    return costsim_of_bits(((uint32_t)(exponent / 2 + 127) << 23) + (root - 0x800000u));
#endif
}

static float costsim_power_of_two(int32_t n) {
    return costsim_of_bits((uint32_t)(n + 127) << 23);
}

/* exp(r) - 1 by its series, |r| <= 0.35. */
static float costsim_expm1_series(float r) {
    float sum = 1.0f / 5040.0f;
    sum = sum * r + 1.0f / 720.0f;
    sum = sum * r + 1.0f / 120.0f;
    sum = sum * r + 1.0f / 24.0f;
    sum = sum * r + 1.0f / 6.0f;
    sum = sum * r + 0.5f;
    return r + r * r * sum;
}

/* x = n ln 2 + r; ln 2 in two parts, the first short enough to be multiplied exactly. */
static float costsim_reduce(float x, int32_t *n) {
    float count = x * 1.44269504f;
    *n = (int32_t)(count < 0.0f ? count - 0.5f : count + 0.5f);
    return x - (float)*n * 0.693359375f + (float)*n * 2.12194440e-4f;
}

float costsim_exp(float x) {
    int32_t n;
    float r, value;
    if (!(x < 88.72284f)) {
        return x >= 88.72284f ? costsim_of_bits(0x7f800000u) : x;
    }
    if (x < -103.98f) {
        return 0.0f;
    }
    r = costsim_reduce(x, &n);
    value = 1.0f + costsim_expm1_series(r);
    if (n > 127) {
        return value * 2.0f * costsim_power_of_two(n - 1);
    }
    if (n < -126) {
        return value * costsim_power_of_two(n + 24) * 5.9604644775390625e-8f;
    }
    return value * costsim_power_of_two(n);
}

float costsim_expm1(float x) {
    return x > -0.35f && x < 0.35f ? costsim_expm1_series(x) : costsim_exp(x) - 1.0f;
}

/* log(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)), m around 1. */
float costsim_log(float x) {
    uint32_t bits;
    int32_t e = 0;
    float m, s, square, series;
    if (!(x > 0.0f)) {
        return x == 0.0f ? -costsim_of_bits(0x7f800000u) : costsim_of_bits(0x7fc00000u);
    }
    if (costsim_bits_of(x) >= 0x7f800000u) {
        return x;
    }
    if (x < 1.17549435e-38f) {
        x *= 8388608.0f;
        e = -23;
    }
    bits = costsim_bits_of(x) - 0x3f3504f3u; /* of sqrt(1/2) */
    e += (int32_t)bits >> 23;
    m = costsim_of_bits((bits & 0x7fffffu) + 0x3f3504f3u);
    s = (m - 1.0f) / (m + 1.0f);
    square = s * s;
    series = 2.0f / 9.0f;
    series = series * square + 2.0f / 7.0f;
    series = series * square + 2.0f / 5.0f;
    series = series * square + 2.0f / 3.0f;
    /* 2 s = (m - 1) - s (m - 1), which keeps what the division rounded off. */
    series = (m - 1.0f) - s * ((m - 1.0f) - square * series);
    return (float)e * 0.693359375f + (series - (float)e * 2.12194440e-4f);
}

float costsim_tanh(float x) {
    float size = x < 0.0f ? -x : x, value;
    if (size < 0.17f) {
        float q = costsim_expm1_series(2.0f * size);
        value = q / (q + 2.0f);
    } else if (size < 9.1f) {
        value = 1.0f - 2.0f / (costsim_exp(2.0f * size) + 1.0f);
    } else {
        value = size == size ? 1.0f : x;
    }
    return x < 0.0f ? -value : value;
}

/* By its series below 1, then as 1 - exp(-x^2) / (a continued fraction). */
float costsim_erf(float x) {
    float size = x < 0.0f ? -x : x, square = x * x, value;
    if (size < 1.5f) {
        /* 2 / sqrt(pi) sum of 2^n x^(2n+1) exp(-x^2) / (1 3 5 ...): no cancellation. */
        float sum = 0.0f;
        int32_t n;
        for (n = 18; n >= 0; n--) {
            sum = 1.0f + sum * (2.0f * square / (float)(2 * n + 3));
        }
        value = 1.12837917f * size * costsim_exp(-square) * sum;
    } else if (size < 4.0f) {
        float fraction = size;
        int32_t n;
        for (n = 24; n >= 1; n--) {
            fraction = size + 0.5f * (float)n / fraction;
        }
        value = 1.0f - 0.564189584f * costsim_exp(-square) / fraction;
    } else {
        value = size == size ? 1.0f : x;
    }
    return x < 0.0f ? -value : value;
}

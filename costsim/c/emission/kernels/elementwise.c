/* Element by element, and what only moves elements. */

void costsim_fill(int32_t count, float value, float *y) {
    int32_t i;
    for (i = 0; i < count; i++) {
        y[i] = value;
    }
}

void costsim_add(int32_t count, const float *a, const float *b, float *y) {
    int32_t i;
    for (i = 0; i < count; i++) {
        y[i] = a[i] + b[i];
    }
}

void costsim_scale(int32_t count, float factor, float offset, const float *x, float *y) {
    int32_t i;
    for (i = 0; i < count; i++) {
        y[i] = x[i] * factor + offset;
    }
}

void costsim_keep(int32_t outer, int32_t channels, int32_t inner, const costsim_channel *kept,
                  int32_t count, const float *x, float *y) {
    int32_t n, j, i;
    for (n = 0; n < outer; n++, x += channels * inner) {
        for (j = 0; j < count; j++) {
            const float *from = x + kept[j] * inner;
            for (i = 0; i < inner; i++) {
                *y++ = from[i];
            }
        }
    }
}

static void costsim_row(costsim_elementwise what, int32_t count, float scalar, const float *a,
                        int32_t a_step, const float *b, int32_t b_step, float *y, int32_t y_step) {
    int32_t i;
#define COSTSIM_EACH(value)                                              \
    for (i = 0; i < count; i++, a += a_step, b += b_step, y += y_step) { \
        *y = (value);                                                    \
    }                                                                    \
    break
    switch (what) {
        case COSTSIM_COPY:
            COSTSIM_EACH(*a);
        case COSTSIM_ADD_TO:
            COSTSIM_EACH(*y + *a);
        case COSTSIM_SUBTRACT_FROM:
            COSTSIM_EACH(*y - *a);
        case COSTSIM_ADD:
            COSTSIM_EACH(*a + *b);
        case COSTSIM_SUBTRACT:
            COSTSIM_EACH(*a - *b);
        case COSTSIM_MULTIPLY:
            COSTSIM_EACH(*a * *b);
        case COSTSIM_ADD_PRODUCT:
            COSTSIM_EACH(*y + *a * *b);
        case COSTSIM_DIVIDE:
            COSTSIM_EACH(*a / scalar);
    }
#undef COSTSIM_EACH
}

void costsim_loop(costsim_elementwise what, const costsim_loops *l, float scalar, const float *a,
                  const float *b, float *y) {
    int32_t i[5] = {0, 0, 0, 0, 0}, d;
    if (!b) {
        b = a; /* with steps of zero: never read */
    }
    for (;;) {
        costsim_row(what, l->shape[5], scalar, a, l->a[5], b, l->b[5], y, l->y[5]);
        for (d = 4; d >= 0; d--) {
            a += l->a[d], b += l->b[d], y += l->y[d];
            if (++i[d] < l->shape[d]) {
                break;
            }
            a -= l->a[d] * l->shape[d], b -= l->b[d] * l->shape[d], y -= l->y[d] * l->shape[d];
            i[d] = 0;
        }
        if (d < 0) {
            return;
        }
    }
}

static float costsim_sigmoid_of(float x) {
    float e;
    if (x >= 0.0f) {
        return 1.0f / (1.0f + costsim_exp(-x));
    }
    e = costsim_exp(x);
    return e / (1.0f + e);
}

static float costsim_clamped(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static float costsim_activated(costsim_activation what, float p, float q, float x) {
    switch (what) {
        case COSTSIM_RELU:
            return x <= 0.0f ? 0.0f : x;
        case COSTSIM_LEAKY_RELU:
            return x > 0.0f ? x : p * x;
        case COSTSIM_CLAMP:
        case COSTSIM_CLAMP_PASSES:
            return costsim_clamped(x, p, q);
        case COSTSIM_HARD_SIGMOID:
            return costsim_clamped(x + 3.0f, 0.0f, 6.0f) / 6.0f;
        case COSTSIM_HARD_SWISH:
            return x * costsim_clamped(x + 3.0f, 0.0f, 6.0f) / 6.0f;
        case COSTSIM_GELU:
            return 0.5f * x * (1.0f + costsim_erf(x * 0.707106781f));
        case COSTSIM_GELU_TANH:
            return 0.5f * x *
                   (1.0f + costsim_tanh(0.797884561f * (x + 0.044715f * x * x * x)));
        case COSTSIM_SILU:
            return x * costsim_sigmoid_of(x);
        case COSTSIM_ELU:
            return x > 0.0f ? x : p * costsim_expm1(x);
        case COSTSIM_SIGMOID:
            return costsim_sigmoid_of(x);
        case COSTSIM_TANH:
            return costsim_tanh(x);
    }
    return x;
}

static int costsim_passes(costsim_activation what, float p, float q, float x) {
    switch (what) {
        case COSTSIM_CLAMP:
            return x > p && x < q;
        case COSTSIM_CLAMP_PASSES:
            return x >= p && x <= q;
        case COSTSIM_HARD_SIGMOID:
            return x > -3.0f && x < 3.0f;
        default:
            return x > 0.0f;
    }
}

void costsim_activation_forward(costsim_activation what, float p, float q, int32_t count,
                                const float *x, float *y, uint8_t *mask) {
    int32_t i, j;
    for (i = 0; i < count; i += 8) {
        const int32_t some = count - i < 8 ? count - i : 8;
        int bits = 0;
        for (j = 0; j < some; j++) {
            const float v = x[i + j];
            if (mask && costsim_passes(what, p, q, v)) {
                bits |= 0x80 >> j;
            }
            y[i + j] = what == COSTSIM_RELU ? (v <= 0.0f ? 0.0f : v)
                                            : costsim_activated(what, p, q, v);
        }
        if (mask) {
            *mask++ = (uint8_t)bits;
        }
    }
}

void costsim_mask_input_gradient(int32_t count, float inside, float outside, const uint8_t *mask,
                                 const float *dy, float *dx) {
    int32_t i;
    for (i = 0; i < count; i++) {
        dx[i] = dy[i] * (mask[i >> 3] & (0x80 >> (i & 7)) ? inside : outside);
    }
}

static float costsim_slope(costsim_activation what, float p, float x) {
    float s, t;
    switch (what) {
        case COSTSIM_HARD_SWISH:
            return x <= -3.0f ? 0.0f : x < 3.0f ? x / 3.0f + 0.5f : 1.0f;
        case COSTSIM_GELU:
            return 0.5f * (1.0f + costsim_erf(x * 0.707106781f)) +
                   x * 0.398942280f * costsim_exp(-0.5f * x * x);
        case COSTSIM_GELU_TANH:
            t = costsim_tanh(0.797884561f * (x + 0.044715f * x * x * x));
            return 0.5f * (1.0f + t) +
                   0.5f * x * (1.0f - t * t) * 0.797884561f * (1.0f + 0.134145f * x * x);
        case COSTSIM_SILU:
            s = costsim_sigmoid_of(x);
            return s * (1.0f + x * (1.0f - s));
        case COSTSIM_ELU:
            return x > 0.0f ? 1.0f : p * costsim_exp(x);
        case COSTSIM_SIGMOID:
            return (1.0f - x) * x;
        case COSTSIM_TANH:
            return 1.0f - x * x;
        default:
            return 0.0f; /* those with a mask */
    }
}

void costsim_activation_input_gradient(costsim_activation what, float p, int32_t count,
                                       const float *x, const float *dy, float *dx) {
    int32_t i;
    for (i = 0; i < count; i++) {
        dx[i] = dy[i] * costsim_slope(what, p, x[i]);
    }
}

/* The largest of `size` values that lie `stride` apart. */
static float costsim_largest(int32_t size, int32_t stride, const float *x) {
    float most = x[0];
    int32_t k;
    for (k = 1; k < size; k++) {
        most = x[k * stride] > most ? x[k * stride] : most;
    }
    return most;
}

void costsim_softmax_forward(int32_t outer, int32_t size, int32_t inner, const float *x, float *y) {
    int32_t n, i, k;
    for (n = 0; n < outer; n++, x += size * inner, y += size * inner) {
        for (i = 0; i < inner; i++) {
            float most = costsim_largest(size, inner, x + i), sum = 0;
            for (k = 0; k < size; k++) {
                y[k * inner + i] = costsim_exp(x[k * inner + i] - most);
                sum += y[k * inner + i];
            }
            for (k = 0; k < size; k++) {
                y[k * inner + i] /= sum;
            }
        }
    }
}

void costsim_softmax_input_gradient(int32_t outer, int32_t size, int32_t inner, const float *y,
                                    const float *dy, float *dx) {
    int32_t n, i, k;
    for (n = 0; n < outer; n++, y += size * inner, dy += size * inner, dx += size * inner) {
        for (i = 0; i < inner; i++) {
            float sum = 0;
            for (k = 0; k < size; k++) {
                sum += dy[k * inner + i] * y[k * inner + i];
            }
            for (k = 0; k < size; k++) {
                dx[k * inner + i] = (dy[k * inner + i] - sum) * y[k * inner + i];
            }
        }
    }
}

void costsim_log_softmax_forward(int32_t outer, int32_t size, int32_t inner, const float *x,
                                 float *y) {
    int32_t n, i, k;
    for (n = 0; n < outer; n++, x += size * inner, y += size * inner) {
        for (i = 0; i < inner; i++) {
            float most = costsim_largest(size, inner, x + i), sum = 0;
            for (k = 0; k < size; k++) {
                sum += costsim_exp(x[k * inner + i] - most);
            }
            sum = costsim_log(sum);
            for (k = 0; k < size; k++) {
                y[k * inner + i] = x[k * inner + i] - most - sum;
            }
        }
    }
}

void costsim_log_softmax_input_gradient(int32_t outer, int32_t size, int32_t inner, const float *y,
                                        const float *dy, float *dx) {
    int32_t n, i, k;
    for (n = 0; n < outer; n++, y += size * inner, dy += size * inner, dx += size * inner) {
        for (i = 0; i < inner; i++) {
            float sum = 0;
            for (k = 0; k < size; k++) {
                sum += dy[k * inner + i];
            }
            for (k = 0; k < size; k++) {
                dx[k * inner + i] = dy[k * inner + i] - costsim_exp(y[k * inner + i]) * sum;
            }
        }
    }
}

/* Forward in 8-bit integers, backward in floats. */

/* Whether the FPU of the core rounds to integers, as it rounds sums: to the nearest, halves to even. */
#if COSTSIM_SIMD && defined(__ARM_FP)
#define COSTSIM_ROUNDS ((__ARM_FP & 4) != 0)
#else
#define COSTSIM_ROUNDS 0
#endif

/* To the nearest integer, halves to even, for sizes below 2^22. */
COSTSIM_INLINE int32_t costsim_round(float x) {
#if COSTSIM_ROUNDS
    float rounded;
    int32_t result;
    __asm__("vcvtr.s32.f32 %0, %1" : "=t"(rounded) : "t"(x));
    __asm__("vmov %0, %1" : "=r"(result) : "t"(rounded));
    return result;
#else
    const float shift = 12582912.0f; /* 1.5 * 2^23: leaves no bits behind the point */
    return (int32_t)((x + shift) - shift);
#endif
}

COSTSIM_INLINE int8_t costsim_saturated(float x, int32_t zero) {
#if COSTSIM_ROUNDS
    int32_t q = costsim_round(x); /* saturates, and so do the next two */
    __asm__("qadd %0, %0, %1" : "+r"(q) : "r"(zero));
    __asm__("ssat %0, #8, %0" : "+r"(q));
    return (int8_t)q;
#else
    int32_t q = x > 1024.0f ? 1024 : x < -1024.0f ? -1024 : costsim_round(x);
    q += zero;
    return (int8_t)(q > 127 ? 127 : q < -128 ? -128 : q);
#endif
}

/* a + b, or the end of 32 bits it is beyond: biases of channels with tiny scales lie there. */
COSTSIM_INLINE int32_t costsim_q_sum(int32_t a, int32_t b) {
#if COSTSIM_SIMD
    int32_t sum;
    __asm__("qadd %0, %1, %2" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
#else
    const int64_t sum = (int64_t)a + b;
    return sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : (int32_t)sum;
#endif
}

void costsim_q_quantise(int32_t count, float scale, int32_t zero, const float *x, int8_t *y) {
    int32_t i;
    for (i = 0; i < count; i++) {
        y[i] = costsim_saturated(x[i] / scale, zero);
    }
}

void costsim_q_dequantise(int32_t count, float scale, int32_t zero, const int8_t *x, float *y) {
    int32_t i;
    for (i = 0; i < count; i++) {
        y[i] = scale * (float)(x[i] - zero);
    }
}

void costsim_q_clamp(int32_t count, int32_t low, int32_t high, const int8_t *x, int8_t *y,
                     uint8_t *mask) {
    int32_t i, j;
    for (i = 0; i < count; i += 8) {
        const int32_t some = count - i < 8 ? count - i : 8;
        int bits = 0;
        for (j = 0; j < some; j++) {
            const int32_t v = x[i + j];
            if (v > low && v < high) {
                bits |= 0x80 >> j;
            }
            y[i + j] = (int8_t)(v < low ? low : v > high ? high : v);
        }
        if (mask) {
            *mask++ = (uint8_t)bits;
        }
    }
}

void costsim_q_add(int32_t count, float a_factor, int32_t a_zero, float b_factor, int32_t b_zero,
                   int32_t y_zero, const int8_t *a, const int8_t *b, int8_t *y) {
    int32_t i;
    for (i = 0; i < count; i++) {
        y[i] = costsim_saturated(
            (float)(a[i] - a_zero) * a_factor + (float)(b[i] - b_zero) * b_factor, y_zero);
    }
}

void costsim_q_mean(int32_t rows, int32_t size, float factor, int32_t x_zero, int32_t y_zero,
                    const int8_t *x, int8_t *y) {
    int32_t r, i;
    for (r = 0; r < rows; r++, x += size) {
        int32_t sum = 0;
        for (i = 0; i < size; i++) {
            sum += x[i] - x_zero;
        }
        y[r] = costsim_saturated((float)sum * factor, y_zero);
    }
}

void costsim_q_max_pool(const costsim_window *w, const int8_t *x, int8_t *y, uint8_t *places) {
    int32_t n, q0, q1, q2, t0, t1, t2;
    for (n = 0; n < w->samples; n++, x += costsim_pixels(w->size)) {
        for (q0 = 0; q0 < w->out[0]; q0++) {
            const costsim_span s0 = costsim_taps(w, 0, q0);
            for (q1 = 0; q1 < w->out[1]; q1++) {
                const costsim_span s1 = costsim_taps(w, 1, q1);
                for (q2 = 0; q2 < w->out[2]; q2++) {
                    const costsim_span s2 = costsim_taps(w, 2, q2);
                    int32_t most = -129, place = 0;
                    for (t0 = s0.low; t0 < s0.high; t0++) {
                        for (t1 = s1.low; t1 < s1.high; t1++) {
                            const int32_t p0 = s0.start + t0 * w->dilation[0];
                            const int32_t p1 = s1.start + t1 * w->dilation[1];
                            const int8_t *from =
                                x + (p0 * w->size[1] + p1) * w->size[2] + s2.start;
                            for (t2 = s2.low; t2 < s2.high; t2++) {
                                const int32_t v = from[t2 * w->dilation[2]];
                                if (v > most) {
                                    most = v;
                                    place = (t0 * w->kernel[1] + t1) * w->kernel[2] + t2;
                                }
                            }
                        }
                    }
                    *y++ = (int8_t)most;
                    if (places) {
                        *places++ = (uint8_t)place;
                    }
                }
            }
        }
    }
}

void costsim_q_average_pool(const costsim_window *w, costsim_mean how, float ratio, int32_t x_zero,
                            int32_t y_zero, const int8_t *x, int8_t *y) {
    int32_t n, q0, q1, q2, p0, p1, p2, c0, c1, c2;
    for (n = 0; n < w->samples; n++, x += costsim_pixels(w->size)) {
        for (q0 = 0; q0 < w->out[0]; q0++) {
            const costsim_span s0 = costsim_averaged(w, how, 0, q0, &c0);
            for (q1 = 0; q1 < w->out[1]; q1++) {
                const costsim_span s1 = costsim_averaged(w, how, 1, q1, &c1);
                for (q2 = 0; q2 < w->out[2]; q2++) {
                    const costsim_span s2 = costsim_averaged(w, how, 2, q2, &c2);
                    int32_t sum = 0;
                    for (p0 = s0.low; p0 < s0.high; p0++) {
                        for (p1 = s1.low; p1 < s1.high; p1++) {
                            const int8_t *from = x + (p0 * w->size[1] + p1) * w->size[2];
                            for (p2 = s2.low; p2 < s2.high; p2++) {
                                sum += from[p2] - x_zero;
                            }
                        }
                    }
                    *y++ = costsim_saturated((float)sum * ratio / (float)(c0 * c1 * c2), y_zero);
                }
            }
        }
    }
}

void costsim_q_keep(int32_t outer, int32_t channels, int32_t inner, const costsim_channel *kept,
                    int32_t count, const int8_t *x, int8_t *y) {
    int32_t n, j;
    for (n = 0; n < outer; n++, x += channels * inner) {
        for (j = 0; j < count; j++, y += inner) {
            memcpy(y, x + kept[j] * inner, (size_t)inner);
        }
    }
}

float costsim_q_cross_entropy(int32_t rows, int32_t size, float scale, float x_scale,
                              int32_t x_zero, const int8_t *x, const int32_t *labels, float *dx) {
    float loss = 0;
    int32_t r, k;
    (void)x_zero; /* only differences count */
    for (r = 0; r < rows; r++, x += size) {
        int32_t most = x[0];
        float sum = 0;
        for (k = 1; k < size; k++) {
            most = x[k] > most ? x[k] : most;
        }
        for (k = 0; k < size; k++) {
            sum += costsim_exp((float)(x[k] - most) * x_scale);
        }
        loss += costsim_log(sum) - (float)(x[labels[r]] - most) * x_scale;
        for (k = 0; dx && k < size; k++) {
            const float p = costsim_exp((float)(x[k] - most) * x_scale) / sum;
            *dx++ = (k == labels[r] ? p - 1.0f : p) * scale;
        }
    }
    return loss / (float)rows;
}

static float costsim_q_step(float momentum, float gradient, float *state, int32_t i) {
    if (!state) {
        return gradient;
    }
    state[i] = momentum * state[i] + gradient;
    return state[i];
}

/* A number that looks drawn from between -1/2 and 1/2: what is rounded after it is added is right on
 * average, so that changes of less than half a unit add up over steps. Without a change nothing moves:
 * it is never so near to a half that the sum would be rounded to it. */
static float costsim_dither(uint32_t number) {
    number = (number ^ (number >> 16)) * 0x7feb352du;
    number = (number ^ (number >> 15)) * 0x846ca68bu;
    number ^= number >> 16;
    return (float)(int32_t)(number >> 16) * (1.0f / 65536.0f) - (0.5f - 1.0f / 131072.0f);
}

void costsim_q_descend(const costsim_block *blocks, int32_t count, int32_t taps, float rate,
                       float momentum, const float *scales, uint32_t number, const float *dw,
                       int8_t *weight, float *state) {
    int32_t b, m, j, i = 0;
    for (b = 0; b < count; b++) {
        for (m = 0; m < blocks[b].n_outs; m++) {
            const float scale = scales[blocks[b].first_out + costsim_number(blocks[b].outs, m)];
            for (j = 0; j < blocks[b].n_ins * taps; j++, i++) {
                const float change = rate * costsim_q_step(momentum, dw[i], state, i) / scale;
                const float moved = (float)weight[i] - change;
                weight[i] = costsim_saturated(moved + costsim_dither(number + (uint32_t)i), 0);
            }
        }
    }
}

void costsim_q_descend_bias(int32_t count, float rate, float momentum, float x_scale,
                            const float *scales, const float *db, int32_t *bias, float *state) {
    int32_t i;
    for (i = 0; i < count; i++) {
        const float change =
            rate * costsim_q_step(momentum, db[i], state, i) / (x_scale * scales[i]);
        const int32_t steps = change > 4194303.0f    ? 4194303
                              : change < -4194303.0f ? -4194303
                                                     : costsim_round(change);
        bias[i] = costsim_q_sum(bias[i], -steps);
    }
}

/* Forward in 8-bit integers, backward in floats. */

/* To the nearest integer, halves to even, for sizes below 2^22. */
static int32_t costsim_round(float x) {
#if COSTSIM_SIMD && defined(__ARM_FEATURE_DIRECTED_ROUNDING)
    float rounded;
    int32_t result;
    __asm__("vcvtn.s32.f32 %0, %1" : "=t"(rounded) : "t"(x));
    __asm__("vmov %0, %1" : "=r"(result) : "t"(rounded));
    return result;
#else
    const float shift = 12582912.0f; /* 1.5 * 2^23: leaves no bits behind the point */
    return (int32_t)((x + shift) - shift);
#endif
}

static int8_t costsim_saturated(float x, int32_t zero) {
#if COSTSIM_SIMD && defined(__ARM_FEATURE_DIRECTED_ROUNDING)
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
static int32_t costsim_q_sum(int32_t a, int32_t b) {
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

/* Four products at a time: bytes 0 and 2 of w with the halves of `even`, bytes 1 and 3 with those of
 * `odd`. Integers: the instructions of the DSP extension and plain C give the same. */
#if COSTSIM_SIMD
COSTSIM_INLINE int32_t costsim_q_four(int32_t sum, const int8_t *w, int32_t even, int32_t odd) {
    int32_t bytes, half;
    __builtin_memcpy(&bytes, w, 4);
    __asm__("sxtb16 %0, %1" : "=r"(half) : "r"(bytes));
    __asm__("smlad %0, %1, %2, %3" : "=r"(sum) : "r"(half), "r"(even), "r"(sum));
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(half) : "r"(bytes));
    __asm__("smlad %0, %1, %2, %3" : "=r"(sum) : "r"(half), "r"(odd), "r"(sum));
    return sum;
}

COSTSIM_INLINE int32_t costsim_q_pair(int32_t low, int32_t high) {
    return (int32_t)(((uint32_t)low & 0xffffu) | ((uint32_t)high << 16));
}
#endif

/* The sums of `width` outputs (1 or 4) of one pixel for windows of one tap: x lies at `from` and
 * every `plane` on. */
COSTSIM_INLINE void costsim_q_point(const costsim_block *k, int32_t m, int width,
                                    const costsim_channel *ins, int32_t plane, int32_t x_zero,
                                    const int8_t *from, int32_t *sums) {
    const int32_t row = k->n_ins;
    const int8_t *with = (const int8_t *)k->weight + m * row;
    int32_t s0 = sums[0], s1 = 0, s2 = 0, s3 = 0, i = 0;
#if COSTSIM_SIMD
    const int32_t zeros = costsim_q_pair(x_zero, x_zero);
    const int8_t *w0 = with, *w1 = with + row, *w2 = with + 2 * row, *w3 = with + 3 * row;
    for (; i + 4 <= k->n_ins; i += 4) {
        int32_t even, odd;
        if (ins) {
            even = costsim_q_pair(from[ins[i] * plane], from[ins[i + 2] * plane]);
            odd = costsim_q_pair(from[ins[i + 1] * plane], from[ins[i + 3] * plane]);
        } else {
            const int8_t *next = from + i * plane;
            int32_t v0 = *next, v1 = *(next += plane), v2 = *(next += plane);
            even = costsim_q_pair(v0, v2);
            odd = costsim_q_pair(v1, *(next += plane));
        }
        __asm__("ssub16 %0, %0, %1" : "+r"(even) : "r"(zeros));
        __asm__("ssub16 %0, %0, %1" : "+r"(odd) : "r"(zeros));
        s0 = costsim_q_four(s0, w0, even, odd);
        w0 += 4;
        if (width == 4) {
            s1 = costsim_q_four(s1, w1, even, odd);
            s2 = costsim_q_four(s2, w2, even, odd);
            s3 = costsim_q_four(s3, w3, even, odd);
            w1 += 4, w2 += 4, w3 += 4;
        }
    }
    (void)w1, (void)w2, (void)w3;
#endif
    for (; i < k->n_ins; i++) {
        const int32_t v = from[costsim_number(ins, i) * plane] - x_zero;
        COSTSIM_Q_MAC(s0, with[i], v);
        if (width == 4) {
            COSTSIM_Q_MAC(s1, with[i + row], v);
            COSTSIM_Q_MAC(s2, with[i + 2 * row], v);
            COSTSIM_Q_MAC(s3, with[i + 3 * row], v);
        }
    }
    sums[0] = s0;
    if (width == 4) {
        sums[1] += s1, sums[2] += s2, sums[3] += s3;
    }
}

/* The sums of `width` outputs (1 or 4) of one pixel; x is read once for all of them. */
COSTSIM_INLINE void costsim_q_convolve(const costsim_window *w, const costsim_block *k, int32_t m,
                                       int width, const costsim_span *s, int32_t first,
                                       int32_t x_zero, const int8_t *x, int32_t *sums) {
    const int32_t taps = costsim_pixels(w->kernel), row = k->n_ins * taps;
    const int32_t plane = costsim_pixels(w->size), step = w->dilation[2];
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, i, t0, t1, t2;
    if (taps == 1) {
        if (s[0].high && s[1].high && s[2].high) { /* the tap is inside */
            const int32_t at = (s[0].start * w->size[1] + s[1].start) * w->size[2] + s[2].start;
            const int8_t *from = x + first * plane + at;
            if (k->ins) {
                costsim_q_point(k, m, width, k->ins, plane, x_zero, from, sums);
            } else {
                costsim_q_point(k, m, width, NULL, plane, x_zero, from, sums);
            }
        }
        return;
    }
    for (i = 0; i < k->n_ins; i++) {
        const int8_t *image = x + (first + costsim_number(k->ins, i)) * plane;
        const int8_t *weight = (const int8_t *)k->weight + m * row + i * taps;
        for (t0 = s[0].low; t0 < s[0].high; t0++) {
            for (t1 = s[1].low; t1 < s[1].high; t1++) {
                const int32_t p0 = s[0].start + t0 * w->dilation[0];
                const int32_t p1 = s[1].start + t1 * w->dilation[1];
                const int8_t *from = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
                const int8_t *with = weight + (t0 * w->kernel[1] + t1) * w->kernel[2];
                for (t2 = s[2].low; t2 < s[2].high; t2++) {
                    const int32_t v = from[t2 * step] - x_zero;
                    COSTSIM_Q_MAC(s0, with[t2], v);
                    if (width == 4) {
                        COSTSIM_Q_MAC(s1, with[t2 + row], v);
                        COSTSIM_Q_MAC(s2, with[t2 + 2 * row], v);
                        COSTSIM_Q_MAC(s3, with[t2 + 3 * row], v);
                    }
                }
            }
        }
    }
    sums[0] += s0;
    if (width == 4) {
        sums[1] += s1, sums[2] += s2, sums[3] += s3;
    }
}

/* The same for windows of one tap that are everywhere inside, pixel by pixel. */
static void costsim_q_points(const costsim_window *w, const costsim_block *k, int32_t blocks,
                             const int32_t *bias, const float *factors, int32_t x_zero,
                             int32_t y_zero, const int8_t *x, int8_t *y) {
    const int32_t pixels = costsim_pixels(w->out);
    int32_t m, j, b, q, width;
    for (m = 0; m < k->n_outs; m += width) {
        int32_t start[4] = {0, 0, 0, 0};
        float factor[4] = {0, 0, 0, 0};
        int8_t *to[4] = {y, y, y, y};
        width = k->n_outs - m < 4 ? 1 : 4;
        for (j = 0; j < width; j++) {
            const int32_t o = k->first_out + costsim_number(k->outs, m + j);
            start[j] = bias ? bias[o] : 0;
            factor[j] = factors[o];
            to[j] = y + o * pixels;
        }
        for (q = 0; q < pixels; q++) {
            int32_t sums[4] = {0, 0, 0, 0};
            for (b = 0; b < blocks; b++) {
                const int8_t *from = x + k[b].first_in * pixels + q;
                if (width != 4) {
                    costsim_q_point(k + b, m, 1, k[b].ins, pixels, x_zero, from, sums);
                } else if (k[b].ins) {
                    costsim_q_point(k + b, m, 4, k[b].ins, pixels, x_zero, from, sums);
                } else {
                    costsim_q_point(k + b, m, 4, NULL, pixels, x_zero, from, sums);
                }
            }
            for (j = 0; j < width; j++) {
                const int32_t sum = costsim_q_sum(sums[j], start[j]);
                to[j][q] = costsim_saturated((float)sum * factor[j], y_zero);
            }
        }
    }
}

/* The sums over `rows` rows of `columns` taps for `count` (1 or 4) outputs side by side; `step` lies
 * between them in x, `row` and `w_row` between rows. The zero is taken off at the end. */
COSTSIM_INLINE void costsim_q_taps(int count, int32_t rows, int32_t columns, int32_t reach,
                                   int32_t step, int32_t row, int32_t w_row, int32_t x_zero,
                                   const int8_t *with, const int8_t *from, int32_t *sums) {
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, all = 0, r, t;
    for (r = 0; r < rows; r++) {
#if defined(__clang__)
#pragma unroll
#elif defined(__GNUC__)
#pragma GCC unroll 8
#endif
        for (t = 0; t < columns; t++) {
            const int32_t v = with[t];
            all += v;
            COSTSIM_Q_MAC(s0, v, from[t * reach]);
            if (count == 4) {
                COSTSIM_Q_MAC(s1, v, from[t * reach + step]);
                COSTSIM_Q_MAC(s2, v, from[t * reach + 2 * step]);
                COSTSIM_Q_MAC(s3, v, from[t * reach + 3 * step]);
            }
        }
        from += row;
        with += w_row;
    }
    all *= x_zero;
    sums[0] += s0 - all;
    if (count == 4) {
        sums[1] += s1 - all, sums[2] += s2 - all, sums[3] += s3 - all;
    }
}

/* The same for windows whose columns are a constant and are all inside. */
static void costsim_q_quad(int32_t columns, int32_t rows, int32_t reach, int32_t step, int32_t row,
                           int32_t x_zero, const int8_t *with, const int8_t *from, int32_t *sums) {
    const int32_t k = columns;
    if (reach == 1 && step == 1 && k == 3) {
        costsim_q_taps(4, rows, 3, 1, 1, row, 3, x_zero, with, from, sums);
    } else if (reach == 1 && step == 1 && k == 5) {
        costsim_q_taps(4, rows, 5, 1, 1, row, 5, x_zero, with, from, sums);
    } else if (reach == 1 && step == 1 && k == 7) {
        costsim_q_taps(4, rows, 7, 1, 1, row, 7, x_zero, with, from, sums);
    } else if (reach == 1 && step == 2 && k == 3) {
        costsim_q_taps(4, rows, 3, 1, 2, row, 3, x_zero, with, from, sums);
    } else if (reach == 1 && step == 2 && k == 5) {
        costsim_q_taps(4, rows, 5, 1, 2, row, 5, x_zero, with, from, sums);
    } else if (reach == 1 && step == 2 && k == 7) {
        costsim_q_taps(4, rows, 7, 1, 2, row, 7, x_zero, with, from, sums);
    } else {
        costsim_q_taps(4, rows, k, reach, step, row, k, x_zero, with, from, sums);
    }
}

static void costsim_q_depthwise(const costsim_window *w, const costsim_block *k,
                                const int32_t *bias, const float *factors, int32_t x_zero,
                                int32_t y_zero, const int8_t *x, int8_t *y) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out), step = w->stride[2], reach = w->dilation[2];
    const int32_t columns = w->kernel[2], wide = w->out[2], row = w->dilation[1] * w->size[2];
    const int32_t inside = costsim_places(w, 2, 0).low;
    const int32_t until = costsim_places(w, 2, columns - 1).high;
    int32_t m, q0, q1, q2, t0, j, count;
    for (m = 0; m < k->n_outs; m++) {
        const int32_t o = k->first_out + costsim_number(k->outs, m);
        const int32_t start = bias ? bias[o] : 0;
        const int8_t *weight = (const int8_t *)k->weight + m * taps, *image = x + o * plane;
        const float factor = factors[o];
        int8_t *to = y + o * pixels;
        for (q0 = 0; q0 < w->out[0]; q0++) {
            const costsim_span s0 = costsim_taps(w, 0, q0);
            for (q1 = 0; q1 < w->out[1]; q1++) {
                const costsim_span s1 = costsim_taps(w, 1, q1);
                const int32_t rows = s1.high - s1.low;
                const int32_t at = (s1.start + s1.low * w->dilation[1]) * w->size[2];
                const int32_t image_step = w->dilation[0] * w->size[1] * w->size[2];
                const int32_t image_at = s0.start * w->size[1] * w->size[2] + at;
                for (q2 = 0; q2 < wide; q2 += count) {
                    const costsim_span s2 = costsim_taps(w, 2, q2);
                    int32_t sums[4] = {0, 0, 0, 0};
                    count = q2 >= inside && q2 + 4 <= until ? 4 : 1;
                    for (t0 = s0.low; t0 < s0.high; t0++) {
                        const int8_t *from =
                            image + image_at + t0 * image_step + s2.start + s2.low * reach;
                        const int8_t *with =
                            weight + (t0 * w->kernel[1] + s1.low) * columns + s2.low;
                        if (count == 4) {
                            costsim_q_quad(columns, rows, reach, step, row, x_zero, with, from,
                                           sums);
                        } else {
                            costsim_q_taps(1, rows, s2.high - s2.low, reach, step, row, columns,
                                           x_zero, with, from, sums);
                        }
                    }
                    for (j = 0; j < count; j++) {
                        const int32_t sum = costsim_q_sum(sums[j], start);
                        *to++ = costsim_saturated((float)sum * factor, y_zero);
                    }
                }
            }
        }
    }
}

/* All outputs of a block and of those after it that add to the same outputs. */
static void costsim_q_convolve_blocks(const costsim_window *w, const costsim_block *k,
                                      int32_t blocks, const int32_t *bias, const float *factors,
                                      int32_t x_zero, int32_t y_zero, const int8_t *x, int8_t *y) {
    const int32_t pixels = costsim_pixels(w->out);
    int32_t q0, q1, q2, m, j, b, q = 0;
    for (q0 = 0; q0 < w->out[0]; q0++) {
        for (q1 = 0; q1 < w->out[1]; q1++) {
            for (q2 = 0; q2 < w->out[2]; q2++, q++) {
                costsim_span s[3];
                s[0] = costsim_taps(w, 0, q0);
                s[1] = costsim_taps(w, 1, q1);
                s[2] = costsim_taps(w, 2, q2);
                for (m = 0; m < k->n_outs;) {
                    const int32_t width = k->n_outs - m < 4 ? 1 : 4;
                    int32_t sums[4] = {0, 0, 0, 0};
                    for (b = 0; b < blocks; b++) {
                        if (width == 4) {
                            costsim_q_convolve(w, k + b, m, 4, s, k[b].first_in, x_zero, x, sums);
                        } else {
                            costsim_q_convolve(w, k + b, m, 1, s, k[b].first_in, x_zero, x, sums);
                        }
                    }
                    for (j = 0; j < width; j++, m++) {
                        const int32_t o = k->first_out + costsim_number(k->outs, m);
                        const int32_t sum = costsim_q_sum(sums[j], bias ? bias[o] : 0);
                        y[o * pixels + q] = costsim_saturated((float)sum * factors[o], y_zero);
                    }
                }
            }
        }
    }
}

void costsim_q_convolution_forward(const costsim_window *w, const costsim_block *blocks,
                                   int32_t count, int depthwise, const int32_t *bias,
                                   const float *factors, int32_t x_zero, int32_t y_zero,
                                   const int8_t *x, int8_t *y) {
    const int plain = costsim_pixels(w->kernel) == 1 && w->stride[0] == 1 && w->stride[1] == 1 &&
                      w->stride[2] == 1 && !(w->padding[0] | w->padding[1] | w->padding[2]);
    int32_t n, i, more;
    for (n = 0; n < w->samples; n++) {
        const int8_t *image = x + n * w->inputs * costsim_pixels(w->size);
        int8_t *to = y + n * w->outputs * costsim_pixels(w->out);
        for (i = 0; i < count; i += more) {
            const costsim_block *k = blocks + i;
            for (more = 1; i + more < count && k[more].adds_output; more++) {
            }
            if (depthwise) {
                costsim_q_depthwise(w, k, bias, factors, x_zero, y_zero, image, to);
            } else if (plain) {
                costsim_q_points(w, k, more, bias, factors, x_zero, y_zero, image, to);
            } else {
                costsim_q_convolve_blocks(w, k, more, bias, factors, x_zero, y_zero, image, to);
            }
        }
    }
}

/* One tap of one input channel: to what dx holds, the sums over `outs` output channels. */
static void costsim_q_spread(const costsim_window *w, const costsim_block *k, int32_t from_m,
                             int32_t outs, const int8_t *weight, int32_t row, const float *scales,
                             const costsim_span *s, const float *dy, float *image) {
    const int32_t pixels = costsim_pixels(w->out);
    int32_t q0, q1, q2, m;
    for (q0 = s[0].low; q0 < s[0].high; q0++) {
        for (q1 = s[1].low; q1 < s[1].high; q1++) {
            const int32_t p0 = s[0].start + q0 * w->stride[0];
            const int32_t p1 = s[1].start + q1 * w->stride[1];
            float *to = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
            const float *from = dy + (q0 * w->out[1] + q1) * w->out[2];
            for (q2 = s[2].low; q2 < s[2].high;) {
                const int32_t width = s[2].high - q2 < 4 ? 1 : 4;
                float a = 0, b = 0, c = 0, d = 0;
                for (m = from_m; m < from_m + outs; m++) {
                    const int32_t o = k->first_out + costsim_number(k->outs, m);
                    const float v = (float)weight[m * row] * scales[o];
                    const float *g = from + o * pixels + q2;
                    COSTSIM_MAC(a, v, g[0]);
                    if (width == 4) {
                        COSTSIM_MAC(b, v, g[1]);
                        COSTSIM_MAC(c, v, g[2]);
                        COSTSIM_MAC(d, v, g[3]);
                    }
                }
                to[q2 * w->stride[2]] += a;
                if (width == 4) {
                    to[(q2 + 1) * w->stride[2]] += b;
                    to[(q2 + 2) * w->stride[2]] += c;
                    to[(q2 + 3) * w->stride[2]] += d;
                }
                q2 += width;
            }
        }
    }
}

void costsim_q_convolution_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                          int32_t count, int depthwise, const float *scales,
                                          const float *dy, float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t image = w->inputs * plane, dy_image = w->outputs * costsim_pixels(w->out);
    const int turns = depthwise && w->stride[0] == 1 && w->stride[1] == 1 && w->stride[2] == 1 &&
                      taps <= COSTSIM_TURNED;
    const costsim_window back = costsim_turned(w);
    int32_t n, block, i, t0, t1, t2;
    costsim_fill(w->samples * image, 0.0f, dx);
    for (n = 0; n < w->samples; n++) {
        for (block = 0; block < count; block++) {
            const costsim_block *k = blocks + block;
            const int32_t row = k->n_ins * taps, inputs = depthwise ? k->n_outs : k->n_ins;
            for (i = 0; i < inputs; i++) {
                const int8_t *weight = (const int8_t *)k->weight + (depthwise ? 0 : i * taps);
                const int32_t c = k->first_in + costsim_number(k->ins, i);
                if (turns) { /* the correlation with the kernel turned round */
                    const int32_t o = k->first_out + costsim_number(k->outs, i);
                    float turned[COSTSIM_TURNED];
                    for (t0 = 0; t0 < taps; t0++) {
                        turned[t0] = (float)weight[i * taps + taps - 1 - t0] * scales[o];
                    }
                    costsim_depthwise_plane(&back, turned,
                                            dy + n * dy_image + o * costsim_pixels(w->out),
                                            dx + n * image + c * plane);
                    continue;
                }
                for (t0 = 0; t0 < w->kernel[0]; t0++) {
                    for (t1 = 0; t1 < w->kernel[1]; t1++) {
                        for (t2 = 0; t2 < w->kernel[2]; t2++, weight++) {
                            costsim_span s[3];
                            s[0] = costsim_places(w, 0, t0);
                            s[1] = costsim_places(w, 1, t1);
                            s[2] = costsim_places(w, 2, t2);
                            costsim_q_spread(w, k, depthwise ? i : 0, depthwise ? 1 : k->n_outs,
                                             weight, row, scales, s, dy + n * dy_image,
                                             dx + n * image + c * plane);
                        }
                    }
                }
            }
        }
    }
}

/* `width` output channels (1 or 4) of one input channel and tap. */
COSTSIM_INLINE void costsim_q_correlate(const costsim_window *w, const costsim_span *s, int width,
                                        int32_t x_zero, const float *const *dy, const int8_t *x,
                                        float *sums) {
    const int32_t step = w->stride[2];
    float a = 0, b = 0, c = 0, d = 0;
    int32_t n, q0, q1, q2;
    for (n = 0; n < w->samples; n++) {
        const int32_t dy_image = n * w->outputs * costsim_pixels(w->out);
        const int8_t *image = x + n * w->inputs * costsim_pixels(w->size);
        for (q0 = s[0].low; q0 < s[0].high; q0++) {
            for (q1 = s[1].low; q1 < s[1].high; q1++) {
                const int32_t p0 = s[0].start + q0 * w->stride[0];
                const int32_t p1 = s[1].start + q1 * w->stride[1];
                const int32_t at = dy_image + (q0 * w->out[1] + q1) * w->out[2];
                const int8_t *from = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
                const float *g0 = dy[0] + at, *g1 = dy[1] + at, *g2 = dy[2] + at, *g3 = dy[3] + at;
                for (q2 = s[2].low; q2 < s[2].high; q2++) {
                    const float v = (float)(from[q2 * step] - x_zero);
                    COSTSIM_MAC(a, g0[q2], v);
                    if (width == 4) {
                        COSTSIM_MAC(b, g1[q2], v);
                        COSTSIM_MAC(c, g2[q2], v);
                        COSTSIM_MAC(d, g3[q2], v);
                    }
                }
            }
        }
    }
    sums[0] = a;
    if (width == 4) {
        sums[1] = b, sums[2] = c, sums[3] = d;
    }
}

void costsim_q_convolution_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                           int32_t count, int depthwise, float x_scale,
                                           int32_t x_zero, const float *dy, const int8_t *x,
                                           float *dw) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t block, m, i, j, t0, t1, t2;
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        const int32_t row = k->n_ins * taps;
        for (m = 0; m < k->n_outs;) {
            const int32_t width = depthwise || k->n_outs - m < 4 ? 1 : 4;
            const float *g[4];
            for (j = 0; j < 4; j++) {
                const int32_t o = costsim_number(k->outs, j < width ? m + j : m);
                g[j] = dy + (k->first_out + o) * pixels;
            }
            for (i = 0; i < k->n_ins; i++) {
                const int32_t c = k->first_in + costsim_number(k->ins, depthwise ? m : i);
                float *to = dw + m * row + i * taps;
                for (t0 = 0; t0 < w->kernel[0]; t0++) {
                    for (t1 = 0; t1 < w->kernel[1]; t1++) {
                        for (t2 = 0; t2 < w->kernel[2]; t2++, to++) {
                            costsim_span s[3];
                            float sums[4];
                            s[0] = costsim_places(w, 0, t0);
                            s[1] = costsim_places(w, 1, t1);
                            s[2] = costsim_places(w, 2, t2);
                            if (width == 4) {
                                costsim_q_correlate(w, s, 4, x_zero, g, x + c * plane, sums);
                            } else {
                                costsim_q_correlate(w, s, 1, x_zero, g, x + c * plane, sums);
                            }
                            for (j = 0; j < width; j++) {
                                to[j * row] = sums[j] * x_scale;
                            }
                        }
                    }
                }
            }
            m += width;
        }
        dw += k->n_outs * row;
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

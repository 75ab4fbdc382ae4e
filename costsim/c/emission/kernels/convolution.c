/* Convolutions with windows: dense or grouped, and depthwise. */

/* The places p in [0, count) with 0 <= start + p * step < size. */
COSTSIM_INLINE void costsim_inside(int32_t start, int32_t step, int32_t count, int32_t size,
                                   int32_t *low, int32_t *high) {
    if (step == 1) {
        *low = start < 0 ? -start : 0;
        *high = size - start;
    } else {
        *low = start < 0 ? (step - 1 - start) / step : 0;
        *high = start < size ? (size - start + step - 1) / step : 0;
    }
    *high = *high > 0 ? *high : 0;
    *high = *high < count ? *high : count;
    *low = *low < *high ? *low : *high;
}

/* Of a window at output position q: where it starts in the input, and the taps inside. */
typedef struct {
    int32_t start, low, high;
} costsim_span;

COSTSIM_INLINE costsim_span costsim_taps(const costsim_window *w, int d, int32_t q) {
    costsim_span s;
    s.start = q * w->stride[d] - w->padding[d];
    costsim_inside(s.start, w->dilation[d], w->kernel[d], w->size[d], &s.low, &s.high);
    return s;
}

/* Of one tap: the output positions whose input for it is there. */
COSTSIM_INLINE costsim_span costsim_places(const costsim_window *w, int d, int32_t tap) {
    costsim_span s;
    s.start = tap * w->dilation[d] - w->padding[d];
    costsim_inside(s.start, w->stride[d], w->out[d], w->size[d], &s.low, &s.high);
    return s;
}

/* `width` outputs (1 or 4) of one pixel: x is read once for all of them. */
COSTSIM_INLINE void costsim_convolve(const costsim_window *w, const costsim_block *k, int32_t m,
                                     int width, const costsim_span *s, const float *x,
                                     float *sums) {
    const int32_t taps = costsim_pixels(w->kernel), row = k->n_ins * taps;
    const int32_t plane = costsim_pixels(w->size), step = w->dilation[2];
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int32_t i, t0, t1, t2;
    for (i = 0; i < k->n_ins; i++) {
        const float *image = x + (k->first_in + costsim_number(k->ins, i)) * plane;
        const float *weight = (const float *)k->weight + m * row + i * taps;
        for (t0 = s[0].low; t0 < s[0].high; t0++) {
            for (t1 = s[1].low; t1 < s[1].high; t1++) {
                const int32_t p0 = s[0].start + t0 * w->dilation[0];
                const int32_t p1 = s[1].start + t1 * w->dilation[1];
                const float *from = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
                const float *with = weight + (t0 * w->kernel[1] + t1) * w->kernel[2];
                for (t2 = s[2].low; t2 < s[2].high; t2++) {
                    const float v = from[t2 * step];
                    COSTSIM_MAC(s0, with[t2], v);
                    if (width == 4) {
                        COSTSIM_MAC(s1, with[t2 + row], v);
                        COSTSIM_MAC(s2, with[t2 + 2 * row], v);
                        COSTSIM_MAC(s3, with[t2 + 3 * row], v);
                    }
                }
            }
        }
    }
    sums[0] = s0;
    if (width == 4) {
        sums[1] = s1, sums[2] = s2, sums[3] = s3;
    }
}

static void costsim_convolve_block(const costsim_window *w, const costsim_block *k,
                                   const float *bias, const float *x, float *y) {
    const int32_t pixels = costsim_pixels(w->out);
    int32_t q0, q1, q2, m, j, q = 0;
    for (q0 = 0; q0 < w->out[0]; q0++) {
        for (q1 = 0; q1 < w->out[1]; q1++) {
            for (q2 = 0; q2 < w->out[2]; q2++, q++) {
                costsim_span s[3];
                s[0] = costsim_taps(w, 0, q0);
                s[1] = costsim_taps(w, 1, q1);
                s[2] = costsim_taps(w, 2, q2);
                for (m = 0; m < k->n_outs;) {
                    float sums[4];
                    const int32_t width = k->n_outs - m < 4 ? 1 : 4;
                    if (width == 4) {
                        costsim_convolve(w, k, m, 4, s, x, sums);
                    } else {
                        costsim_convolve(w, k, m, 1, s, x, sums);
                    }
                    for (j = 0; j < width; j++, m++) {
                        const int32_t o = k->first_out + costsim_number(k->outs, m);
                        float *to = y + o * pixels + q;
                        *to = (k->adds_output ? *to : bias ? bias[o] : 0.0f) + sums[j];
                    }
                }
            }
        }
    }
}

void costsim_convolution_forward(const costsim_window *w, const costsim_block *blocks,
                                 int32_t count, const float *bias, const float *x, float *y) {
    int32_t n, i;
    for (n = 0; n < w->samples; n++) {
        for (i = 0; i < count; i++) {
            costsim_convolve_block(w, blocks + i, bias,
                                   x + n * w->inputs * costsim_pixels(w->size),
                                   y + n * w->outputs * costsim_pixels(w->out));
        }
    }
}

/* Every output's gradient goes to the inputs it came from; a sum over the outputs at a time. */
static void costsim_spread_block(const costsim_window *w, const costsim_block *k, const float *dy,
                                 float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), row = k->n_ins * taps;
    const int32_t plane = costsim_pixels(w->size), pixels = costsim_pixels(w->out);
    int32_t i, t0, t1, t2, q0, q1, q2, m;
    for (i = 0; i < k->n_ins; i++) {
        float *image = dx + (k->first_in + costsim_number(k->ins, i)) * plane;
        const float *weight = (const float *)k->weight + i * taps;
        for (t0 = 0; t0 < w->kernel[0]; t0++) {
            const costsim_span s0 = costsim_places(w, 0, t0);
            for (t1 = 0; t1 < w->kernel[1]; t1++) {
                const costsim_span s1 = costsim_places(w, 1, t1);
                for (t2 = 0; t2 < w->kernel[2]; t2++, weight++) {
                    const costsim_span s2 = costsim_places(w, 2, t2);
                    for (q0 = s0.low; q0 < s0.high; q0++) {
                        for (q1 = s1.low; q1 < s1.high; q1++) {
                            const int32_t p0 = s0.start + q0 * w->stride[0];
                            const int32_t p1 = s1.start + q1 * w->stride[1];
                            float *to = image + (p0 * w->size[1] + p1) * w->size[2] + s2.start;
                            const float *from = dy + k->first_out * pixels +
                                                (q0 * w->out[1] + q1) * w->out[2];
                            for (q2 = s2.low; q2 + 4 <= s2.high; q2 += 4) {
                                float a = 0, b = 0, c = 0, d = 0;
                                for (m = 0; m < k->n_outs; m++) {
                                    const float *g =
                                        from + costsim_number(k->outs, m) * pixels + q2;
                                    const float v = weight[m * row];
                                    COSTSIM_MAC(a, v, g[0]);
                                    COSTSIM_MAC(b, v, g[1]);
                                    COSTSIM_MAC(c, v, g[2]);
                                    COSTSIM_MAC(d, v, g[3]);
                                }
                                to[q2 * w->stride[2]] += a;
                                to[(q2 + 1) * w->stride[2]] += b;
                                to[(q2 + 2) * w->stride[2]] += c;
                                to[(q2 + 3) * w->stride[2]] += d;
                            }
                            for (; q2 < s2.high; q2++) {
                                float a = 0;
                                for (m = 0; m < k->n_outs; m++) {
                                    COSTSIM_MAC(a, weight[m * row],
                                                from[costsim_number(k->outs, m) * pixels + q2]);
                                }
                                to[q2 * w->stride[2]] += a;
                            }
                        }
                    }
                }
            }
        }
    }
}

void costsim_convolution_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                        int32_t count, const float *dy, float *dx) {
    const int32_t image = w->inputs * costsim_pixels(w->size);
    int32_t n, i;
    costsim_fill(w->samples * image, 0.0f, dx);
    for (n = 0; n < w->samples; n++) {
        for (i = 0; i < count; i++) {
            costsim_spread_block(w, blocks + i, dy + n * w->outputs * costsim_pixels(w->out),
                                 dx + n * image);
        }
    }
}

/* `width` output channels (1 or 4) of one input channel and tap: x is read once for all. */
COSTSIM_INLINE void costsim_correlate(const costsim_window *w, const costsim_span *s, int width,
                                      const float *const *dy, const float *x, float *sums) {
    const int32_t step = w->stride[2];
    float a = 0, b = 0, c = 0, d = 0;
    int32_t n, q0, q1, q2;
    for (n = 0; n < w->samples; n++) {
        const int32_t dy_image = n * w->outputs * costsim_pixels(w->out);
        const float *image = x + n * w->inputs * costsim_pixels(w->size);
        for (q0 = s[0].low; q0 < s[0].high; q0++) {
            for (q1 = s[1].low; q1 < s[1].high; q1++) {
                const int32_t p0 = s[0].start + q0 * w->stride[0];
                const int32_t p1 = s[1].start + q1 * w->stride[1];
                const int32_t at = dy_image + (q0 * w->out[1] + q1) * w->out[2];
                const float *from = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
                const float *g0 = dy[0] + at, *g1 = dy[1] + at, *g2 = dy[2] + at, *g3 = dy[3] + at;
                for (q2 = s[2].low; q2 < s[2].high; q2++) {
                    const float v = from[q2 * step];
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

void costsim_convolution_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                         int32_t count, const float *dy, const float *x,
                                         float *dw) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t block, m, i, j, t0, t1, t2;
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        const int32_t row = k->n_ins * taps;
        for (m = 0; m < k->n_outs;) {
            const int32_t width = k->n_outs - m < 4 ? 1 : 4;
            const float *g[4];
            for (j = 0; j < 4; j++) {
                const int32_t o = costsim_number(k->outs, j < width ? m + j : m);
                g[j] = dy + (k->first_out + o) * pixels;
            }
            for (i = 0; i < k->n_ins; i++) {
                const float *image = x + (k->first_in + costsim_number(k->ins, i)) * plane;
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
                                costsim_correlate(w, s, 4, g, image, sums);
                            } else {
                                costsim_correlate(w, s, 1, g, image, sums);
                            }
                            for (j = 0; j < width; j++) {
                                to[j * row] = sums[j];
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

/* Depthwise: planes of two dimensions; a third is looped over outside. */

/* One row of outputs, added to: what `taps` weights give from a row of x. `taps` and `step` are
 * constants where this is called. Columns low to high have all their taps inside. */
COSTSIM_INLINE void costsim_depthwise_row(int32_t low, int32_t high, int taps, int step,
                                          const float *weight, const float *x, float *y) {
    int32_t q;
    int t;
    for (q = low; q + 4 <= high; q += 4) {
        const float *from = x + q * step;
        float a = y[q], b = y[q + 1], c = y[q + 2], d = y[q + 3];
#if defined(__clang__)
#pragma unroll
#elif defined(__GNUC__)
#pragma GCC unroll 8
#endif
        for (t = 0; t < taps; t++) {
            const float v = weight[t];
            COSTSIM_MAC(a, v, from[t]);
            COSTSIM_MAC(b, v, from[t + step]);
            COSTSIM_MAC(c, v, from[t + 2 * step]);
            COSTSIM_MAC(d, v, from[t + 3 * step]);
        }
        y[q] = a, y[q + 1] = b, y[q + 2] = c, y[q + 3] = d;
    }
    for (; q < high; q++) {
        float a = y[q];
        for (t = 0; t < taps; t++) {
            COSTSIM_MAC(a, weight[t], x[q * step + t]);
        }
        y[q] = a;
    }
}

/* y += the correlation of one plane with one kernel, row by row. */
static void costsim_depthwise_plane(const costsim_window *w, const float *weight, const float *x,
                                    float *y) {
    const int32_t columns = w->kernel[2], step = w->stride[2], reach = w->dilation[2];
    int32_t q0, q1, q2, t0, t1, t2, low, high;
    /* Columns whose taps are all inside. */
    costsim_span first = costsim_places(w, 2, 0), last = costsim_places(w, 2, columns - 1);
    low = first.low;
    high = last.high > low ? last.high : low;
    for (q0 = 0; q0 < w->out[0]; q0++) {
        const costsim_span s0 = costsim_taps(w, 0, q0);
        for (q1 = 0; q1 < w->out[1]; q1++) {
            const costsim_span s1 = costsim_taps(w, 1, q1);
            float *to = y + (q0 * w->out[1] + q1) * w->out[2];
            for (t0 = s0.low; t0 < s0.high; t0++) {
                for (t1 = s1.low; t1 < s1.high; t1++) {
                    const int32_t p0 = s0.start + t0 * w->dilation[0];
                    const int32_t p1 = s1.start + t1 * w->dilation[1];
                    const float *from = x + (p0 * w->size[1] + p1) * w->size[2] - w->padding[2];
                    const float *with = weight + (t0 * w->kernel[1] + t1) * columns;
                    for (q2 = 0; q2 < w->out[2]; q2++) {
                        costsim_span s2;
                        float sum;
                        if (q2 == low) {
                            q2 = high;
                            if (q2 == w->out[2]) {
                                break;
                            }
                        }
                        s2 = costsim_taps(w, 2, q2);
                        sum = to[q2];
                        for (t2 = s2.low; t2 < s2.high; t2++) {
                            COSTSIM_MAC(sum, with[t2], from[q2 * step + t2 * reach]);
                        }
                        to[q2] = sum;
                    }
                    if (reach == 1 && step == 1 && columns == 3) {
                        costsim_depthwise_row(low, high, 3, 1, with, from, to);
                    } else if (reach == 1 && step == 1 && columns == 5) {
                        costsim_depthwise_row(low, high, 5, 1, with, from, to);
                    } else if (reach == 1 && step == 1 && columns == 7) {
                        costsim_depthwise_row(low, high, 7, 1, with, from, to);
                    } else if (reach == 1 && step == 2 && columns == 3) {
                        costsim_depthwise_row(low, high, 3, 2, with, from, to);
                    } else if (reach == 1 && step == 2 && columns == 5) {
                        costsim_depthwise_row(low, high, 5, 2, with, from, to);
                    } else if (reach == 1 && step == 2 && columns == 7) {
                        costsim_depthwise_row(low, high, 7, 2, with, from, to);
                    } else {
                        for (q2 = low; q2 < high; q2++) {
                            float sum = to[q2];
                            for (t2 = 0; t2 < columns; t2++) {
                                COSTSIM_MAC(sum, with[t2], from[q2 * step + t2 * reach]);
                            }
                            to[q2] = sum;
                        }
                    }
                }
            }
        }
    }
}

void costsim_depthwise_forward(const costsim_window *w, const costsim_block *blocks, int32_t count,
                               const float *bias, const float *x, float *y) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t n, block, j;
    for (n = 0; n < w->samples; n++) {
        for (block = 0; block < count; block++) {
            const costsim_block *k = blocks + block;
            for (j = 0; j < k->n_outs; j++) {
                const int32_t c = k->first_out + costsim_number(k->outs, j);
                float *to = y + (n * w->outputs + c) * pixels;
                costsim_fill(pixels, bias ? bias[c] : 0.0f, to);
                costsim_depthwise_plane(w, (const float *)k->weight + j * taps,
                                        x + (n * w->inputs + c) * plane, to);
            }
        }
    }
}

#define COSTSIM_TURNED 49

/* The window that leads from dy back to dx, of stride 1. */
static costsim_window costsim_turned(const costsim_window *w) {
    costsim_window back = *w;
    int32_t d;
    for (d = 0; d < 3; d++) {
        back.size[d] = w->out[d];
        back.out[d] = w->size[d];
        back.padding[d] = (w->kernel[d] - 1) * w->dilation[d] - w->padding[d];
    }
    return back;
}

void costsim_depthwise_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                      int32_t count, const float *dy, float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    const int turns =
        w->stride[0] == 1 && w->stride[1] == 1 && w->stride[2] == 1 && taps <= COSTSIM_TURNED;
    const costsim_window back = costsim_turned(w);
    int32_t n, block, j, t;
    costsim_fill(w->samples * w->inputs * plane, 0.0f, dx);
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        for (j = 0; j < k->n_outs; j++) {
            const int32_t c = k->first_out + costsim_number(k->outs, j);
            const float *weight = (const float *)k->weight + j * taps;
            if (turns) { /* the correlation with the kernel turned round */
                float turned[COSTSIM_TURNED];
                for (t = 0; t < taps; t++) {
                    turned[t] = weight[taps - 1 - t];
                }
                for (n = 0; n < w->samples; n++) {
                    costsim_depthwise_plane(&back, turned, dy + (n * w->outputs + c) * pixels,
                                            dx + (n * w->inputs + c) * plane);
                }
            } else {
                costsim_block one = {NULL, NULL, NULL, 1, 1, 0, 0, 0, 0};
                one.weight = weight;
                for (n = 0; n < w->samples; n++) {
                    costsim_spread_block(w, &one, dy + (n * w->outputs + c) * pixels,
                                         dx + (n * w->inputs + c) * plane);
                }
            }
        }
    }
}

/* Sums of `taps` (a constant) taps side by side over a row of positions where all are inside. */
COSTSIM_INLINE void costsim_depthwise_taps(int32_t low, int32_t high, int taps, int32_t step,
                                           const float *dy, const float *x, float *sums) {
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0;
    const float *from = x + low * step;
    int32_t q;
    for (q = low; q < high; q++, from += step) {
        const float v = dy[q];
        COSTSIM_MAC(s0, v, from[0]);
        COSTSIM_MAC(s1, v, from[1]);
        COSTSIM_MAC(s2, v, from[2]);
        if (taps > 3) {
            COSTSIM_MAC(s3, v, from[3]);
            COSTSIM_MAC(s4, v, from[4]);
        }
        if (taps > 5) {
            COSTSIM_MAC(s5, v, from[5]);
            COSTSIM_MAC(s6, v, from[6]);
        }
    }
    sums[0] += s0, sums[1] += s1, sums[2] += s2;
    if (taps > 3) {
        sums[3] += s3, sums[4] += s4;
    }
    if (taps > 5) {
        sums[5] += s5, sums[6] += s6;
    }
}

static void costsim_depthwise_correlate(const costsim_window *w, const float *dy, const float *x,
                                        float *dw) {
    const int32_t columns = w->kernel[2], step = w->stride[2];
    const int quick = w->dilation[2] == 1 && (columns == 3 || columns == 5 || columns == 7);
    const int32_t low = costsim_places(w, 2, 0).low;
    int32_t high = costsim_places(w, 2, columns - 1).high, q0, q1, q2, t0, t1, t2;
    high = high > low ? high : low;
    for (t0 = 0; t0 < w->kernel[0]; t0++) {
        const costsim_span s0 = costsim_places(w, 0, t0);
        for (t1 = 0; t1 < w->kernel[1]; t1++, dw += columns) {
            const costsim_span s1 = costsim_places(w, 1, t1);
            for (q0 = s0.low; q0 < s0.high; q0++) {
                for (q1 = s1.low; q1 < s1.high; q1++) {
                    const int32_t p0 = s0.start + q0 * w->stride[0];
                    const int32_t p1 = s1.start + q1 * w->stride[1];
                    const float *g = dy + (q0 * w->out[1] + q1) * w->out[2];
                    const float *from = x + (p0 * w->size[1] + p1) * w->size[2] - w->padding[2];
                    for (t2 = 0; t2 < columns; t2++) {
                        const costsim_span s2 = costsim_places(w, 2, t2);
                        const float *at = from + t2 * w->dilation[2];
                        float sum = dw[t2];
                        if (quick && s2.low == low && s2.high == high) {
                            continue;
                        }
                        for (q2 = s2.low; q2 < s2.high; q2++) {
                            if (quick && q2 == low) {
                                q2 = high;
                                if (q2 >= s2.high) {
                                    break;
                                }
                            }
                            COSTSIM_MAC(sum, g[q2], at[q2 * step]);
                        }
                        dw[t2] = sum;
                    }
                    if (!quick) {
                        continue;
                    }
                    if (columns == 3) {
                        costsim_depthwise_taps(low, high, 3, step, g, from, dw);
                    } else if (columns == 5) {
                        costsim_depthwise_taps(low, high, 5, step, g, from, dw);
                    } else {
                        costsim_depthwise_taps(low, high, 7, step, g, from, dw);
                    }
                }
            }
        }
    }
}

void costsim_depthwise_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                       int32_t count, const float *dy, const float *x, float *dw) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t n, block, j;
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        costsim_fill(k->n_outs * taps, 0.0f, dw);
        for (j = 0; j < k->n_outs; j++, dw += taps) {
            const int32_t c = k->first_out + costsim_number(k->outs, j);
            const int32_t kept = k->first_in + costsim_number(k->ins, j);
            for (n = 0; n < w->samples; n++) {
                costsim_depthwise_correlate(w, dy + (n * w->outputs + c) * pixels,
                                            x + (n * w->inputs + kept) * plane, dw);
            }
        }
    }
}

void costsim_bias_gradient(int32_t outer, int32_t channels, int32_t inner, const float *dy,
                           float *db) {
    int32_t n, c, i;
    costsim_fill(channels, 0.0f, db);
    for (n = 0; n < outer; n++) {
        for (c = 0; c < channels; c++) {
            float sum = 0;
            for (i = 0; i < inner; i++) {
                sum += *dy++;
            }
            db[c] += sum;
        }
    }
}

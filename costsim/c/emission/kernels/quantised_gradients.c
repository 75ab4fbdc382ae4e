/* Gradients of 8-bit convolutions and linear layers: floats of the real values. */

#define COSTSIM_WIDENED 64 /* of four channels side by side, how many elements are floats at a time */

/* 4 by `width` (4 or 1) sums, added to: of products of `depth` elements of four channels, side by
 * side in `four`, with `width` values that lie side by side every `step`, or at the rows of a list. */
COSTSIM_INLINE void costsim_q_back_tile(int width, int32_t depth, const float *four, const float *g,
                                        int32_t step, const costsim_channel *list, float *const *to) {
    float s00 = to[0][0], s10 = to[1][0], s20 = to[2][0], s30 = to[3][0];
    float s01 = 0, s02 = 0, s03 = 0, s11 = 0, s12 = 0, s13 = 0;
    float s21 = 0, s22 = 0, s23 = 0, s31 = 0, s32 = 0, s33 = 0;
    int32_t m;
    if (width == 4) {
        s01 = to[0][1], s02 = to[0][2], s03 = to[0][3], s11 = to[1][1], s12 = to[1][2];
        s13 = to[1][3], s21 = to[2][1], s22 = to[2][2], s23 = to[2][3], s31 = to[3][1];
        s32 = to[3][2], s33 = to[3][3];
    }
    for (m = 0; m < depth; m++, four += 4) {
        const float a = four[0], b = four[1], c = four[2], d = four[3];
        const float *at = list ? g + list[m] * step : g;
        float v = at[0];
        COSTSIM_MAC(s00, a, v);
        COSTSIM_MAC(s10, b, v);
        COSTSIM_MAC(s20, c, v);
        COSTSIM_MAC(s30, d, v);
        if (width == 4) {
            v = at[1];
            COSTSIM_MAC(s01, a, v);
            COSTSIM_MAC(s11, b, v);
            COSTSIM_MAC(s21, c, v);
            COSTSIM_MAC(s31, d, v);
            v = at[2];
            COSTSIM_MAC(s02, a, v);
            COSTSIM_MAC(s12, b, v);
            COSTSIM_MAC(s22, c, v);
            COSTSIM_MAC(s32, d, v);
            v = at[3];
            COSTSIM_MAC(s03, a, v);
            COSTSIM_MAC(s13, b, v);
            COSTSIM_MAC(s23, c, v);
            COSTSIM_MAC(s33, d, v);
        }
        g += list ? 0 : step;
    }
    to[0][0] = s00, to[1][0] = s10, to[2][0] = s20, to[3][0] = s30;
    if (width == 4) {
        to[0][1] = s01, to[0][2] = s02, to[0][3] = s03, to[1][1] = s11, to[1][2] = s12;
        to[1][3] = s13, to[2][1] = s21, to[2][2] = s22, to[2][3] = s23, to[3][1] = s31;
        to[3][2] = s32, to[3][3] = s33;
    }
}

/* The products of `depth` output channels with four input channels, for every pixel. */
COSTSIM_INLINE void costsim_q_back_pixels(int32_t pixels, int32_t depth, const float *four,
                                          const float *g, const costsim_channel *list,
                                          float *const *dx) {
    float *to[4];
    int32_t q, j;
    for (j = 0; j < 4; j++) {
        to[j] = dx[j];
    }
    for (q = 0; q < pixels;) {
        const int32_t width = pixels - q < 4 ? 1 : 4;
        if (width == 4) {
            costsim_q_back_tile(4, depth, four, g + q, pixels, list, to);
        } else {
            costsim_q_back_tile(1, depth, four, g + q, pixels, list, to);
        }
        q += width;
        for (j = 0; j < 4; j++) {
            to[j] += width;
        }
    }
}

/* The input gradient of a block whose windows are one tap, and everywhere inside. Weights of four
 * input channels become floats once, for all pixels. */
COSTSIM_APART void costsim_q_back_points(const costsim_block *k, int32_t pixels, const float *scales,
                                  const float *dy, float *dx) {
    float four[4 * COSTSIM_WIDENED];
    int32_t i, j, m, o, depth;
    for (i = 0; i + 4 <= k->n_ins; i += 4) {
        float *to[4];
        for (j = 0; j < 4; j++) {
            to[j] = dx + (k->first_in + costsim_number(k->ins, i + j)) * pixels;
        }
        for (m = 0; m < k->n_outs; m += depth) {
            const int8_t *weight = (const int8_t *)k->weight + m * k->n_ins + i;
            const float *g = dy + (k->first_out + (k->outs ? 0 : m)) * pixels;
            depth = k->n_outs - m < COSTSIM_WIDENED ? k->n_outs - m : COSTSIM_WIDENED;
            for (o = 0; o < depth; o++, weight += k->n_ins) {
                const float scale = scales[k->first_out + costsim_number(k->outs, m + o)];
                four[4 * o] = (float)weight[0] * scale;
                four[4 * o + 1] = (float)weight[1] * scale;
                four[4 * o + 2] = (float)weight[2] * scale;
                four[4 * o + 3] = (float)weight[3] * scale;
            }
            if (k->outs) {
                costsim_q_back_pixels(pixels, depth, four, g, k->outs + m, to);
            } else {
                costsim_q_back_pixels(pixels, depth, four, g, NULL, to);
            }
        }
    }
}

/* One tap of one input channel: what `outs` output channels give is added to dx. */
static void costsim_q_spread(const costsim_window *w, const costsim_block *k, int32_t from_m,
                             int32_t outs, const int8_t *weight, int32_t row, const float *scales,
                             const costsim_span *s, const float *dy, float *image) {
    const int32_t pixels = costsim_pixels(w->out), step = w->stride[2];
    int32_t q0, q1, q2, m;
    for (q0 = s[0].low; q0 < s[0].high; q0++) {
        for (q1 = s[1].low; q1 < s[1].high; q1++) {
            const int32_t p0 = s[0].start + q0 * w->stride[0];
            const int32_t p1 = s[1].start + q1 * w->stride[1];
            const float *from = dy + (q0 * w->out[1] + q1) * w->out[2];
            float *to = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
            for (q2 = s[2].low, to += q2 * step; q2 < s[2].high;) {
                const int32_t width = s[2].high - q2 < 4 ? 1 : 4;
                float a = to[0], b = 0, c = 0, d = 0;
                if (width == 4) {
                    b = to[step], c = to[2 * step], d = to[3 * step];
                }
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
                to[0] = a;
                if (width == 4) {
                    to[step] = b, to[2 * step] = c, to[3 * step] = d;
                }
                q2 += width, to += width * step;
            }
        }
    }
}

void costsim_q_convolution_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                          int32_t count, int depthwise, const float *scales,
                                          const float *dy, float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t image = w->inputs * plane, dy_image = w->outputs * costsim_pixels(w->out);
    const int plain = !depthwise && costsim_q_plain(w);
    int32_t n, block, i, t0, t1, t2;
    costsim_fill(w->samples * image, 0.0f, dx);
    if (depthwise && costsim_turns(w)) {
        costsim_depthwise_turned(w, blocks, count, scales, dy, dx);
        return;
    }
    for (n = 0; n < w->samples; n++) {
        for (block = 0; block < count; block++) {
            const costsim_block *k = blocks + block;
            const int32_t row = k->n_ins * taps, inputs = depthwise ? k->n_outs : k->n_ins;
            const int32_t fours = plain ? k->n_ins & ~3 : 0;
            if (fours) {
                costsim_q_back_points(k, plane, scales, dy + n * dy_image, dx + n * image);
            }
            for (i = fours; i < inputs; i++) {
                const int8_t *weight = (const int8_t *)k->weight + (depthwise ? 0 : i * taps);
                const int32_t c = k->first_in + costsim_number(k->ins, i);
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

/* 4 x 4 sums, added to: of products of `depth` values of four channels, side by side in `four`, with
 * four rows of as many. */
COSTSIM_INLINE void costsim_q_outer_tile(int32_t depth, const float *four, const float *const *g,
                                         int32_t row, float *to) {
    const float *g0 = g[0], *g1 = g[1], *g2 = g[2], *g3 = g[3];
    float *to1 = to + row, *to2 = to + 2 * row, *to3 = to + 3 * row;
    float s00 = to[0], s01 = to[1], s02 = to[2], s03 = to[3];
    float s10 = to1[0], s11 = to1[1], s12 = to1[2], s13 = to1[3];
    float s20 = to2[0], s21 = to2[1], s22 = to2[2], s23 = to2[3];
    float s30 = to3[0], s31 = to3[1], s32 = to3[2], s33 = to3[3];
    for (; depth > 0; depth--, four += 4) {
        const float a = four[0], b = four[1], c = four[2], d = four[3];
        float v = *g0++;
        COSTSIM_MAC(s00, v, a);
        COSTSIM_MAC(s01, v, b);
        COSTSIM_MAC(s02, v, c);
        COSTSIM_MAC(s03, v, d);
        v = *g1++;
        COSTSIM_MAC(s10, v, a);
        COSTSIM_MAC(s11, v, b);
        COSTSIM_MAC(s12, v, c);
        COSTSIM_MAC(s13, v, d);
        v = *g2++;
        COSTSIM_MAC(s20, v, a);
        COSTSIM_MAC(s21, v, b);
        COSTSIM_MAC(s22, v, c);
        COSTSIM_MAC(s23, v, d);
        v = *g3++;
        COSTSIM_MAC(s30, v, a);
        COSTSIM_MAC(s31, v, b);
        COSTSIM_MAC(s32, v, c);
        COSTSIM_MAC(s33, v, d);
    }
    to[0] = s00, to[1] = s01, to[2] = s02, to[3] = s03;
    to1[0] = s10, to1[1] = s11, to1[2] = s12, to1[3] = s13;
    to2[0] = s20, to2[1] = s21, to2[2] = s22, to2[3] = s23;
    to3[0] = s30, to3[1] = s31, to3[2] = s32, to3[3] = s33;
}

/* The weight gradient of input channels 0 to n_ins & ~3 and output channels 0 to n_outs & ~3 of a
 * block whose windows are one tap, and everywhere inside: dw holds zeros. What four input channels
 * hold becomes floats once, for all output channels. */
COSTSIM_APART void costsim_q_outer_points(const costsim_window *w, const costsim_block *k,
                                          float x_scale, int32_t x_zero, const float *dy,
                                          const int8_t *x, float *dw) {
    const int32_t pixels = costsim_pixels(w->size), row = k->n_ins;
    float four[4 * COSTSIM_WIDENED];
    int32_t i, j, m, n, q, p, depth;
    for (i = 0; i + 4 <= k->n_ins; i += 4) {
        for (n = 0; n < w->samples; n++) {
            for (q = 0; q < pixels; q += depth) {
                const int32_t at = n * w->outputs * pixels + q;
                depth = pixels - q < COSTSIM_WIDENED ? pixels - q : COSTSIM_WIDENED;
                for (j = 0; j < 4; j++) {
                    const int32_t c = k->first_in + costsim_number(k->ins, i + j);
                    const int8_t *from = x + (n * w->inputs + c) * pixels + q;
                    for (p = 0; p < depth; p++) {
                        four[4 * p + j] = (float)(from[p] - x_zero);
                    }
                }
                for (m = 0; m + 4 <= k->n_outs; m += 4) {
                    const float *g[4];
                    for (j = 0; j < 4; j++) {
                        g[j] = dy + at +
                               (k->first_out + costsim_number(k->outs, m + j)) * pixels;
                    }
                    costsim_q_outer_tile(depth, four, g, row, dw + m * row + i);
                }
            }
        }
        for (m = 0; m < (k->n_outs & ~3); m++) {
            float *to = dw + m * row + i;
            to[0] *= x_scale, to[1] *= x_scale, to[2] *= x_scale, to[3] *= x_scale;
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

#define COSTSIM_BAND 192   /* of an image, how much is floats at a time: whole rows */
#define COSTSIM_COLUMNS 11 /* taps of a row whose places are kept beside it */

/* One tap over `rows` rows of outputs and of what it looks at, added to `sum`. Between rows lie
 * `g_row` and `x_row`; `step` between columns of x is a constant where it is 1. */
COSTSIM_INLINE float costsim_q_correlate_tap(int32_t rows, int32_t columns, int32_t g_row,
                                             int32_t x_row, int32_t step, const float *g,
                                             const float *x, float sum) {
    for (; rows > 0; rows--, g += g_row, x += x_row) {
        const float *v = g, *at = x;
        int32_t left;
        for (left = columns; left > 0; left--, at += step) {
            COSTSIM_MAC(sum, *v++, *at);
        }
    }
    return sum;
}

/* The weight gradient of one channel and one sample, added to, in units of x. Some rows of x become
 * floats once, for all taps; `spans` are the places of the taps of a row. */
COSTSIM_APART void costsim_q_correlate_plane(const costsim_window *w, const costsim_span *spans,
                                             int32_t x_zero, const float *dy, const int8_t *x,
                                             float *dw) {
    const int32_t columns = w->kernel[2], wide = w->size[2], out = w->out[2], step = w->stride[2];
    const int32_t g_plane = w->out[1] * out, x_row = w->stride[1] * wide;
    float band[COSTSIM_BAND];
    int32_t p0, p1, t0, t1, t2, i, rows;
    for (p0 = 0; p0 < w->size[0]; p0++) {
        for (p1 = 0; p1 < w->size[1]; p1 += rows, x += rows * wide) {
            rows = w->size[1] - p1 < COSTSIM_BAND / wide ? w->size[1] - p1 : COSTSIM_BAND / wide;
            for (i = 0; i < rows * wide; i++) {
                band[i] = (float)(x[i] - x_zero);
            }
            for (t0 = 0; t0 < w->kernel[0]; t0++) {
                /* The position that looks at p0 with this tap, if there is one. */
                const int32_t at = p0 + w->padding[0] - t0 * w->dilation[0];
                const int32_t q0 = at / w->stride[0];
                float *to = dw + t0 * w->kernel[1] * columns;
                if (at < 0 || q0 * w->stride[0] != at || q0 >= w->out[0]) {
                    continue;
                }
                for (t1 = 0; t1 < w->kernel[1]; t1++, to += columns) {
                    const int32_t start = t1 * w->dilation[1] - w->padding[1] - p1;
                    int32_t low, high;
                    costsim_inside(start, w->stride[1], w->out[1], rows, &low, &high);
                    for (t2 = 0; t2 < columns; t2++) {
                        const costsim_span *s = spans + t2;
                        const float *g = dy + q0 * g_plane + low * out + s->low;
                        const float *from =
                            band + start * wide + low * x_row + s->start + s->low * step;
                        if (step == 1) {
                            to[t2] = costsim_q_correlate_tap(high - low, s->high - s->low, out,
                                                             x_row, 1, g, from, to[t2]);
                        } else {
                            to[t2] = costsim_q_correlate_tap(high - low, s->high - s->low, out,
                                                             x_row, step, g, from, to[t2]);
                        }
                    }
                }
            }
        }
    }
}

/* The weight gradient of a depthwise block whose rows, of x and of taps, are small enough. */
static void costsim_q_correlate_planes(const costsim_window *w, const costsim_block *k,
                                       float x_scale, int32_t x_zero, const float *dy,
                                       const int8_t *x, float *dw) {
    const int32_t taps = costsim_pixels(w->kernel);
    costsim_span spans[COSTSIM_COLUMNS];
    int32_t m, n, t;
    for (t = 0; t < w->kernel[2]; t++) {
        spans[t] = costsim_places(w, 2, t);
    }
    for (m = 0; m < k->n_outs; m++, dw += taps) {
        const int32_t o = k->first_out + costsim_number(k->outs, m);
        const int32_t c = k->first_in + costsim_number(k->ins, m);
        costsim_fill(taps, 0.0f, dw);
        for (n = 0; n < w->samples; n++) {
            costsim_q_correlate_plane(w, spans, x_zero,
                                      dy + (n * w->outputs + o) * costsim_pixels(w->out),
                                      x + (n * w->inputs + c) * costsim_pixels(w->size), dw);
        }
        for (t = 0; t < taps; t++) {
            dw[t] *= x_scale;
        }
    }
}

void costsim_q_convolution_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                           int32_t count, int depthwise, float x_scale,
                                           int32_t x_zero, const float *dy, const int8_t *x,
                                           float *dw) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    const int plain = !depthwise && costsim_q_plain(w);
    int32_t block, m, i, j, t0, t1, t2;
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        const int32_t row = k->n_ins * taps, fours = plain ? k->n_ins & ~3 : 0;
        if (depthwise && w->size[2] <= COSTSIM_BAND && w->kernel[2] <= COSTSIM_COLUMNS) {
            costsim_q_correlate_planes(w, k, x_scale, x_zero, dy, x, dw);
            dw += k->n_outs * row;
            continue;
        }
        if (fours) {
            costsim_fill(k->n_outs * row, 0.0f, dw);
            costsim_q_outer_points(w, k, x_scale, x_zero, dy, x, dw);
        }
        for (m = 0; m < k->n_outs;) {
            const int32_t width = depthwise || k->n_outs - m < 4 ? 1 : 4;
            const float *g[4];
            for (j = 0; j < 4; j++) {
                const int32_t o = costsim_number(k->outs, j < width ? m + j : m);
                g[j] = dy + (k->first_out + o) * pixels;
            }
            for (i = width == 4 ? fours : 0; i < k->n_ins; i++) {
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


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

/* Depthwise. */

/* A row of outputs of one channel, of the rows of taps that are inside. */
typedef struct {
    int32_t planes, rows;            /* of taps */
    int32_t x_plane, x_row, w_plane; /* from one to the next in x, and in the weight */
    int32_t columns, step, reach;    /* taps of a row, between outputs and between taps in x */
    int32_t y_step;                  /* between outputs in y */
} costsim_line;

static costsim_line costsim_line_of(const costsim_window *w) {
    costsim_line l;
    l.planes = l.rows = 0;
    l.x_row = w->dilation[1] * w->size[2];
    l.x_plane = w->dilation[0] * w->size[1] * w->size[2];
    l.w_plane = w->kernel[1] * w->kernel[2];
    l.columns = w->kernel[2];
    l.step = w->stride[2];
    l.reach = w->dilation[2];
    l.y_step = 1;
    return l;
}

/* `count` times four outputs, all of whose columns are inside, added to. If `quick`, taps lie side
 * by side, and columns and step are constants. */
COSTSIM_INLINE void costsim_depthwise_fours(const costsim_line *l, int quick, int32_t columns,
                                            int32_t step, int32_t count, const float *weight,
                                            const float *from, float *y) {
    const int32_t planes = l->planes, rows = l->rows, x_row = l->x_row, next = l->y_step;
    const int32_t reach = quick ? 1 : l->reach;
    for (; count > 0; count--, from += 4 * step, y += 4 * next) {
        float a = y[0], b = y[next], c = y[2 * next], d = y[3 * next];
        int32_t p, r, t;
        for (p = 0; p < planes; p++) {
            const float *with = weight + p * l->w_plane, *x = from + p * l->x_plane;
            for (r = rows; r > 0; r--, with += columns, x += x_row) {
#if defined(__clang__)
#pragma unroll
#elif defined(__GNUC__)
#pragma GCC unroll 8
#endif
                for (t = 0; t < columns; t++) {
                    const float v = with[t];
                    COSTSIM_MAC(a, v, x[t * reach]);
                    COSTSIM_MAC(b, v, x[t * reach + step]);
                    COSTSIM_MAC(c, v, x[t * reach + 2 * step]);
                    COSTSIM_MAC(d, v, x[t * reach + 3 * step]);
                }
            }
        }
        y[0] = a, y[next] = b, y[2 * next] = c, y[3 * next] = d;
    }
}

/* One output, of `columns` taps a row that are inside, added to. */
COSTSIM_INLINE void costsim_depthwise_one(const costsim_line *l, int quick, int32_t columns,
                                          const float *weight, const float *from, float *y) {
    const int32_t rows = l->rows, x_row = l->x_row, w_row = l->columns;
    const int32_t reach = quick ? 1 : l->reach;
    float sum = *y;
    int32_t p, r, t;
    for (p = 0; p < l->planes; p++) {
        const float *with = weight + p * l->w_plane, *x = from + p * l->x_plane;
        for (r = rows; r > 0; r--, with += w_row, x += x_row) {
#if defined(__clang__)
#pragma unroll
#elif defined(__GNUC__)
#pragma GCC unroll 8
#endif
            for (t = 0; t < columns; t++) {
                COSTSIM_MAC(sum, with[t], x[t * reach]);
            }
        }
    }
    *y = sum;
}

/* By how many taps lie in a row, each a function of its own: in one together registers run out. */
#define COSTSIM_SINGLE(columns)                                                             \
    COSTSIM_APART void costsim_depthwise_one_##columns(                                     \
        const costsim_line *l, const float *weight, const float *from, float *y) {          \
        costsim_depthwise_one(l, 1, columns, weight, from, y);                              \
    }
#define COSTSIM_SEVERAL(columns, step)                                                      \
    COSTSIM_APART void costsim_depthwise_fours_##columns##_##step(                          \
        const costsim_line *l, int32_t count, const float *weight, const float *from,       \
        float *y) {                                                                         \
        costsim_depthwise_fours(l, 1, columns, step, count, weight, from, y);               \
    }
COSTSIM_SINGLE(1)
COSTSIM_SINGLE(2)
COSTSIM_SINGLE(3)
COSTSIM_SINGLE(4)
COSTSIM_SINGLE(5)
COSTSIM_SINGLE(6)
COSTSIM_SINGLE(7)
COSTSIM_SEVERAL(2, 1)
COSTSIM_SEVERAL(3, 1)
COSTSIM_SEVERAL(4, 1)
COSTSIM_SEVERAL(5, 1)
COSTSIM_SEVERAL(7, 1)
COSTSIM_SEVERAL(3, 2)
COSTSIM_SEVERAL(5, 2)
COSTSIM_SEVERAL(7, 2)

COSTSIM_INLINE void costsim_depthwise_edge(const costsim_line *l, int32_t columns,
                                           const float *weight, const float *from, float *y) {
    switch (l->reach == 1 ? columns : -1) {
    case 0:
        break;
    case 1:
        costsim_depthwise_one_1(l, weight, from, y);
        break;
    case 2:
        costsim_depthwise_one_2(l, weight, from, y);
        break;
    case 3:
        costsim_depthwise_one_3(l, weight, from, y);
        break;
    case 4:
        costsim_depthwise_one_4(l, weight, from, y);
        break;
    case 5:
        costsim_depthwise_one_5(l, weight, from, y);
        break;
    case 6:
        costsim_depthwise_one_6(l, weight, from, y);
        break;
    case 7:
        costsim_depthwise_one_7(l, weight, from, y);
        break;
    default:
        costsim_depthwise_one(l, 0, columns, weight, from, y);
    }
}

COSTSIM_INLINE void costsim_depthwise_middle(const costsim_line *l, int32_t count,
                                             const float *weight, const float *from, float *y) {
    switch (l->reach == 1 && l->columns < 10 ? 10 * l->step + l->columns : 0) {
    case 12:
        costsim_depthwise_fours_2_1(l, count, weight, from, y);
        break;
    case 13:
        costsim_depthwise_fours_3_1(l, count, weight, from, y);
        break;
    case 14:
        costsim_depthwise_fours_4_1(l, count, weight, from, y);
        break;
    case 15:
        costsim_depthwise_fours_5_1(l, count, weight, from, y);
        break;
    case 17:
        costsim_depthwise_fours_7_1(l, count, weight, from, y);
        break;
    case 23:
        costsim_depthwise_fours_3_2(l, count, weight, from, y);
        break;
    case 25:
        costsim_depthwise_fours_5_2(l, count, weight, from, y);
        break;
    case 27:
        costsim_depthwise_fours_7_2(l, count, weight, from, y);
        break;
    default:
        costsim_depthwise_fours(l, 0, l->columns, l->step, count, weight, from, y);
    }
}

/* y += the correlation of one plane with one kernel; `steps` lie between outputs in y. */
COSTSIM_APART void costsim_depthwise_plane(const costsim_window *w, const int32_t *steps,
                                           const float *weight, const float *x, float *y) {
    const int32_t wide = w->out[2], inside = costsim_places(w, 2, 0).low;
    const int32_t fours = (costsim_places(w, 2, w->kernel[2] - 1).high - inside) / 4;
    costsim_line l = costsim_line_of(w);
    int32_t q0, q1, q2;
    l.y_step = steps[2];
    for (q0 = 0; q0 < w->out[0]; q0++) {
        const costsim_span s0 = costsim_taps(w, 0, q0);
        for (q1 = 0; q1 < w->out[1]; q1++) {
            const costsim_span s1 = costsim_taps(w, 1, q1);
            const int32_t p0 = s0.start + s0.low * w->dilation[0];
            const int32_t p1 = s1.start + s1.low * w->dilation[1];
            const float *from = x + (p0 * w->size[1] + p1) * w->size[2] - w->padding[2];
            const float *with = weight + s0.low * l.w_plane + s1.low * l.columns;
            float *to = y + q0 * steps[0] + q1 * steps[1];
            l.planes = s0.high - s0.low;
            l.rows = s1.high - s1.low;
            for (q2 = 0; q2 < wide; q2++) {
                costsim_span s2;
                if (q2 == inside && fours > 0) {
                    costsim_depthwise_middle(&l, fours, with, from + q2 * l.step,
                                             to + q2 * steps[2]);
                    q2 += 4 * fours;
                    if (q2 == wide) {
                        break;
                    }
                }
                s2 = costsim_taps(w, 2, q2);
                costsim_depthwise_edge(&l, s2.high - s2.low, with + s2.low,
                                       from + q2 * l.step + s2.low * l.reach,
                                       to + q2 * steps[2]);
            }
        }
    }
}

void costsim_depthwise_forward(const costsim_window *w, const costsim_block *blocks, int32_t count,
                               const float *bias, const float *x, float *y) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t n, block, j, steps[3];
    steps[0] = w->out[1] * w->out[2], steps[1] = w->out[2], steps[2] = 1;
    for (n = 0; n < w->samples; n++) {
        for (block = 0; block < count; block++) {
            const costsim_block *k = blocks + block;
            for (j = 0; j < k->n_outs; j++) {
                const int32_t c = k->first_out + costsim_number(k->outs, j);
                float *to = y + (n * w->outputs + c) * pixels;
                costsim_fill(pixels, bias ? bias[c] : 0.0f, to);
                costsim_depthwise_plane(w, steps, (const float *)k->weight + j * taps,
                                        x + (n * w->inputs + c) * plane, to);
            }
        }
    }
}

#define COSTSIM_TURNED 49

/* Whether the input gradient of a depthwise convolution is correlations with its kernel turned
 * round: then the products of an element are added up from the last tap to the first. */
static int costsim_turns(const costsim_window *w) {
    const int steps = w->stride[0] * w->stride[1] * w->stride[2] > 1;
    const int reaches = w->dilation[0] * w->dilation[1] * w->dilation[2] > 1;
    return costsim_pixels(w->kernel) <= COSTSIM_TURNED && !(steps && reaches);
}

/* Of the inputs whose number leaves the rest `phase` when divided by the stride, in every
 * dimension: the window of stride 1 that leads from dy back to them, the first tap in `first`. */
static costsim_window costsim_turned(const costsim_window *w, const int32_t *phase,
                                     int32_t *first) {
    costsim_window back = *w;
    int32_t d;
    for (d = 0; d < 3; d++) {
        const int32_t step = w->stride[d], at = phase[d] + w->padding[d];
        const int32_t taps = w->kernel[d] - 1 - at % step;
        first[d] = at % step;
        back.kernel[d] = taps < 0 ? 0 : taps / step + 1;
        back.size[d] = w->out[d];
        back.out[d] = phase[d] < w->size[d] ? (w->size[d] - 1 - phase[d]) / step + 1 : 0;
        back.padding[d] = (back.kernel[d] - 1) * w->dilation[d] - at / step;
        back.stride[d] = 1;
    }
    return back;
}

/* The taps of a phase, the last first, as they are numbered in the weight. */
static void costsim_turned_taps(const costsim_window *w, const costsim_window *back,
                                const int32_t *first, uint8_t *taps) {
    int32_t t0, t1, t2;
    for (t0 = back->kernel[0] - 1; t0 >= 0; t0--) {
        for (t1 = back->kernel[1] - 1; t1 >= 0; t1--) {
            for (t2 = back->kernel[2] - 1; t2 >= 0; t2--) {
                const int32_t s0 = first[0] + t0 * w->stride[0];
                const int32_t s1 = first[1] + t1 * w->stride[1];
                const int32_t s2 = first[2] + t2 * w->stride[2];
                *taps++ = (uint8_t)((s0 * w->kernel[1] + s1) * w->kernel[2] + s2);
            }
        }
    }
}

/* Adds to the inputs of one phase. `scales` are of 8-bit weights, or NULL: weights are floats. */
static void costsim_depthwise_phase(const costsim_window *w, const int32_t *phase,
                                    const costsim_block *blocks, int32_t count,
                                    const float *scales, const float *dy, float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t first[3], steps[3], n, block, j, t;
    const costsim_window back = costsim_turned(w, phase, first);
    const int32_t some = costsim_pixels(back.kernel);
    float turned[COSTSIM_TURNED];
    uint8_t order[COSTSIM_TURNED];
    if (some == 0) {
        return;
    }
    costsim_turned_taps(w, &back, first, order);
    steps[0] = w->stride[0] * w->size[1] * w->size[2];
    steps[1] = w->stride[1] * w->size[2];
    steps[2] = w->stride[2];
    dx += (phase[0] * w->size[1] + phase[1]) * w->size[2] + phase[2];
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        for (j = 0; j < k->n_outs; j++) {
            const int32_t c = k->first_out + costsim_number(k->outs, j);
            if (scales) {
                const int8_t *weight = (const int8_t *)k->weight + j * taps;
                const float scale = scales[c];
                for (t = 0; t < some; t++) {
                    turned[t] = (float)weight[order[t]] * scale;
                }
            } else {
                const float *weight = (const float *)k->weight + j * taps;
                for (t = 0; t < some; t++) {
                    turned[t] = weight[order[t]];
                }
            }
            for (n = 0; n < w->samples; n++) {
                costsim_depthwise_plane(&back, steps, turned, dy + (n * w->outputs + c) * pixels,
                                        dx + (n * w->inputs + c) * plane);
            }
        }
    }
}

/* Adds to dx, of windows that turn. */
static void costsim_depthwise_turned(const costsim_window *w, const costsim_block *blocks,
                                     int32_t count, const float *scales, const float *dy,
                                     float *dx) {
    int32_t phase[3];
    for (phase[0] = 0; phase[0] < w->stride[0]; phase[0]++) {
        for (phase[1] = 0; phase[1] < w->stride[1]; phase[1]++) {
            for (phase[2] = 0; phase[2] < w->stride[2]; phase[2]++) {
                costsim_depthwise_phase(w, phase, blocks, count, scales, dy, dx);
            }
        }
    }
}

void costsim_depthwise_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                      int32_t count, const float *dy, float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t n, block, j;
    costsim_fill(w->samples * w->inputs * plane, 0.0f, dx);
    if (costsim_turns(w)) {
        costsim_depthwise_turned(w, blocks, count, NULL, dy, dx);
        return;
    }
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        for (j = 0; j < k->n_outs; j++) {
            const int32_t c = k->first_out + costsim_number(k->outs, j);
            costsim_block one = {NULL, NULL, NULL, 1, 1, 0, 0, 0, 0};
            one.weight = (const float *)k->weight + j * taps;
            for (n = 0; n < w->samples; n++) {
                costsim_spread_block(w, &one, dy + (n * w->outputs + c) * pixels,
                                     dx + (n * w->inputs + c) * plane);
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

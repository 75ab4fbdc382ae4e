/* Sums of 8-bit products: two pixels by two output channels at a time.
 *
 * What the windows of two pixels see is widened to 16 bits once, into a column on the stack, for all
 * output channels; weights are widened as they are read. */

#define COSTSIM_DEPTH 96 /* what a column holds of each of its two pixels */
#define COSTSIM_SUMS 48   /* output channels whose sums are kept beside it */

#if COSTSIM_SIMD
/* The sign-extended bytes 0 and 2 of four, or 1 and 3, added to the halves of `to`. */
COSTSIM_INLINE int32_t costsim_q_even(int32_t to, int32_t bytes) {
    int32_t halves;
    __asm__("sxtab16 %0, %1, %2" : "=r"(halves) : "r"(to), "r"(bytes));
    return halves;
}

COSTSIM_INLINE int32_t costsim_q_odd(int32_t to, int32_t bytes) {
    int32_t halves;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(halves) : "r"(to), "r"(bytes));
    return halves;
}

/* Two products of halves at once. */
#define COSTSIM_Q_MAC_PAIR(sum, a, b) \
    __asm__("smlad %0, %1, %2, %0" : "+r"(sum) : "r"((int32_t)(a)), "r"((int32_t)(b)))

/* The lower half of a by the upper half of b. */
#define COSTSIM_Q_MAC_UPPER(sum, a, b) \
    __asm__("smlabt %0, %1, %2, %0" : "+r"(sum) : "r"((int32_t)(a)), "r"((int32_t)(b)))

COSTSIM_INLINE int32_t costsim_q_word(const void *from) {
    int32_t word;
    __builtin_memcpy(&word, from, 4);
    return word;
}

COSTSIM_INLINE int32_t costsim_q_halves(int32_t low, int32_t high) {
    return (int32_t)(((uint32_t)low & 0xffffu) | ((uint32_t)high << 16));
}

/* Bytes 0 and 2 of a word of weights, then 1 and 3. */
COSTSIM_INLINE int32_t costsim_q_outer(int32_t bytes) {
    int32_t halves;
    __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(bytes));
    return halves;
}

COSTSIM_INLINE int32_t costsim_q_inner(int32_t bytes) {
    int32_t halves;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(bytes));
    return halves;
}
#endif

/* `outs` sums (1 or 2) of each of `pixels` (1 or 2) of a column of `count`, added to. */
COSTSIM_INLINE void costsim_q_tile(int outs, int pixels, int32_t count, const int16_t *column,
                                   const int8_t *weight, int32_t row, int32_t *sums) {
    const int8_t *w0 = weight, *w1 = outs > 1 ? weight + row : weight;
    int32_t s00 = sums[0], s01 = 0, s10 = 0, s11 = 0, i = 0;
    if (pixels > 1) {
        s01 = sums[1];
    }
    if (outs > 1) {
        s10 = sums[2];
        s11 = sums[3];
    }
#if COSTSIM_SIMD
    for (; i + 4 <= count; i += 4) {
        const int32_t *words = (const int32_t *)(const void *)column;
        const int32_t bytes0 = costsim_q_word(w0), bytes1 = costsim_q_word(w1);
        const int32_t even0 = words[0], odd0 = words[1];
        const int32_t even1 = pixels > 1 ? words[2] : 0, odd1 = pixels > 1 ? words[3] : 0;
        int32_t v = costsim_q_outer(bytes0);
        COSTSIM_Q_MAC_PAIR(s00, v, even0);
        if (pixels > 1) {
            COSTSIM_Q_MAC_PAIR(s01, v, even1);
        }
        v = costsim_q_inner(bytes0);
        COSTSIM_Q_MAC_PAIR(s00, v, odd0);
        if (pixels > 1) {
            COSTSIM_Q_MAC_PAIR(s01, v, odd1);
        }
        if (outs > 1) {
            v = costsim_q_outer(bytes1);
            COSTSIM_Q_MAC_PAIR(s10, v, even0);
            if (pixels > 1) {
                COSTSIM_Q_MAC_PAIR(s11, v, even1);
            }
            v = costsim_q_inner(bytes1);
            COSTSIM_Q_MAC_PAIR(s10, v, odd0);
            if (pixels > 1) {
                COSTSIM_Q_MAC_PAIR(s11, v, odd1);
            }
        }
        column += 4 * pixels, w0 += 4, w1 += 4;
    }
#endif
    for (; i < count; i++, column += pixels, w0++, w1++) {
        COSTSIM_Q_MAC(s00, *w0, column[0]);
        if (pixels > 1) {
            COSTSIM_Q_MAC(s01, *w0, column[1]);
        }
        if (outs > 1) {
            COSTSIM_Q_MAC(s10, *w1, column[0]);
            if (pixels > 1) {
                COSTSIM_Q_MAC(s11, *w1, column[1]);
            }
        }
    }
    sums[0] = s00;
    if (pixels > 1) {
        sums[1] = s01;
    }
    if (outs > 1) {
        sums[2] = s10;
        sums[3] = s11;
    }
}

/* A column times `outs` rows of weights; two sums an output. */
COSTSIM_APART void costsim_q_multiply(int32_t pixels, int32_t count, const int16_t *column,
                               const int8_t *weight, int32_t row, int32_t outs, int32_t *sums) {
    int32_t j;
    if (pixels == 2) {
        for (j = 0; j + 2 <= outs; j += 2, weight += 2 * row, sums += 4) {
            costsim_q_tile(2, 2, count, column, weight, row, sums);
        }
        if (j < outs) {
            costsim_q_tile(1, 2, count, column, weight, row, sums);
        }
    } else {
        for (j = 0; j + 2 <= outs; j += 2, weight += 2 * row, sums += 4) {
            costsim_q_tile(2, 1, count, column, weight, row, sums);
        }
        if (j < outs) {
            costsim_q_tile(1, 1, count, column, weight, row, sums);
        }
    }
}

/* The column of input channels i to i + count of a block for windows of one tap: four of each pixel
 * after another, in the order in which widened weights come; what is left over one by one. */
static void costsim_q_widen_points(const costsim_block *k, int32_t i, int32_t count,
                                   int32_t pixels, int32_t step, int32_t plane, int32_t x_zero,
                                   const int8_t *from, int16_t *column) {
    const costsim_channel *ins = k->ins ? k->ins + i : NULL;
    int32_t at = 0;
    from += (k->first_in + (k->ins ? 0 : i)) * plane;
#if COSTSIM_SIMD
    for (; at + 4 <= count; at += 4, column += 4 * pixels) {
        const int8_t *a = from + costsim_number(ins, at) * plane;
        const int8_t *b = ins ? from + ins[at + 1] * plane : a + plane;
        const int8_t *c = ins ? from + ins[at + 2] * plane : b + plane;
        const int8_t *d = ins ? from + ins[at + 3] * plane : c + plane;
        column[0] = (int16_t)(*a - x_zero), column[1] = (int16_t)(*c - x_zero);
        column[2] = (int16_t)(*b - x_zero), column[3] = (int16_t)(*d - x_zero);
        if (pixels > 1) {
            column[4] = (int16_t)(a[step] - x_zero), column[5] = (int16_t)(c[step] - x_zero);
            column[6] = (int16_t)(b[step] - x_zero), column[7] = (int16_t)(d[step] - x_zero);
        }
    }
#endif
    for (; at < count; at++, column += pixels) {
        const int8_t *a = from + costsim_number(ins, at) * plane;
        column[0] = (int16_t)(*a - x_zero);
        if (pixels > 1) {
            column[1] = (int16_t)(a[step] - x_zero);
        }
    }
}

/* The column of input channels i to i + channels of a block; the windows of its pixels start at
 * `from` in the first of all channels, and `step` further on. */
static void costsim_q_widen(const costsim_window *w, const costsim_block *k, int32_t i,
                            int32_t channels, int32_t pixels, int32_t step, int32_t x_zero,
                            const int8_t *from, int16_t *column) {
    const int32_t plane = costsim_pixels(w->size), taps = costsim_pixels(w->kernel);
    const int32_t count = channels * taps;
    const int32_t columns = w->kernel[2], reach = w->dilation[2];
    const costsim_block dense = {NULL, NULL, NULL, 0, 0, 0, 0, 0, 0};
    int8_t patch[2 * COSTSIM_DEPTH], *seen = patch;
    int32_t t0, t1, t2;
    step = pixels == 2 ? step : 0;
    if (taps == 1) {
        costsim_q_widen_points(k, i, count, pixels, step, plane, x_zero, from, column);
        return;
    }
    for (channels += i; i < channels; i++) {
        const int8_t *image = from + (k->first_in + costsim_number(k->ins, i)) * plane;
        for (t0 = 0; t0 < w->kernel[0]; t0++) {
            for (t1 = 0; t1 < w->kernel[1]; t1++) {
                const int32_t down = t0 * w->dilation[0] * w->size[1] + t1 * w->dilation[1];
                const int8_t *line = image + down * w->size[2];
                for (t2 = 0; t2 < columns; t2++, line += reach, seen++) {
                    seen[0] = line[0];
                    seen[COSTSIM_DEPTH] = line[step];
                }
            }
        }
    }
    costsim_q_widen_points(&dense, 0, count, pixels, COSTSIM_DEPTH, 1, x_zero, patch, column);
}

/* Where the requantised sums of an image go. */
typedef struct {
    const int32_t *bias;
    const float *factors;
    int32_t zero;
    int8_t *y;
} costsim_q_output;

COSTSIM_INLINE int8_t costsim_q_requantised(int32_t sum, int32_t start, float factor,
                                            int32_t zero) {
    return costsim_saturated((float)costsim_q_sum(sum, start) * factor, zero);
}

/* All outputs of one pixel or of two side by side, whose windows are inside. */
COSTSIM_APART void costsim_q_columns(const costsim_window *w, const costsim_block *k, int32_t blocks,
                              int32_t pixels, int32_t step, int32_t x_zero, const int8_t *from,
                              int32_t q, const costsim_q_output *to) {
    const int32_t plane = costsim_pixels(w->out), taps = costsim_pixels(w->kernel);
    const int32_t most = COSTSIM_DEPTH / taps;
    int32_t words[COSTSIM_DEPTH], sums[2 * COSTSIM_SUMS], m, j, b, i, outs, channels;
    int16_t *const column = (int16_t *)words;
    const costsim_q_output out = *to; /* what is written may be anything but this */
    for (m = 0; m < k->n_outs; m += outs) {
        outs = k->n_outs - m < COSTSIM_SUMS ? k->n_outs - m : COSTSIM_SUMS;
        for (j = 0; j < 2 * outs; j++) {
            sums[j] = 0;
        }
        for (b = 0; b < blocks; b++) {
            const int32_t row = k[b].n_ins * taps;
            for (i = 0; i < k[b].n_ins; i += channels) {
                channels = k[b].n_ins - i < most ? k[b].n_ins - i : most;
                costsim_q_widen(w, k + b, i, channels, pixels, step, x_zero, from, column);
                costsim_q_multiply(pixels, channels * taps, column,
                                   (const int8_t *)k[b].weight + m * row + i * taps, row, outs,
                                   sums);
            }
        }
        for (j = 0; j < outs; j++) {
            const int32_t o = k->first_out + costsim_number(k->outs, m + j);
            const int32_t start = out.bias ? out.bias[o] : 0;
            const float factor = out.factors[o];
            int8_t *y = out.y + o * plane + q;
            y[0] = costsim_q_requantised(sums[2 * j], start, factor, out.zero);
            if (pixels == 2) {
                y[1] = costsim_q_requantised(sums[2 * j + 1], start, factor, out.zero);
            }
        }
    }
}

/* The sums of `width` outputs (1 or 4) of one pixel, of the taps that are inside; x is read once for
 * all of them. */
COSTSIM_INLINE void costsim_q_convolve(const costsim_window *w, const costsim_block *k, int32_t m,
                                       int width, const costsim_span *s, int32_t x_zero,
                                       const int8_t *x, int32_t *sums) {
    const int32_t taps = costsim_pixels(w->kernel), row = k->n_ins * taps;
    const int32_t plane = costsim_pixels(w->size), step = w->dilation[2];
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, i, t0, t1, t2;
    for (i = 0; i < k->n_ins; i++) {
        const int8_t *image = x + (k->first_in + costsim_number(k->ins, i)) * plane;
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

/* All outputs of one pixel whose window is partly outside. */
COSTSIM_APART void costsim_q_border(const costsim_window *w, const costsim_block *k, int32_t blocks,
                             const costsim_span *s, int32_t x_zero, const int8_t *x, int32_t q,
                             const costsim_q_output *to) {
    const int32_t plane = costsim_pixels(w->out);
    int32_t m, j, b, width;
    for (m = 0; m < k->n_outs; m += width) {
        int32_t sums[4] = {0, 0, 0, 0};
        width = k->n_outs - m < 4 ? 1 : 4;
        for (b = 0; b < blocks; b++) {
            if (width == 4) {
                costsim_q_convolve(w, k + b, m, 4, s, x_zero, x, sums);
            } else {
                costsim_q_convolve(w, k + b, m, 1, s, x_zero, x, sums);
            }
        }
        for (j = 0; j < width; j++) {
            const int32_t o = k->first_out + costsim_number(k->outs, m + j);
            to->y[o * plane + q] = costsim_q_requantised(sums[j], to->bias ? to->bias[o] : 0,
                                                         to->factors[o], to->zero);
        }
    }
}

/* Whether windows are of one tap, and everywhere inside. */
static int costsim_q_plain(const costsim_window *w) {
    return costsim_pixels(w->kernel) == 1 && w->stride[0] == 1 && w->stride[1] == 1 &&
           w->stride[2] == 1 && !(w->padding[0] | w->padding[1] | w->padding[2]);
}

/* Such a window, over the image as one row. */
static costsim_window costsim_q_flat(const costsim_window *w) {
    costsim_window flat = *w;
    flat.size[2] = flat.out[2] = costsim_pixels(w->size);
    flat.size[0] = flat.size[1] = flat.out[0] = flat.out[1] = 1;
    return flat;
}

static int costsim_q_whole(const costsim_window *w, int d, const costsim_span *s) {
    return s->low == 0 && s->high == w->kernel[d];
}

/* All outputs of a block and of those after it that add to the same outputs. */
COSTSIM_APART void costsim_q_products(const costsim_window *w, const costsim_block *k, int32_t blocks,
                               int32_t x_zero, const int8_t *x, const costsim_q_output *to) {
    const int32_t columns = w->kernel[2], wide = w->out[2], step = w->stride[2];
    const int small = costsim_pixels(w->kernel) <= COSTSIM_DEPTH;
    const int32_t inside = costsim_places(w, 2, 0).low;
    const int32_t until = costsim_places(w, 2, columns - 1).high;
    int32_t q0, q1, q2, pixels, q = 0;
    for (q0 = 0; q0 < w->out[0]; q0++) {
        for (q1 = 0; q1 < w->out[1]; q1++) {
            costsim_span s[3];
            int within;
            s[0] = costsim_taps(w, 0, q0);
            s[1] = costsim_taps(w, 1, q1);
            within = small && costsim_q_whole(w, 0, s) && costsim_q_whole(w, 1, s + 1);
            for (q2 = 0; q2 < wide; q2 += pixels, q += pixels) {
                pixels = 1;
                if (within && q2 >= inside && q2 < until) {
                    const int32_t line = s[0].start * w->size[1] + s[1].start;
                    const int32_t at = line * w->size[2] + q2 * step - w->padding[2];
                    pixels = q2 + 1 < until ? 2 : 1;
                    costsim_q_columns(w, k, blocks, pixels, step, x_zero, x + at, q, to);
                } else {
                    s[2] = costsim_taps(w, 2, q2);
                    costsim_q_border(w, k, blocks, s, x_zero, x, q, to);
                }
            }
        }
    }
}

/* Depthwise convolutions in 8 bits: four outputs side by side, two taps at a time. */

/* A row of outputs of one channel, and what makes them of sums. */
typedef struct {
    costsim_line of;
    int32_t x_zero, start, zero; /* of x, where sums start, and of y */
    float factor;
} costsim_q_line;

#if COSTSIM_SIMD
/* x[j] and x[j + 2], from a word that ends at x[last] at the latest; j and last are constants. */
COSTSIM_INLINE int32_t costsim_q_two(int32_t minus, const int8_t *x, int j, int last) {
    if (j % 2 || j + 3 > last) {
        return costsim_q_odd(minus, costsim_q_word(x + j - 1));
    }
    return costsim_q_even(minus, costsim_q_word(x + j));
}

/* Adds a row of 3, 5 or 7 taps to the output whose first tap is at x[j]. Of the weights, a are
 * (0, 2), b (1, 3) and c (4, 6); one is left over. */
COSTSIM_INLINE void costsim_q_add_row(int columns, int j, int last, int32_t minus, int32_t a,
                                      int32_t b, int32_t c, int32_t one, const int8_t *x,
                                      int32_t *sum) {
    COSTSIM_Q_MAC_PAIR(*sum, a, costsim_q_two(minus, x, j, last));
    if (columns == 3) {
        if (j == 0) {
            COSTSIM_Q_MAC(*sum, one, costsim_q_two(minus, x, 1, last));
        } else {
            COSTSIM_Q_MAC_UPPER(*sum, one, costsim_q_two(minus, x, j - 1, last));
        }
        return;
    }
    COSTSIM_Q_MAC_PAIR(*sum, b, costsim_q_two(minus, x, j + 1, last));
    if (columns == 5) {
        COSTSIM_Q_MAC_UPPER(*sum, one, costsim_q_two(minus, x, j + 2, last));
        return;
    }
    COSTSIM_Q_MAC_PAIR(*sum, c, costsim_q_two(minus, x, j + 4, last));
    COSTSIM_Q_MAC_UPPER(*sum, one, costsim_q_two(minus, x, j + 3, last));
}

/* Adds a row of 3, 5 or 7 taps (a constant, as is the step of 1 or 2) to two or four outputs. */
COSTSIM_INLINE void costsim_q_quick_row(int outs, int columns, int step, int32_t minus,
                                        const int8_t *with, const int8_t *x, int32_t *sums) {
    const int last = columns + (outs - 1) * step - 1;
    int32_t a, b = 0, c = 0, one;
    if (columns == 3) {
        a = costsim_q_halves(with[0], with[2]);
        one = with[1];
    } else {
        const int32_t word = costsim_q_word(with);
        a = costsim_q_outer(word);
        b = costsim_q_inner(word);
        one = with[columns == 5 ? 4 : 5];
    }
    if (columns == 7) {
        c = costsim_q_inner(costsim_q_word(with + 3));
    }
    costsim_q_add_row(columns, 0, last, minus, a, b, c, one, x, sums);
    costsim_q_add_row(columns, step, last, minus, a, b, c, one, x, sums + 1);
    if (outs == 4) {
        costsim_q_add_row(columns, 2 * step, last, minus, a, b, c, one, x, sums + 2);
        costsim_q_add_row(columns, 3 * step, last, minus, a, b, c, one, x, sums + 3);
    }
}
#endif

/* Adds a row of `columns` taps to `outs` outputs (1, 2 or 4). */
COSTSIM_INLINE void costsim_q_row(int outs, int32_t columns, int32_t step, int32_t reach,
                                  int32_t x_zero, const int8_t *with, const int8_t *x,
                                  int32_t *sums) {
    int32_t t;
    for (t = 0; t < columns; t++, x += reach) {
        COSTSIM_Q_MAC(sums[0], with[t], x[0] - x_zero);
        if (outs > 1) {
            COSTSIM_Q_MAC(sums[1], with[t], x[step] - x_zero);
        }
        if (outs == 4) {
            COSTSIM_Q_MAC(sums[2], with[t], x[2 * step] - x_zero);
            COSTSIM_Q_MAC(sums[3], with[t], x[3 * step] - x_zero);
        }
    }
}

/* `count` times `outs` outputs (2 or 4), all of whose columns are inside. For a row of 3, 5 or 7
 * taps, which `quick` says, columns and step are constants. */
COSTSIM_INLINE void costsim_q_several(const costsim_q_line *l, int quick, int outs, int32_t columns,
                                      int32_t step, int32_t count, const int8_t *weight,
                                      const int8_t *from, int8_t *y) {
    const int32_t planes = l->of.planes, rows = l->of.rows, x_row = l->of.x_row;
    const int32_t x_zero = l->x_zero, start = l->start, zero = l->zero;
    const float factor = l->factor;
#if COSTSIM_SIMD
    const int32_t minus = costsim_q_halves(-x_zero, -x_zero);
#endif
    for (; count > 0; count--, from += outs * step, y += outs) {
        int32_t sums[4] = {0, 0, 0, 0}, p, r;
        for (p = 0; p < planes; p++) {
            const int8_t *with = weight + p * l->of.w_plane, *x = from + p * l->of.x_plane;
            for (r = rows; r > 0; r--, with += columns, x += x_row) {
#if COSTSIM_SIMD
                if (quick) {
                    costsim_q_quick_row(outs, (int)columns, (int)step, minus, with, x, sums);
                    continue;
                }
#endif
                costsim_q_row(outs, columns, step, quick ? 1 : l->of.reach, x_zero, with, x, sums);
            }
        }
        y[0] = costsim_q_requantised(sums[0], start, factor, zero);
        y[1] = costsim_q_requantised(sums[1], start, factor, zero);
        if (outs == 4) {
            y[2] = costsim_q_requantised(sums[2], start, factor, zero);
            y[3] = costsim_q_requantised(sums[3], start, factor, zero);
        }
    }
}

/* One output, of `columns` taps a row that are inside; side by side, they are a constant. */
COSTSIM_INLINE int8_t costsim_q_one(const costsim_q_line *l, int quick, int32_t columns,
                                    const int8_t *weight, const int8_t *from) {
    int32_t sum = 0, p, r;
    for (p = 0; p < l->of.planes; p++) {
        const int8_t *with = weight + p * l->of.w_plane, *x = from + p * l->of.x_plane;
        for (r = l->of.rows; r > 0; r--, with += l->of.columns, x += l->of.x_row) {
            int32_t t = 0;
#if COSTSIM_SIMD
            if (quick && columns >= 4) {
                const int32_t minus = costsim_q_halves(-l->x_zero, -l->x_zero);
                const int32_t v = costsim_q_word(with), u = costsim_q_word(x);
                COSTSIM_Q_MAC_PAIR(sum, costsim_q_outer(v), costsim_q_even(minus, u));
                COSTSIM_Q_MAC_PAIR(sum, costsim_q_inner(v), costsim_q_odd(minus, u));
                t = 4;
            }
#endif
            if (!quick) {
                costsim_q_row(1, columns, 1, l->of.reach, l->x_zero, with, x, &sum);
                continue;
            }
#if defined(__clang__)
#pragma unroll
#elif defined(__GNUC__)
#pragma GCC unroll 8
#endif
            for (; t < columns; t++) {
                COSTSIM_Q_MAC(sum, with[t], x[t] - l->x_zero);
            }
        }
    }
    return costsim_q_requantised(sum, l->start, l->factor, l->zero);
}

/* A row of outputs, an even number of them, all of whose columns are inside. */
COSTSIM_INLINE void costsim_q_evens(const costsim_q_line *l, int quick, int32_t columns,
                                    int32_t step, int32_t count, const int8_t *weight,
                                    const int8_t *from, int8_t *y) {
    const int32_t fours = count / 4;
    costsim_q_several(l, quick, 4, columns, step, fours, weight, from, y);
    if (count & 2) {
        costsim_q_several(l, quick, 2, columns, step, 1, weight, from + 4 * fours * step,
                          y + 4 * fours);
    }
}

/* By how many taps lie in a row, each a function of its own: in one together registers run out. */
#define COSTSIM_Q_SINGLE(columns)                                                               \
    COSTSIM_APART int8_t costsim_q_one_##columns(const costsim_q_line *l, const int8_t *weight, \
                                                 const int8_t *from) {                          \
        return costsim_q_one(l, 1, columns, weight, from);                                      \
    }
#define COSTSIM_Q_EVENS(columns, step)                                                          \
    COSTSIM_APART void costsim_q_evens_##columns##_##step(                                      \
        const costsim_q_line *l, int32_t count, const int8_t *weight, const int8_t *from,       \
        int8_t *y) {                                                                            \
        costsim_q_evens(l, 1, columns, step, count, weight, from, y);                           \
    }
COSTSIM_Q_SINGLE(1)
COSTSIM_Q_SINGLE(2)
COSTSIM_Q_SINGLE(3)
COSTSIM_Q_SINGLE(4)
COSTSIM_Q_SINGLE(5)
COSTSIM_Q_SINGLE(6)
COSTSIM_Q_SINGLE(7)
COSTSIM_Q_EVENS(3, 1)
COSTSIM_Q_EVENS(5, 1)
COSTSIM_Q_EVENS(7, 1)
COSTSIM_Q_EVENS(3, 2)
COSTSIM_Q_EVENS(5, 2)
COSTSIM_Q_EVENS(7, 2)

COSTSIM_APART int8_t costsim_q_one_any(const costsim_q_line *l, int32_t columns,
                                       const int8_t *weight, const int8_t *from) {
    return costsim_q_one(l, 0, columns, weight, from);
}

COSTSIM_APART void costsim_q_evens_any(const costsim_q_line *l, int32_t count,
                                       const int8_t *weight, const int8_t *from, int8_t *y) {
    costsim_q_evens(l, 0, l->of.columns, l->of.step, count, weight, from, y);
}

COSTSIM_INLINE int8_t costsim_q_edge(const costsim_q_line *l, int32_t columns,
                                     const int8_t *weight, const int8_t *from) {
    switch (l->of.reach == 1 ? columns : 0) {
    case 1:
        return costsim_q_one_1(l, weight, from);
    case 2:
        return costsim_q_one_2(l, weight, from);
    case 3:
        return costsim_q_one_3(l, weight, from);
    case 4:
        return costsim_q_one_4(l, weight, from);
    case 5:
        return costsim_q_one_5(l, weight, from);
    case 6:
        return costsim_q_one_6(l, weight, from);
    case 7:
        return costsim_q_one_7(l, weight, from);
    default:
        return costsim_q_one_any(l, columns, weight, from);
    }
}

COSTSIM_INLINE void costsim_q_middle(const costsim_q_line *l, int32_t count, const int8_t *weight,
                                     const int8_t *from, int8_t *y) {
    switch (l->of.reach == 1 && l->of.columns < 10 ? 10 * l->of.step + l->of.columns : 0) {
    case 13:
        costsim_q_evens_3_1(l, count, weight, from, y);
        break;
    case 15:
        costsim_q_evens_5_1(l, count, weight, from, y);
        break;
    case 17:
        costsim_q_evens_7_1(l, count, weight, from, y);
        break;
    case 23:
        costsim_q_evens_3_2(l, count, weight, from, y);
        break;
    case 25:
        costsim_q_evens_5_2(l, count, weight, from, y);
        break;
    case 27:
        costsim_q_evens_7_2(l, count, weight, from, y);
        break;
    default:
        costsim_q_evens_any(l, count, weight, from, y);
    }
}

/* One channel: `from` is where the window of the first output would start. */
COSTSIM_APART void costsim_q_channel(const costsim_window *w, costsim_q_line *l, const int8_t *weight,
                              const int8_t *x, int8_t *y) {
    const int32_t wide = w->out[2], inside = costsim_places(w, 2, 0).low;
    const int32_t evens = (costsim_places(w, 2, l->of.columns - 1).high - inside) & ~1;
    int32_t q0, q1, q2;
    for (q0 = 0; q0 < w->out[0]; q0++) {
        const costsim_span s0 = costsim_taps(w, 0, q0);
        for (q1 = 0; q1 < w->out[1]; q1++, y += wide) {
            const costsim_span s1 = costsim_taps(w, 1, q1);
            const int32_t p0 = s0.start + s0.low * w->dilation[0];
            const int32_t p1 = s1.start + s1.low * w->dilation[1];
            const int8_t *from = x + (p0 * w->size[1] + p1) * w->size[2] - w->padding[2];
            const int8_t *with = weight + s0.low * l->of.w_plane + s1.low * l->of.columns;
            l->of.planes = s0.high - s0.low;
            l->of.rows = s1.high - s1.low;
            for (q2 = 0; q2 < wide; q2++) {
                costsim_span s2;
                if (q2 == inside && evens > 0) {
                    costsim_q_middle(l, evens, with, from + q2 * l->of.step, y + q2);
                    q2 += evens;
                    if (q2 == wide) {
                        break;
                    }
                }
                s2 = costsim_taps(w, 2, q2);
                y[q2] = costsim_q_edge(l, s2.high - s2.low, with + s2.low,
                                       from + q2 * l->of.step + s2.low * l->of.reach);
            }
        }
    }
}

static void costsim_q_depthwise(const costsim_window *w, const costsim_block *k, int32_t x_zero,
                                const int8_t *x, const costsim_q_output *to) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    costsim_q_line l;
    int32_t m;
    l.of = costsim_line_of(w);
    l.x_zero = x_zero;
    l.zero = to->zero;
    for (m = 0; m < k->n_outs; m++) {
        const int32_t o = k->first_out + costsim_number(k->outs, m);
        l.start = to->bias ? to->bias[o] : 0;
        l.factor = to->factors[o];
        costsim_q_channel(w, &l, (const int8_t *)k->weight + m * taps, x + o * plane,
                          to->y + o * costsim_pixels(w->out));
    }
}

void costsim_q_convolution_forward(const costsim_window *w, const costsim_block *blocks,
                                   int32_t count, int depthwise, const int32_t *bias,
                                   const float *factors, int32_t x_zero, int32_t y_zero,
                                   const int8_t *x, int8_t *y) {
    const int plain = costsim_q_plain(w);
    const costsim_window flat = costsim_q_flat(w);
    int32_t n, i, more;
    for (n = 0; n < w->samples; n++) {
        const int8_t *image = x + n * w->inputs * costsim_pixels(w->size);
        costsim_q_output to;
        to.bias = bias;
        to.factors = factors;
        to.zero = y_zero;
        to.y = y + n * w->outputs * costsim_pixels(w->out);
        for (i = 0; i < count; i += more) {
            const costsim_block *k = blocks + i;
            for (more = 1; i + more < count && k[more].adds_output; more++) {
            }
            if (depthwise) {
                costsim_q_depthwise(w, k, x_zero, image, &to);
            } else {
                costsim_q_products(plain ? &flat : w, k, more, x_zero, image, &to);
            }
        }
    }
}

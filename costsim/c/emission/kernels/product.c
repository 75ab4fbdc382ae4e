/* Products of matrices, and the layers that are one: pointwise convolutions, linear layers. */

#define COSTSIM_INLINE static inline __attribute__((always_inline))
#define COSTSIM_APART static __attribute__((noinline))

/* Row or column `i` of a matrix: its number in the tensor. */
COSTSIM_INLINE int32_t costsim_number(const costsim_channel *list, int32_t i) {
    return list ? (int32_t)list[i] : i;
}

typedef struct {
    const float *a[4], *b[4];
} costsim_corner;

/* sums of 4 x 4 products over the depth, in registers; `side` says whether the four columns of b
 * lie side by side, `listed` whether its rows are picked from a list. */
COSTSIM_INLINE void costsim_tile(int32_t depth, const float *const *a, int32_t a_step,
                                 const float *const *b, int32_t b_step,
                                 const costsim_channel *b_rows, int side, float *sums) {
    const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3];
    const float *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
    float s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
    float s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
    int32_t k;
    for (k = 0; k < depth; k++) {
        float u0 = *a0, u1 = *a1, u2 = *a2, u3 = *a3, v0, v1, v2, v3;
        if (b_rows) {
            int32_t at = (int32_t)b_rows[k] * b_step;
            v0 = b0[at];
            v1 = side ? b0[at + 1] : b1[at];
            v2 = side ? b0[at + 2] : b2[at];
            v3 = side ? b0[at + 3] : b3[at];
        } else {
            v0 = *b0;
            v1 = side ? b0[1] : *b1;
            v2 = side ? b0[2] : *b2;
            v3 = side ? b0[3] : *b3;
            b0 += b_step;
            if (!side) {
                b1 += b_step;
                b2 += b_step;
                b3 += b_step;
            }
        }
        a0 += a_step;
        a1 += a_step;
        a2 += a_step;
        a3 += a_step;
        COSTSIM_MAC(s00, u0, v0);
        COSTSIM_MAC(s01, u0, v1);
        COSTSIM_MAC(s02, u0, v2);
        COSTSIM_MAC(s03, u0, v3);
        COSTSIM_MAC(s10, u1, v0);
        COSTSIM_MAC(s11, u1, v1);
        COSTSIM_MAC(s12, u1, v2);
        COSTSIM_MAC(s13, u1, v3);
        COSTSIM_MAC(s20, u2, v0);
        COSTSIM_MAC(s21, u2, v1);
        COSTSIM_MAC(s22, u2, v2);
        COSTSIM_MAC(s23, u2, v3);
        COSTSIM_MAC(s30, u3, v0);
        COSTSIM_MAC(s31, u3, v1);
        COSTSIM_MAC(s32, u3, v2);
        COSTSIM_MAC(s33, u3, v3);
    }
    sums[0] = s00, sums[1] = s01, sums[2] = s02, sums[3] = s03;
    sums[4] = s10, sums[5] = s11, sums[6] = s12, sums[7] = s13;
    sums[8] = s20, sums[9] = s21, sums[10] = s22, sums[11] = s23;
    sums[12] = s30, sums[13] = s31, sums[14] = s32, sums[15] = s33;
}

/* 4 x 1 products: one column of b. */
COSTSIM_INLINE void costsim_column(int32_t depth, const float *const *a, int32_t a_step,
                                   const float *b, int32_t b_step, const costsim_channel *b_rows,
                                   float *sums) {
    const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3];
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int32_t k;
    for (k = 0; k < depth; k++) {
        float v = b_rows ? b[(int32_t)b_rows[k] * b_step] : *b;
        COSTSIM_MAC(s0, *a0, v);
        COSTSIM_MAC(s1, *a1, v);
        COSTSIM_MAC(s2, *a2, v);
        COSTSIM_MAC(s3, *a3, v);
        a0 += a_step;
        a1 += a_step;
        a2 += a_step;
        a3 += a_step;
        b += b_rows ? 0 : b_step;
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

static float costsim_dot(int32_t depth, const float *a, int32_t a_step, const float *b,
                         int32_t b_step, const costsim_channel *b_rows) {
    float sum = 0;
    int32_t k;
    for (k = 0; k < depth; k++) {
        COSTSIM_MAC(sum, a[k * a_step], b[costsim_number(b_rows, k) * b_step]);
    }
    return sum;
}

COSTSIM_INLINE void costsim_store(float *y, int32_t row, int32_t y_row, const float *bias,
                                  float scale, int adds, float sum) {
    float value = sum * scale + (bias ? bias[row] : 0.0f);
    y += row * y_row;
    *y = adds ? *y + value : value;
}

/* y[r, c] (+)= scale * sum over k of a[r, k] b[k, c], + bias[r]; r picked from y_rows. */
void costsim_product(int32_t rows, int32_t columns, int32_t depth, const costsim_matrix *a,
                     const costsim_matrix *b, float *y, int32_t y_row, int32_t y_column,
                     const costsim_channel *y_rows, const float *bias, float scale, int adds) {
    const int side = b->column == 1 && !b->columns;
    int32_t r, c, i, j;
    for (r = 0; r < rows; r += 4) {
        const int32_t height = rows - r < 4 ? rows - r : 4;
        const float *top[4], *left[4];
        float sums[16];
        for (i = 0; i < 4; i++) {
            const int32_t row = r + (i < height ? i : 0);
            top[i] = a->data + costsim_number(a->rows, row) * a->row;
        }
        for (c = 0; c < columns; c += 4) {
            const int32_t width = columns - c < 4 ? columns - c : 4;
            for (j = 0; j < 4; j++) {
                const int32_t column = c + (j < width ? j : 0);
                left[j] = b->data + costsim_number(b->columns, column) * b->column;
            }
            if (height == 4 && width == 4) {
                if (side && !b->rows) {
                    costsim_tile(depth, top, a->column, left, b->row, NULL, 1, sums);
                } else if (side) {
                    costsim_tile(depth, top, a->column, left, b->row, b->rows, 1, sums);
                } else {
                    costsim_tile(depth, top, a->column, left, b->row, b->rows, 0, sums);
                }
            } else if (height == 4) {
                for (j = 0; j < width; j++) {
                    float one[4];
                    costsim_column(depth, top, a->column, left[j], b->row, b->rows, one);
                    for (i = 0; i < 4; i++) {
                        sums[4 * i + j] = one[i];
                    }
                }
            } else {
                for (i = 0; i < height; i++) {
                    for (j = 0; j < width; j++) {
                        sums[4 * i + j] =
                            costsim_dot(depth, top[i], a->column, left[j], b->row, b->rows);
                    }
                }
            }
            for (i = 0; i < height; i++) {
                const int32_t row = costsim_number(y_rows, r + i);
                for (j = 0; j < width; j++) {
                    costsim_store(y + (c + j) * y_column, row, y_row, bias, scale, adds,
                                  sums[4 * i + j]);
                }
            }
        }
    }
}

/* One layer as a product for every pixel; `channel` and `pixel` are the steps in x and y. */
typedef struct {
    int32_t pixels, x_channel, x_pixel, y_channel, y_pixel;
} costsim_layout;

static void costsim_layer_forward(const costsim_layout *l, const costsim_block *k,
                                  const float *bias, const float *x, float *y) {
    const costsim_matrix a = {k->weight, k->n_ins, 1, NULL, NULL};
    const costsim_matrix b = {x + k->first_in * l->x_channel, l->x_channel, l->x_pixel, k->ins,
                              NULL};
    costsim_product(k->n_outs, l->pixels, k->n_ins, &a, &b, y + k->first_out * l->y_channel,
                    l->y_channel, l->y_pixel, k->outs,
                    bias && !k->adds_output ? bias + k->first_out : NULL, 1.0f, k->adds_output);
}

static void costsim_layer_input_gradient(const costsim_layout *l, const costsim_block *k,
                                         const float *dy, float *dx) {
    const costsim_matrix a = {k->weight, 1, k->n_ins, NULL, NULL};
    const costsim_matrix b = {dy + k->first_out * l->y_channel, l->y_channel, l->y_pixel, k->outs,
                              NULL};
    costsim_product(k->n_ins, l->pixels, k->n_outs, &a, &b, dx + k->first_in * l->x_channel,
                    l->x_channel, l->x_pixel, k->ins, NULL, 1.0f, k->adds_input);
}

static void costsim_layer_weight_gradient(const costsim_layout *l, const costsim_block *k,
                                          const float *dy, const float *x, float *dw, int adds) {
    const costsim_matrix a = {dy + k->first_out * l->y_channel, l->y_channel, l->y_pixel, k->outs,
                              NULL};
    const costsim_matrix b = {x + k->first_in * l->x_channel, l->x_pixel, l->x_channel, NULL,
                              k->ins};
    costsim_product(k->n_outs, k->n_ins, l->pixels, &a, &b, dw, k->n_ins, 1, NULL, NULL, 1.0f,
                    adds);
}

static int32_t costsim_pixels(const int32_t *size) { return size[0] * size[1] * size[2]; }

static costsim_layout costsim_planes(const costsim_window *w) {
    costsim_layout l;
    l.pixels = l.x_channel = l.y_channel = costsim_pixels(w->out);
    l.x_pixel = l.y_pixel = 1;
    return l;
}

void costsim_pointwise_forward(const costsim_window *w, const costsim_block *blocks, int32_t count,
                               const float *bias, const float *x, float *y) {
    const costsim_layout l = costsim_planes(w);
    int32_t n, i;
    for (n = 0; n < w->samples; n++) {
        for (i = 0; i < count; i++) {
            costsim_layer_forward(&l, blocks + i, bias, x + n * w->inputs * l.pixels,
                                  y + n * w->outputs * l.pixels);
        }
    }
}

void costsim_pointwise_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                      int32_t count, const float *dy, float *dx) {
    const costsim_layout l = costsim_planes(w);
    int32_t n, i;
    for (n = 0; n < w->samples; n++) {
        for (i = 0; i < count; i++) {
            costsim_layer_input_gradient(&l, blocks + i, dy + n * w->outputs * l.pixels,
                                         dx + n * w->inputs * l.pixels);
        }
    }
}

void costsim_pointwise_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                       int32_t count, const float *dy, const float *x, float *dw) {
    const costsim_layout l = costsim_planes(w);
    int32_t n, i;
    for (i = 0; i < count; i++) {
        for (n = 0; n < w->samples; n++) {
            costsim_layer_weight_gradient(&l, blocks + i, dy + n * w->outputs * l.pixels,
                                          x + n * w->inputs * l.pixels, dw, n > 0);
        }
        dw += blocks[i].n_outs * blocks[i].n_ins;
    }
}

static costsim_layout costsim_rows(int32_t rows, int32_t inputs, int32_t outputs) {
    costsim_layout l;
    l.pixels = rows;
    l.x_channel = l.y_channel = 1;
    l.x_pixel = inputs;
    l.y_pixel = outputs;
    return l;
}

void costsim_linear_forward(int32_t rows, int32_t inputs, int32_t outputs,
                            const costsim_block *blocks, int32_t count, const float *bias,
                            const float *x, float *y) {
    const costsim_layout l = costsim_rows(rows, inputs, outputs);
    int32_t i;
    for (i = 0; i < count; i++) {
        costsim_layer_forward(&l, blocks + i, bias, x, y);
    }
}

void costsim_linear_input_gradient(int32_t rows, int32_t inputs, int32_t outputs,
                                   const costsim_block *blocks, int32_t count, const float *dy,
                                   float *dx) {
    const costsim_layout l = costsim_rows(rows, inputs, outputs);
    int32_t i;
    for (i = 0; i < count; i++) {
        costsim_layer_input_gradient(&l, blocks + i, dy, dx);
    }
}

void costsim_linear_weight_gradient(int32_t rows, int32_t inputs, int32_t outputs,
                                    const costsim_block *blocks, int32_t count, const float *dy,
                                    const float *x, float *dw) {
    const costsim_layout l = costsim_rows(rows, inputs, outputs);
    int32_t i;
    for (i = 0; i < count; i++) {
        costsim_layer_weight_gradient(&l, blocks + i, dy, x, dw, 0);
        dw += blocks[i].n_outs * blocks[i].n_ins;
    }
}

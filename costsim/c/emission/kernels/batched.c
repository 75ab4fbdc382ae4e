/* Products of stacks of matrices: l loops over the stack, with the steps of a, b and y. */

void costsim_batched_product(const costsim_loops *l, int32_t rows, int32_t columns, int32_t depth,
                             const costsim_matrix *a, const costsim_matrix *b, float *y,
                             int32_t y_row, float scale, int adds) {
    int32_t i[6] = {0, 0, 0, 0, 0, 0}, d;
    costsim_matrix one = *a, other = *b;
    for (;;) {
        costsim_product(rows, columns, depth, &one, &other, y, y_row, 1, NULL, NULL, scale, adds);
        for (d = 5; d >= 0; d--) {
            one.data += l->a[d], other.data += l->b[d], y += l->y[d];
            if (++i[d] < l->shape[d]) {
                break;
            }
            one.data -= l->a[d] * l->shape[d];
            other.data -= l->b[d] * l->shape[d];
            y -= l->y[d] * l->shape[d];
            i[d] = 0;
        }
        if (d < 0) {
            return;
        }
    }
}

/* Weights as the kernels read them. */

#include "operation.h"
#include "panels.h"

int64_t costsim_native_packed_floats(int64_t columns, int64_t depth)
{
    return packed_columns(columns) * depth;
}

/* A matrix [depth, columns] whose element (k, n) is `from[k * depth_step + n * column_step]`, panel
   after panel; what a panel has beyond the last column is zero. */
void costsim_native_pack(const float *from, float *to, int64_t columns, int64_t depth,
                         int64_t depth_step, int64_t column_step)
{
    for (int64_t column = 0; column < columns;) {
        int64_t width = (int64_t)panel_vectors(columns - column) * LANES;
        float *panel = to + column * depth;
        for (int64_t n = 0; n < width; n++)
            if (column + n >= columns)
                for (int64_t k = 0; k < depth; k++)
                    panel[k * width + n] = 0.0f;
        int64_t full = column + width <= columns ? width : columns - column;
        for (int64_t k = 0; k < depth; k++)
            for (int64_t n = 0; n < full; n++)
                panel[k * width + n] = from[k * depth_step + (column + n) * column_step];
        column += width;
    }
}

/* Columns of a packed matrix anew, after the rows of a weight in the list have changed: the weight
   X is [columns, depth], its packed form Y. */
void run_repack(const struct operation *o, const struct context *c)
{
    const float *from = place(o, c, X);
    const int64_t *which = place(o, c, LIST);
    float *to = place(o, c, Y);
    struct span own = own_part(c, o->rows, 1);
    int64_t column = 0, i = own.begin;
    while (i < own.end) {
        int64_t width = (int64_t)panel_vectors(o->columns - column) * LANES, last = i;
        while (last < own.end && which[last] < column + width)
            last++;
        /* A row of the panel is a cache line or two: all that changes in it at once. */
        for (int64_t k = 0; k < o->depth; k++)
            for (int64_t j = i; j < last; j++)
                to[column * o->depth + k * width + which[j] - column] =
                    from[which[j] * o->depth + k];
        column += width;
        i = last;
    }
}

/* Images as a model takes them, [batch, channels, pixels], with channels last. */
void costsim_native_interleave(const float *from, float *to, int64_t batch, int64_t channels,
                               int64_t pixels)
{
    for (int64_t n = 0; n < batch; n++, from += channels * pixels, to += channels * pixels) {
        if (channels == 3) {
            const float *red = from, *green = from + pixels, *blue = from + 2 * pixels;
            for (int64_t p = 0; p < pixels; p++) {
                to[3 * p] = red[p];
                to[3 * p + 1] = green[p];
                to[3 * p + 2] = blue[p];
            }
        } else {
            for (int64_t p = 0; p < pixels; p++)
                for (int64_t k = 0; k < channels; k++)
                    to[p * channels + k] = from[k * pixels + p];
        }
    }
}

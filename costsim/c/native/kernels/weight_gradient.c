/* Gradients of the selected channels of weights. */

#include "finish.h"
#include "panels.h"

/* R of the selected columns of dy with V vectors of x, over all pixels. */
INLINE void tile(const int R, const int V, const struct finish *f, const float *dy, int64_t dy_step,
                 const int64_t *which, const float *x, int64_t x_step, int64_t pixels, int64_t row,
                 int64_t column)
{
    vector sums[MOST_ROWS][MOST_VECTORS];
    const float *own[MOST_ROWS];
    UNROLL for (int r = 0; r < R; r++) {
        own[r] = dy + which[row + r];
        UNROLL for (int v = 0; v < V; v++)
            sums[r][v] = (vector){0};
    }
    for (int64_t p = 0; p < pixels; p++) {
        vector seen[MOST_VECTORS];
        UNROLL for (int v = 0; v < V; v++)
            seen[v] = load(x + p * x_step + column + v * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            float one = own[r][p * dy_step];
            UNROLL for (int v = 0; v < V; v++)
                sums[r][v] += one * seen[v];
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            if (column + v * LANES < f->columns)
                finish(ANYHOW, f, sums[r][v], row + r, column + v * LANES);
}

INLINE void panel(const int R, const int V, const struct finish *f, const float *dy,
                  int64_t dy_step, const int64_t *which, const float *x, int64_t x_step,
                  int64_t pixels, struct span rows, int64_t column)
{
    int64_t row = rows.begin;
    for (; row + R <= rows.end; row += R)
        tile(R, V, f, dy, dy_step, which, x, x_step, pixels, row, column);
    for (; row < rows.end; row++)
        tile(1, V, f, dy, dy_step, which, x, x_step, pixels, row, column);
}

/* Of a pointwise convolution or a linear layer: dy [depth, count] transposed, of which the columns
   in the list, times x [depth, columns]. */
void run_weight_product(const struct operation *o, const struct context *c)
{
    struct finish f = finish_of(o, c);
    const float *dy = place(o, c, X), *x = place(o, c, WEIGHTS);
    const int64_t *which = place(o, c, LIST);
    struct span own = own_part(c, o->rows, WIDE_ROWS);
    for (int64_t column = 0; column < o->columns;) {
        int vectors = panel_vectors(o->columns - column);
        if (vectors == WIDE)
            panel(WIDE_ROWS, WIDE, &f, dy, o->count, which, x, o->columns, o->depth, own, column);
        else if (vectors == NARROW)
            panel(NARROW_ROWS, NARROW, &f, dy, o->count, which, x, o->columns, o->depth, own,
                  column);
        else
            panel(LAST_ROWS, LAST, &f, dy, o->count, which, x, o->columns, o->depth, own, column);
        column += vectors * LANES;
    }
}

/* The channels in the list as a vector; beyond `count` it may hold anything. */
INLINE vector gathered(const float *from, const int64_t *which, int64_t count)
{
    if (which[count - 1] - which[0] == count - 1)
        return load(from + which[0]);
    float found[LANES] = {0};
    for (int i = 0; i < count; i++)
        found[i] = from[which[i]];
    return load(found);
}

/* Of a depthwise convolution, for the channels in the list; `depth` channels of x are there: all
   of them, or those of the list alone. The result is [channel, taps]. */
void run_depthwise_weight(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    const float *dy = place(o, c, X), *x = place(o, c, WEIGHTS);
    const int64_t *which = place(o, c, LIST);
    float *dw = place(o, c, Y);
    int taps = g->kernel[0] * g->kernel[1];
    struct span own = own_part(c, o->rows, LANES);
    for (int64_t first = own.begin; first < own.end; first += LANES) {
        int64_t count = own.end - first < LANES ? own.end - first : LANES;
        for (int i = 0; i < g->kernel[0]; i++) {
            vector sums[MOST_ROWS] = {{0}};
            for (int64_t line = 0; line < (int64_t)g->batch * g->out_height; line++) {
                int64_t y = line % g->out_height * g->stride[0] - g->padding[0] + i * g->dilation[0];
                if (y < 0 || y >= g->height)
                    continue;
                int64_t image = line / g->out_height * g->height + y;
                for (int64_t at = 0; at < g->out_width; at++) {
                    vector one = gathered(dy + (line * g->out_width + at) * g->channels,
                                          which + first, count);
                    for (int j = 0; j < g->kernel[1]; j++) {
                        int64_t b = at * g->stride[1] - g->padding[1] + j * g->dilation[1];
                        if (b < 0 || b >= g->width)
                            continue;
                        const float *from = x + (image * g->width + b) * o->depth;
                        sums[j] += one * (o->depth == o->rows ? load(from + first)
                                                              : gathered(from, which + first, count));
                    }
                }
            }
            for (int j = 0; j < g->kernel[1]; j++)
                for (int64_t r = 0; r < count; r++)
                    dw[(first + r) * taps + i * g->kernel[1] + j] = sums[j][r];
        }
    }
}

/* Sums over the rows of x [rows, columns]: the gradient of a bias. */
void run_column_sums(const struct operation *o, const struct context *c)
{
    const float *x = place(o, c, X);
    float *y = place(o, c, Y);
    struct span own = own_part(c, o->columns, LANES);
    for (int64_t column = own.begin; column < own.end; column += LANES) {
        vector sum = {0};
        for (int64_t row = 0; row < o->rows; row++)
            sum += load(x + row * o->columns + column);
        store_some(y + column, sum, own.end - column);
    }
}

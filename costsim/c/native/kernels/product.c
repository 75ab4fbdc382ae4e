/* Pointwise convolutions, linear layers and their input gradients: y = x times weights. */

#include "finish.h"
#include "panels.h"

#define AHEAD 24 /* rows of the weights that are fetched before they are needed */
#define CACHED_FLOATS 16384 /* of x, read again for every panel */

INLINE void tile(const enum how how, const int R, const int V, const struct finish *f,
                 const float *x, int64_t step, const float *w, int64_t w_step, int64_t depth,
                 int64_t row, int64_t column)
{
    vector sums[MOST_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            sums[r][v] = (vector){0};
    for (int64_t k = 0; k < depth; k++) {
        vector row_of_w[MOST_VECTORS];
        __builtin_prefetch(w + (k + AHEAD) * w_step);
        UNROLL for (int v = 0; v < V; v++)
            row_of_w[v] = load(w + k * w_step + v * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            float own = x[r * step + k];
            UNROLL for (int v = 0; v < V; v++)
                sums[r][v] += own * row_of_w[v];
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            if (column + v * LANES < f->columns)
                finish(how, f, sums[r][v], row + r, column + v * LANES);
}

/* All rows of a panel, R at a time and what is left one by one. */
INLINE void panel(const enum how how, const int R, const int V, const struct finish *f,
                  const float *x, int64_t depth, const float *w, int64_t w_step, struct span rows,
                  int64_t column)
{
    int64_t row = rows.begin;
    for (; row + R <= rows.end; row += R)
        tile(how, R, V, f, x + row * depth, depth, w, w_step, depth, row, column);
    for (; row + 2 <= rows.end; row += 2)
        tile(how, 2, V, f, x + row * depth, depth, w, w_step, depth, row, column);
    for (; row < rows.end; row++)
        tile(how, 1, V, f, x + row * depth, depth, w, w_step, depth, row, column);
}

INLINE void block(const enum how how, const struct operation *o, const struct finish *f,
                  const float *x, const float *weights, struct span rows)
{
    for (int64_t column = 0; column < o->columns;) {
        int vectors = panel_vectors(o->columns - column);
        int whole = o->flags & UNPACKED;
        const float *w = weights + (whole ? column : column * o->depth);
        int64_t w_step = whole ? o->columns : vectors * LANES;
        if (vectors == WIDE)
            panel(how, WIDE_ROWS, WIDE, f, x, o->depth, w, w_step, rows, column);
        else if (vectors == NARROW)
            panel(how, NARROW_ROWS, NARROW, f, x, o->depth, w, w_step, rows, column);
        else
            panel(how, LAST_ROWS, LAST, f, x, o->depth, w, w_step, rows, column);
        column += vectors * LANES;
    }
}

void run_product(const struct operation *o, const struct context *c)
{
    struct finish f = finish_of(o, c);
    enum how how = how_of(&f);
    const float *x = place(o, c, X), *weights = place(o, c, WEIGHTS);
    struct span own = own_part(c, o->rows, 12);
    int64_t many = CACHED_FLOATS / o->depth / 12 * 12;
    if (many < 12)
        many = 12;
    for (int64_t row = own.begin; row < own.end; row += many) {
        struct span rows = {row, row + many < own.end ? row + many : own.end};
        if (how == BIASED_AND_CLAMPED)
            block(BIASED_AND_CLAMPED, o, &f, x, weights, rows);
        else
            block(ANYHOW, o, &f, x, weights, rows);
    }
}

/* Dense convolutions of any window: sums over taps, in tiles as of a product.

   Weights are packed as a matrix [kernel height * kernel width * channels, columns]. Where a row
   of the window lies in the image as a whole, its taps follow one another in memory, and are
   summed over as if they were one. */

#include "finish.h"
#include "panels.h"

#define MOST_CHANNELS 4096

static const float outside[MOST_CHANNELS];

INLINE void add_tap(const int R, const int V, vector sums[][MOST_VECTORS],
                    const float *const *rows, int64_t depth, const float *w)
{
    for (int64_t k = 0; k < depth; k++) {
        vector row_of_w[MOST_VECTORS];
        UNROLL for (int v = 0; v < V; v++)
            row_of_w[v] = load(w + (k * V + v) * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            float own = rows[r][k];
            UNROLL for (int v = 0; v < V; v++)
                sums[r][v] += own * row_of_w[v];
        }
    }
}

/* R pixels beside each other, from (y, x) on. */
INLINE void pixels(const enum how how, const int R, const int V, const struct window *g,
                   const struct finish *f, const float *image, const float *w, int64_t row,
                   int64_t column)
{
    vector sums[MOST_ROWS][MOST_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            sums[r][v] = (vector){0};
    int64_t y = row / g->out_width % g->out_height, x = row % g->out_width;
    int64_t left = x * g->stride[1] - g->padding[1];
    int64_t right = left + (R - 1) * g->stride[1] + (g->kernel[1] - 1) * g->dilation[1];
    int whole = left >= 0 && right < g->width && g->dilation[1] == 1;
    int taps = whole ? 1 : g->kernel[1];
    int64_t depth = (int64_t)g->channels * (whole ? g->kernel[1] : 1);
    for (int i = 0; i < g->kernel[0]; i++) {
        int64_t line = y * g->stride[0] - g->padding[0] + i * g->dilation[0];
        if (line < 0 || line >= g->height)
            continue;
        for (int j = 0; j < taps; j++) {
            const float *rows[MOST_ROWS];
            UNROLL for (int r = 0; r < R; r++) {
                int64_t place = left + r * g->stride[1] + j * g->dilation[1];
                int in = place >= 0 && place < g->width;
                rows[r] = in ? image + (line * g->width + place) * g->channels : outside;
            }
            add_tap(R, V, sums, rows, depth,
                    w + ((int64_t)i * g->kernel[1] + j) * g->channels * V * LANES);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < V; v++)
            if (column + v * LANES < f->columns)
                finish(how, f, sums[r][v], row + r, column + v * LANES);
}

/* All pixels of a row of the output. */
INLINE void panel(const enum how how, const int R, const int V, const struct window *g,
                  const struct finish *f, const float *image, const float *w, int64_t row,
                  int64_t column)
{
    int64_t x = 0;
    for (; x + R <= g->out_width; x += R)
        pixels(how, R, V, g, f, image, w, row + x, column);
    for (; x < g->out_width; x++)
        pixels(how, 1, V, g, f, image, w, row + x, column);
}

/* One row of the output, all columns. */
INLINE void line(const enum how how, const struct operation *o, const struct finish *f,
                 const float *image, const float *weights, int64_t row)
{
    const struct window *g = &o->window;
    for (int64_t column = 0; column < o->columns;) {
        int vectors = panel_vectors(o->columns - column);
        const float *w = weights + column * o->depth;
        if (vectors == WIDE)
            panel(how, WIDE_ROWS, WIDE, g, f, image, w, row, column);
        else if (vectors == NARROW)
            panel(how, NARROW_ROWS, NARROW, g, f, image, w, row, column);
        else
            panel(how, LAST_ROWS, LAST, g, f, image, w, row, column);
        column += vectors * LANES;
    }
}

void run_convolution(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    struct finish f = finish_of(o, c);
    enum how how = how_of(&f);
    const float *x = place(o, c, X), *weights = place(o, c, WEIGHTS);
    struct span own = own_part(c, (int64_t)g->batch * g->out_height, 1);
    for (int64_t i = own.begin; i < own.end; i++) {
        const float *image = x + i / g->out_height * g->height * g->width * g->channels;
        if (how == BIASED_AND_CLAMPED)
            line(BIASED_AND_CLAMPED, o, &f, image, weights, i * g->out_width);
        else
            line(ANYHOW, o, &f, image, weights, i * g->out_width);
    }
}

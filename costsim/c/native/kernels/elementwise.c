/* What takes each element once: activations and their masks, sums, means, copies. */

#include "finish.h"

#define GRAIN 64 /* elements that one thread takes at least: whole bytes of masks */

/* Clamps and masks that no sum could be finished with. */
void run_activation(const struct operation *o, const struct context *c)
{
    struct finish f = finish_of(o, c);
    const float *x = place(o, c, X);
    f.columns = o->count;
    struct span own = own_part(c, o->count, GRAIN);
    for (int64_t i = own.begin; i < own.end; i += LANES)
        finish(ANYHOW, &f, load(x + i), 0, i);
}

void run_add(const struct operation *o, const struct context *c)
{
    const float *x = place(o, c, X), *added = place(o, c, ADDED);
    float *y = place(o, c, Y);
    struct span own = own_part(c, o->count, GRAIN);
    for (int64_t i = own.begin; i < own.end; i += LANES)
        store_some(y + i, load(x + i) + load(added + i), own.end - i);
}

/* Means over the pixels of images: x [rows, depth, columns] to y [rows, columns]. */
void run_mean(const struct operation *o, const struct context *c)
{
    const float *x = place(o, c, X);
    float *y = place(o, c, Y), count = (float)o->depth;
    struct span own = own_part(c, o->rows, 1);
    for (int64_t row = own.begin; row < own.end; row++)
        for (int64_t column = 0; column < o->columns; column += LANES) {
            vector sum = {0};
            for (int64_t p = 0; p < o->depth; p++)
                sum += load(x + (row * o->depth + p) * o->columns + column);
            store_some(y + row * o->columns + column, sum / every(count), o->columns - column);
        }
}

void run_mean_spread(const struct operation *o, const struct context *c)
{
    const float *dy = place(o, c, X);
    struct finish f = finish_of(o, c);
    float count = (float)o->depth;
    struct span own = own_part(c, o->rows * o->depth, 1);
    for (int64_t row = own.begin; row < own.end; row++)
        for (int64_t column = 0; column < o->columns; column += LANES)
            finish(ANYHOW, &f, load(dy + row / o->depth * o->columns + column) / every(count), row, column);
}

/* The columns in the list of x [rows, columns], side by side. */
void run_keep(const struct operation *o, const struct context *c)
{
    const float *x = place(o, c, X);
    const int64_t *which = place(o, c, LIST);
    float *y = place(o, c, Y);
    struct span own = own_part(c, o->rows, 1);
    for (int64_t row = own.begin; row < own.end; row++)
        for (int64_t i = 0; i < o->count; i++)
            y[row * o->count + i] = x[row * o->columns + which[i]];
}

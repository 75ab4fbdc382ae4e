/* What a program is made of here: a flat list of records, run from the first to the last.

   Images lie with their channels last. A place is an offset in the arena, or an address. */

#ifndef COSTSIM_OPERATION_H
#define COSTSIM_OPERATION_H

#include <stdint.h>

enum kind {
    PRODUCT,
    CONVOLUTION,
    DEPTHWISE,
    DEPTHWISE_SPREAD,
    WEIGHT_PRODUCT,
    DEPTHWISE_WEIGHT,
    ACTIVATION,
    ADD,
    MEAN,
    MEAN_SPREAD,
    COLUMN_SUMS,
    KEEP,
    UPDATE,
    REPACK,
    KINDS
};

enum place { X, WEIGHTS, BIAS, Y, ADDED, MASK_OUT, MASK_IN, LIST, PLACES };

enum flag {
    CLAMPS_LOW = 1,   /* below `low` the result is `low` */
    CLAMPS_HIGH = 2,  /* above `high` it is `high` */
    AT_BOUNDS = 4,    /* the gradient passes at the bounds too */
    UNPACKED = 8      /* the weights are a matrix [depth, columns] as it is */
};

struct window {
    int32_t batch, height, width, channels, out_height, out_width;
    int32_t kernel[2], stride[2], padding[2], dilation[2];
};

struct operation {
    int32_t kind, flags;
    int64_t at[PLACES];
    int32_t present, absolute; /* one bit a place */
    int64_t rows, columns, depth, count;
    struct window window;
    float low, high;
};

/* What an update is told, step by step. */
struct settings {
    double learning_rate, momentum, beta1, beta2, eps, step; /* steps from 1 */
    int32_t states; /* of the optimizer: 0 plain, 1 momentum, 2 Adam */
};

/* One thread's part of an operation, and what it works with. */
struct context {
    char *arena;
    const struct settings *settings;
    int part, parts;
};

static inline void *place(const struct operation *o, const struct context *c, enum place which)
{
    if (!(o->present >> which & 1))
        return 0;
    if (o->absolute >> which & 1)
        return (void *)(intptr_t)o->at[which];
    return c->arena + o->at[which];
}

struct span {
    int64_t begin, end;
};

/* This thread's part of `count`, in multiples of `grain`. Parts differ in what is computed and
   never in how, so that results do not depend on how many there are. */
static inline struct span own_part(const struct context *c, int64_t count, int64_t grain)
{
    int64_t grains = (count + grain - 1) / grain;
    struct span own = {grains * c->part / c->parts * grain, grains * (c->part + 1) / c->parts * grain};
    if (own.end > count)
        own.end = count;
    if (own.begin > count)
        own.begin = count;
    return own;
}

typedef void operation_function(const struct operation *, const struct context *);

operation_function run_product, run_convolution, run_depthwise, run_depthwise_spread,
    run_weight_product, run_depthwise_weight, run_activation, run_add, run_mean,
    run_mean_spread, run_column_sums, run_keep, run_update,
    run_repack;

#endif

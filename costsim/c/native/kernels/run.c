/* Runs a list of operations. */

#include "operation.h"
#include "threads.h"
#include "vector.h"

#define WORK_OF_A_THREAD (1 << 20) /* multiply-adds that are worth waking one */

static operation_function *const FUNCTIONS[KINDS] = {
    [PRODUCT] = run_product,
    [CONVOLUTION] = run_convolution,
    [DEPTHWISE] = run_depthwise,
    [DEPTHWISE_SPREAD] = run_depthwise_spread,
    [WEIGHT_PRODUCT] = run_weight_product,
    [DEPTHWISE_WEIGHT] = run_depthwise_weight,
    [ACTIVATION] = run_activation,
    [ADD] = run_add,
    [MEAN] = run_mean,
    [MEAN_SPREAD] = run_mean_spread,
    [COLUMN_SUMS] = run_column_sums,
    [KEEP] = run_keep,
    [UPDATE] = run_update,
    [REPACK] = run_repack,
};

int64_t costsim_native_operation_bytes(void) { return sizeof(struct operation); }

int64_t costsim_native_lanes(void) { return LANES; }

/* Multiply-adds of an operation, or what takes as long. */
static int64_t work_of(const struct operation *o)
{
    const struct window *g = &o->window;
    int64_t taps = (int64_t)g->kernel[0] * g->kernel[1];
    switch (o->kind) {
    case PRODUCT:
    case CONVOLUTION:
    case WEIGHT_PRODUCT: return o->rows * o->columns * o->depth;
    case DEPTHWISE:
    case DEPTHWISE_SPREAD: return o->rows * o->columns * taps;
    case DEPTHWISE_WEIGHT: return o->rows * taps * g->batch * g->out_height * g->out_width;
    default: return 4 * (o->count + o->rows * o->columns);
    }
}

/* Runs operations one after another, each by as many of `threads` as it has work for. */
void costsim_native_run(const struct operation *operations, int64_t count, char *arena,
                        const struct settings *settings, int64_t threads)
{
    struct context context = {arena, settings, 0, 1};
    for (int64_t i = 0; i < count; i++) {
        const struct operation *o = &operations[i];
        int64_t parts = threads > 1 ? work_of(o) / WORK_OF_A_THREAD : 1;
        if (parts > threads)
            parts = threads;
        if (parts < 2 || !run_in_parts(FUNCTIONS[o->kind], o, context, (int)parts))
            FUNCTIONS[o->kind](o, &context);
    }
}

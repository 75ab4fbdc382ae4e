/* Runs a list of operations. */

#include "operation.h"
#include "vector.h"

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

void costsim_native_run(const struct operation *operations, int64_t count, char *arena,
                        const struct settings *settings)
{
    struct context context = {arena, settings, 0, 1};
    for (int64_t i = 0; i < count; i++)
        FUNCTIONS[operations[i].kind](&operations[i], &context);
}

/* Updates of the selected part of a weight, as `costsim.run.execution.update` has them. */

#include <math.h>

#include "operation.h"

/* Runs of `depth` elements that begin at the places in the list; gradient and states lie densely.
   X is the gradient, Y the weight, ADDED the optimizer's states. */
void run_update(const struct operation *o, const struct context *c)
{
    const float *gradient = place(o, c, X);
    const int64_t *starts = place(o, c, LIST);
    float *weight = place(o, c, Y), *first = place(o, c, ADDED);
    float *second = first + o->rows * o->depth;
    const struct settings *s = c->settings;
    double corrected = s->optimizer == 2 ? 1.0 - pow(s->beta1, s->step) : 1.0;
    float rate = (float)(s->learning_rate / corrected), momentum = (float)s->momentum;
    float scale = (float)sqrt(1.0 - pow(s->beta2, s->step)), eps = (float)s->eps;
    float new1 = (float)(1.0 - s->beta1), old2 = (float)s->beta2, new2 = (float)(1.0 - s->beta2);
    struct span own = own_part(c, o->rows, 1);
    for (int64_t row = own.begin; row < own.end; row++) {
        float *to = weight + starts[row];
        int64_t from = row * o->depth;
        for (int64_t i = 0; i < o->depth; i++) {
            float change = gradient[from + i];
            if (s->optimizer == 1) {
                change += momentum * first[from + i];
                first[from + i] = change;
            } else if (s->optimizer == 2) {
                first[from + i] += new1 * (change - first[from + i]);
                second[from + i] = old2 * second[from + i] + new2 * change * change;
                change = first[from + i] / (sqrtf(second[from + i]) / scale + eps);
            }
            to[i] -= rate * change;
        }
    }
}

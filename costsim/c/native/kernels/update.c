/* Updates of the selected part of a weight, as `costsim.run.execution.update` has them. */

#include <math.h>

#include "operation.h"

/* Runs of `depth` elements that begin at the places in the list; gradient and states lie densely.
   X is the gradient, Y the weight, ADDED the optimizer's states. */

static void plain(float *restrict weight, const float *restrict gradient, int64_t count, float rate)
{
    for (int64_t i = 0; i < count; i++)
        weight[i] -= rate * gradient[i];
}

static void momentum(float *restrict weight, const float *restrict gradient,
                     float *restrict velocity, int64_t count, float rate, float kept)
{
    for (int64_t i = 0; i < count; i++) {
        velocity[i] = kept * velocity[i] + gradient[i];
        weight[i] -= rate * velocity[i];
    }
}

struct adam {
    float rate, new1, kept2, new2, scale, eps;
};

static struct adam adam_of(const struct settings *s)
{
    return (struct adam){
        .rate = (float)(s->learning_rate / (1.0 - pow(s->beta1, s->step))),
        .new1 = (float)(1.0 - s->beta1),
        .kept2 = (float)s->beta2,
        .new2 = (float)(1.0 - s->beta2),
        .scale = (float)sqrt(1.0 - pow(s->beta2, s->step)),
        .eps = (float)s->eps,
    };
}

static void adam(float *restrict weight, const float *restrict gradient, float *restrict mean,
                 float *restrict square, int64_t count, const struct adam *a)
{
    for (int64_t i = 0; i < count; i++) {
        mean[i] += a->new1 * (gradient[i] - mean[i]);
        square[i] = a->kept2 * square[i] + a->new2 * gradient[i] * gradient[i];
        weight[i] -= a->rate * mean[i] / (sqrtf(square[i]) / a->scale + a->eps);
    }
}

void run_update(const struct operation *o, const struct context *c)
{
    const float *gradient = place(o, c, X);
    const int64_t *starts = place(o, c, LIST);
    float *weight = place(o, c, Y), *states = place(o, c, ADDED);
    const struct settings *s = c->settings;
    struct adam settings = adam_of(s);
    struct span own = own_part(c, o->rows, 1);
    for (int64_t row = own.begin; row < own.end; row++) {
        int64_t from = row * o->depth;
        float *to = weight + starts[row];
        if (s->states == 0)
            plain(to, gradient + from, o->depth, (float)s->learning_rate);
        else if (s->states == 1)
            momentum(to, gradient + from, states + from, o->depth, (float)s->learning_rate,
                     (float)s->momentum);
        else
            adam(to, gradient + from, states + from, states + o->rows * o->depth + from, o->depth,
                 &settings);
    }
}

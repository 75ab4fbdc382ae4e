/* A whole adaptation: the loops of its recipe around the steps. */
#include "costsim_model.h"

#define NOT_A_NUMBER (0.0f / 0.0f)

/* Numbers that look drawn, the same every time. */
static uint32_t drawn(uint32_t number) {
    number = (number ^ (number >> 16)) * 0x7feb352du;
    number = (number ^ (number >> 15)) * 0x846ca68bu;
    return number ^ (number >> 16);
}

static int32_t common_divisor(int32_t a, int32_t b) {
    while (b) {
        const int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

#if COSTSIM_BY_CLASS_MEANS
static int32_t take_means(const costsim_task *task) {
    int32_t labels[COSTSIM_SAMPLES];
    int32_t image, sample;
    if (costsim_begin_means(task->classes)) {
        return 1;
    }
    for (image = 0; image < task->images;) {
        for (sample = 0; sample < COSTSIM_SAMPLES; sample++, image++) {
            labels[sample] = -1;
            if (image < task->images) {
                labels[sample] = task->show(task->context, image, -1, sample);
                if (labels[sample] < 0) {
                    return 1;
                }
            }
        }
        if (costsim_add_to_means(COSTSIM_INPUT, labels)) {
            return 1;
        }
    }
    costsim_end_means();
    return 0;
}
#else
static int32_t take_means(const costsim_task *task) {
    (void)task;
    return 0;
}
#endif

/* One pass of a step: what it shows is every `interval`-th image from `turn` on, in the order of
 * start, start + stride, ... around. */
typedef struct {
    int32_t turn, interval, count, start, stride;
} showing;

static float pass(const costsim_task *task, const showing *shown, int32_t iteration, int32_t at) {
    int32_t labels[COSTSIM_SAMPLES];
    int32_t sample;
    for (sample = 0; sample < COSTSIM_SAMPLES; sample++, at++) {
        const uint32_t place = (uint32_t)shown->start + (uint32_t)(at % shown->count) * (uint32_t)shown->stride;
        const int32_t image = shown->turn + (int32_t)(place % (uint32_t)shown->count) * shown->interval;
        labels[sample] = task->show(task->context, image, iteration, sample);
        if (labels[sample] < 0) {
            return NOT_A_NUMBER;
        }
    }
    return costsim_pass(COSTSIM_INPUT, labels);
}

static float iterate(const costsim_task *task, int32_t iteration) {
    showing shown;
    float total = 0.0f;
    int32_t step, steps, number;
    shown.interval = COSTSIM_IMAGE_INTERVAL < task->images ? COSTSIM_IMAGE_INTERVAL : task->images;
    shown.turn = iteration % shown.interval;
    shown.count = (task->images - shown.turn + shown.interval - 1) / shown.interval;
    shown.start = (int32_t)(drawn(2u * (uint32_t)iteration) % (uint32_t)shown.count);
    shown.stride = (int32_t)(drawn(2u * (uint32_t)iteration + 1u) % (uint32_t)shown.count) + 1;
    while (common_divisor(shown.stride, shown.count) != 1) {
        shown.stride++;
    }
    steps = (shown.count + COSTSIM_BATCH - 1) / COSTSIM_BATCH;
    for (step = 0; step < steps; step++) {
        costsim_begin_step();
        for (number = 0; number < COSTSIM_PASSES; number++) {
            const int32_t at = step * COSTSIM_BATCH + number * COSTSIM_SAMPLES;
            const float loss = pass(task, &shown, iteration, at);
            if (!(loss - loss == 0.0f)) {
                return loss;
            }
            total += loss;
        }
        if (costsim_end_step()) {
            return NOT_A_NUMBER;
        }
    }
    return total / (float)(steps * COSTSIM_PASSES);
}

float costsim_adapt(const costsim_task *task) {
    float loss = NOT_A_NUMBER;
    int32_t iteration;
    if (task->images < 1) {
        return NOT_A_NUMBER;
    }
    for (iteration = 0; iteration < COSTSIM_ITERATIONS; iteration++) {
        if (iteration % COSTSIM_MEANS_INTERVAL == 0 && take_means(task)) {
            return NOT_A_NUMBER;
        }
        loss = iterate(task, iteration);
        if (!(loss - loss == 0.0f)) {
            return loss;
        }
    }
    return take_means(task) ? NOT_A_NUMBER : loss;
}

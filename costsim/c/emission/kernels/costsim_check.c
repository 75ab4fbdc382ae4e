/* Runs the model on made-up images and compares what it returns with costsim_vectors.h.
 *
 * Empty without COSTSIM_CHECK, which `make check` defines: it has a `main`, and some builds compile
 * every file of a folder beside one of their own. */
typedef int costsim_check_is_no_empty_file;

#ifdef COSTSIM_CHECK
#include <stdio.h>
#include <string.h>

#include "costsim_model.h"
#include "costsim_vectors.h"

#define VALUES (COSTSIM_SAMPLES * COSTSIM_INPUTS)
#define RESULTS (COSTSIM_SAMPLES * COSTSIM_OUTPUTS)

static uint8_t bytes[VALUES];
static float input[VALUES], outputs[RESULTS], again[RESULTS];
static uint8_t memory[2 * COSTSIM_SLOT_BYTES];
static int failed;

static void check(const char *what, int holds) {
    printf("%-60s %s\n", what, holds ? "ok" : "FAILED");
    failed |= !holds;
}

/* Image number `image`: bytes that look drawn, the same on every machine. */
static void draw(uint32_t image) {
    uint32_t i;
    for (i = 0; i < VALUES; i++) {
        uint32_t n = image * VALUES + i;
        n = (n ^ (n >> 16)) * 0x7feb352du;
        n = (n ^ (n >> 15)) * 0x846ca68bu;
        bytes[i] = (uint8_t)((n ^ (n >> 16)) >> 24);
        input[i] = (float)bytes[i] / 127.5f - 1.0f;
    }
}

static int32_t from_memory(void *context, uint32_t offset, void *to, uint32_t count) {
    (void)context;
    memcpy(to, memory + offset, count);
    return 0;
}

static int32_t to_memory(void *context, uint32_t offset, const void *from, uint32_t count) {
    (void)context;
    memcpy(memory + offset, from, count);
    return 0;
}

/* Within the tolerance of the greatest. */
static int same(const float *found, const float *wanted, int32_t count) {
    float most = 0, error = 0;
    int32_t i;
    for (i = 0; i < count; i++) {
        const float size = wanted[i] < 0 ? -wanted[i] : wanted[i];
        const float off = found[i] < wanted[i] ? wanted[i] - found[i] : found[i] - wanted[i];
        most = size > most ? size : most;
        error = off > error ? off : error;
    }
    return error <= COSTSIM_CHECK_TOLERANCE * most;
}

int main(void) {
    static const float wanted[RESULTS] = {COSTSIM_CHECK_OUTPUTS};
    static const float wanted_loss = COSTSIM_CHECK_LOSS;
    const costsim_store store = {from_memory, to_memory, NULL, COSTSIM_SLOT_BYTES};
    int32_t labels[COSTSIM_BATCH + COSTSIM_SAMPLES], found[COSTSIM_SAMPLES], i;
    float scores[COSTSIM_SAMPLES], loss;
    costsim_init();
    draw(0);
    costsim_predict(input, outputs);
    check("outputs of an image", same(outputs, wanted, RESULTS));
#if COSTSIM_BY_CLASS_MEANS
    costsim_begin_means(2);
    for (i = 0; i < COSTSIM_SAMPLES; i++) {
        labels[i] = 0;
    }
    costsim_add_to_means(input, labels);
    for (i = 0; i < COSTSIM_SAMPLES; i++) {
        labels[i] = 1;
    }
    draw(1);
    costsim_add_to_means(input, labels);
    costsim_end_means();
    costsim_classify(input, found, scores);
    check("the class of an image that is its class mean", COSTSIM_SAMPLES > 1 || found[0] == 1);
    draw(0);
#endif
    costsim_classify(input, found, scores);
    check("a class, and how likely it is", found[0] >= 0 && found[0] < COSTSIM_CLASSES &&
                                              scores[0] > 0.0f && scores[0] <= 1.0f);
    for (i = 0; i < COSTSIM_SAMPLES; i++) {
        labels[i] = 0;
    }
    costsim_begin_step();
    for (i = 0; i < COSTSIM_PASSES; i++) {
        loss = costsim_pass(input, labels);
    }
    costsim_end_step();
    check("the loss of a step", same(&loss, &wanted_loss, 1));
    check("a step is done", costsim_steps == 1);
    costsim_predict(input, outputs);
    check("what was learnt is saved", costsim_save(&store) == 0);
    costsim_init();
    check("and loaded", costsim_load(&store) == 0);
    costsim_predict(input, again);
    check("as it was", memcmp(outputs, again, sizeof outputs) == 0);
    memory[3] ^= 1;
    check("and refused where it is damaged", costsim_load(&store) == 1);
    return failed;
}
#endif

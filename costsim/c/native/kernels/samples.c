/* A look at weights that nobody says have changed. */

#include <stdint.h>

#define SAMPLES 16

struct sample {
    const uint32_t *from;
    int64_t step;
    uint32_t noted[SAMPLES];
};

/* The first of `count` tensors, from `first` on, of which one of 16 elements is not what was noted;
   `count` if there is none. */
int64_t costsim_native_changed(const struct sample *samples, int64_t first, int64_t count)
{
    for (int64_t i = first; i < count; i++) {
        const struct sample *s = &samples[i];
        uint32_t apart = 0;
        for (int64_t j = 0; j < SAMPLES; j++)
            apart |= s->from[j * s->step] ^ s->noted[j];
        if (apart)
            return i;
    }
    return count;
}

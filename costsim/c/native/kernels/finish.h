/* What is done to sums before they are stored: bias, another addend, clamp, masks. */

#ifndef COSTSIM_FINISH_H
#define COSTSIM_FINISH_H

#include "operation.h"
#include "vector.h"

struct finish {
    float *y;
    const float *bias, *added;
    uint8_t *mask_out;
    const uint8_t *mask_in;
    int64_t columns; /* of a row of y */
    float low, high;
    int flags;
};

INLINE struct finish finish_of(const struct operation *o, const struct context *c)
{
    return (struct finish){
        .y = place(o, c, Y),
        .bias = place(o, c, BIAS),
        .added = place(o, c, ADDED),
        .mask_out = place(o, c, MASK_OUT),
        .mask_in = place(o, c, MASK_IN),
        .columns = o->columns,
        .low = o->low,
        .high = o->high,
        .flags = o->flags,
    };
}

/* Where the gradient passes: inside the bounds, or on them too. */
INLINE lanes passes(const struct finish *f, vector value)
{
    lanes inside = ~(lanes){0};
    if (f->flags & CLAMPS_LOW)
        inside &= f->flags & AT_BOUNDS ? value >= every(f->low) : value > every(f->low);
    if (f->flags & CLAMPS_HIGH)
        inside &= f->flags & AT_BOUNDS ? value <= every(f->high) : value < every(f->high);
    return inside;
}

INLINE vector clamped(const struct finish *f, vector value)
{
    if (f->flags & CLAMPS_LOW)
        value = at_least(value, f->low);
    if (f->flags & CLAMPS_HIGH)
        value = at_most(value, f->high);
    return value;
}

INLINE void write_bits(uint8_t *mask, int64_t element, uint32_t found, int64_t count)
{
#if LANES == 4
    uint8_t *byte = mask + (element >> 3);
    *byte = (uint8_t)(element & 4 ? *byte | found : found << 4);
#elif LANES == 8
    mask[element >> 3] = (uint8_t)found;
#else
    mask[element >> 3] = (uint8_t)(found >> 8);
    if (count > 8)
        mask[(element >> 3) + 1] = (uint8_t)found;
#endif
    (void)count;
}

/* How sums are finished: ANYHOW asks for each vector. Kernels are compiled for what inference mostly
   is besides, on rows of whole vectors. */
enum how { ANYHOW, BIASED_AND_CLAMPED };

static inline enum how how_of(const struct finish *f)
{
    int clamps = CLAMPS_LOW | CLAMPS_HIGH;
    int plain = f->bias && !f->added && !f->mask_out && !f->mask_in && f->columns % LANES == 0;
    return plain && (f->flags & clamps) == clamps ? BIASED_AND_CLAMPED : ANYHOW;
}

/* Store a vector of sums at a row and a column of y; `count` columns are left from there. With
   masks rows have a multiple of 8 columns. Bias and addends may be read beyond their end. */
INLINE void finish(const enum how how, const struct finish *f, vector value, int64_t row,
                   int64_t column)
{
    int64_t place = row * f->columns + column, count = f->columns - column;
    if (how == ANYHOW ? f->bias != 0 : how == BIASED_AND_CLAMPED)
        value += load(f->bias + column);
    if (how == ANYHOW && f->added)
        value += load(f->added + place);
    if (how == ANYHOW && f->mask_out)
        write_bits(f->mask_out, place, bits_of(passes(f, value)), count);
    if (how == BIASED_AND_CLAMPED)
        value = at_most(at_least(value, f->low), f->high);
    else if (how == ANYHOW && f->flags & (CLAMPS_LOW | CLAMPS_HIGH))
        value = clamped(f, value);
    if (how == ANYHOW && f->mask_in)
        value *= factors_of(read_bits(f->mask_in, place));
    if (how == ANYHOW)
        store_some(f->y + place, value, count);
    else
        store(f->y + place, value);
}

#endif

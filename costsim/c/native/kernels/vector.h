/* Vectors of LANES floats, by the compiler's own extension: one source for every width. */

#ifndef COSTSIM_VECTOR_H
#define COSTSIM_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE__)
#include <immintrin.h>
#endif

#ifndef LANES
#error "LANES: floats in a vector, 4, 8 or 16; the build gives it"
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t lanes __attribute__((vector_size(4 * LANES)));
typedef float loose_vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vector load(const float *from) { return *(const loose_vector *)from; }

INLINE void store(float *to, vector value) { *(loose_vector *)to = value; }

/* The first `count` lanes; a whole vector where there are as many. */
INLINE void store_some(float *to, vector value, int64_t count)
{
    if (count >= LANES)
        store(to, value);
    else
        memcpy(to, &value, (size_t)count * sizeof(float));
}

INLINE vector every(float value) { return value - (vector){0}; }

INLINE vector chosen(lanes where, vector yes, vector no)
{
    return (vector)(((lanes)yes & where) | ((lanes)no & ~where));
}

/* NaN stays NaN: it is neither below nor above; x86 gives the second operand where one is NaN. */
INLINE vector at_least(vector x, float low)
{
#if LANES == 16 && defined(__AVX512F__)
    return (vector)_mm512_max_ps((__m512)every(low), (__m512)x);
#elif LANES == 8 && defined(__AVX__)
    return (vector)_mm256_max_ps((__m256)every(low), (__m256)x);
#elif LANES == 4 && defined(__SSE__)
    return (vector)_mm_max_ps((__m128)every(low), (__m128)x);
#else
    return chosen(x < every(low), every(low), x);
#endif
}

INLINE vector at_most(vector x, float high)
{
#if LANES == 16 && defined(__AVX512F__)
    return (vector)_mm512_min_ps((__m512)every(high), (__m512)x);
#elif LANES == 8 && defined(__AVX__)
    return (vector)_mm256_min_ps((__m256)every(high), (__m256)x);
#elif LANES == 4 && defined(__SSE__)
    return (vector)_mm_min_ps((__m128)every(high), (__m128)x);
#else
    return chosen(x > every(high), every(high), x);
#endif
}

/* Masks have one bit an element, the first element's is the highest of its byte. */

#if LANES == 4
#define BITS ((lanes){8, 4, 2, 1})
#elif LANES == 8
#define BITS ((lanes){128, 64, 32, 16, 8, 4, 2, 1})
#else
#define BITS                                                                                       \
    ((lanes){1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11, 1 << 10, 1 << 9, 1 << 8, 128, 64, 32,    \
             16, 8, 4, 2, 1})
#endif

#define REVERSED_2(n) n, n + 2 * 64, n + 1 * 64, n + 3 * 64
#define REVERSED_4(n) REVERSED_2(n), REVERSED_2(n + 2 * 16), REVERSED_2(n + 1 * 16), REVERSED_2(n + 3 * 16)
#define REVERSED_6(n) REVERSED_4(n), REVERSED_4(n + 2 * 4), REVERSED_4(n + 1 * 4), REVERSED_4(n + 3 * 4)

static const uint8_t REVERSED[256] __attribute__((unused)) = {
    REVERSED_6(0), REVERSED_6(2), REVERSED_6(1), REVERSED_6(3)};

/* The lanes that are set as a number, the first lane's bit highest. */
INLINE uint32_t bits_of(lanes where)
{
#if LANES == 8 && defined(__AVX__)
    return REVERSED[__builtin_ia32_movmskps256((vector)where)];
#else
    lanes set = where & BITS;
    uint32_t found = 0;
    for (int i = 0; i < LANES; i++)
        found |= (uint32_t)set[i];
    return found;
#endif
}

/* 1 where the bit is set and 0 where not, of the LANES lowest bits of `found`. */
INLINE vector factors_of(uint32_t found)
{
    lanes set = (BITS & (int32_t)found) != 0;
    return (vector)(set & (lanes)every(1.0f));
}

/* The bits of the LANES elements from `element` on; it is a multiple of LANES, if 4 or 8. */
INLINE uint32_t read_bits(const uint8_t *mask, int64_t element)
{
#if LANES == 4
    return mask[element >> 3] >> (element & 4 ? 0 : 4) & 15;
#elif LANES == 8
    return mask[element >> 3];
#else
    return (uint32_t)mask[element >> 3] << 8 | mask[(element >> 3) + 1];
#endif
}

#endif

/* How a product is cut into tiles of registers: columns into panels of vectors, rows in groups.

   Weights are packed panel after panel, in each depth after depth, so that they are read in the
   order in which they lie. */

#ifndef COSTSIM_PANELS_H
#define COSTSIM_PANELS_H

#include "vector.h"

/* (vectors, rows) of a tile: as many sums as there are registers for, beside what is loaded. */
#if LANES == 4 && defined(__aarch64__)
#define WIDE 4
#define WIDE_ROWS 6
#define NARROW 2
#define NARROW_ROWS 8
#define LAST 2
#define LAST_ROWS 8
#elif LANES == 4
#define WIDE 4
#define WIDE_ROWS 3
#define NARROW 2
#define NARROW_ROWS 6
#define LAST 2
#define LAST_ROWS 6
#elif LANES == 8
#define WIDE 3
#define WIDE_ROWS 4
#define NARROW 2
#define NARROW_ROWS 6
#define LAST 1
#define LAST_ROWS 8
#else
#define WIDE 3
#define WIDE_ROWS 8
#define NARROW 2
#define NARROW_ROWS 12
#define LAST 1
#define LAST_ROWS 12
#endif

#define MOST_ROWS 12
#define MOST_VECTORS 4

/* Vectors of the next panel where `columns` are left. */
static inline int panel_vectors(int64_t columns)
{
    int64_t left = (columns + LANES - 1) / LANES;
    if (left % WIDE == 0)
        return WIDE;
    return left < NARROW ? LAST : NARROW;
}

/* Columns as they are packed: whole panels. */
static inline int64_t packed_columns(int64_t columns)
{
    int64_t width = 0;
    while (width < columns)
        width += panel_vectors(columns - width) * LANES;
    return width;
}

#endif

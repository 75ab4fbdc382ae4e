/* Cross entropy and its gradient, in one pass over the output. */

#include <math.h>
#include <stdint.h>

/* The mean over rows of [rows, columns] logits, whose gradient times `scale` is written unless it is
   null. Labels are places in a row. NaN and infinity come out as such. */
double costsim_native_cross_entropy(const float *logits, const int64_t *labels, int64_t rows,
                                    int64_t columns, double scale, float *gradient)
{
    double total = 0.0;
    float share = (float)(scale / (double)rows);
    for (int64_t row = 0; row < rows; row++) {
        const float *own = logits + row * columns;
        float most = own[0];
        double sum = 0.0;
        for (int64_t i = 1; i < columns; i++)
            if (own[i] > most)
                most = own[i];
        for (int64_t i = 0; i < columns; i++)
            sum += (double)expf(own[i] - most);
        total += log(sum) - (double)(own[labels[row]] - most);
        if (!gradient)
            continue;
        float part = share / (float)sum;
        for (int64_t i = 0; i < columns; i++)
            gradient[row * columns + i] = part * expf(own[i] - most);
        gradient[row * columns + labels[row]] -= share;
    }
    return total / (double)rows;
}

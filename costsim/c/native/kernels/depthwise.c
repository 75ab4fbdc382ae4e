/* Depthwise convolutions and their input gradients: channels side by side in a vector.

   Weights are packed as [taps, channels], channels filled up to whole vectors. */

#include "finish.h"

#define BESIDE 4 /* pixels of a tile: what they share of a row is loaded once */
#define MOST_KERNEL 7
#define MOST_SPREAD 256 /* taps that one pixel is seen through; lowering refuses more */

INLINE int64_t whole_vectors(int64_t channels) { return (channels + LANES - 1) / LANES * LANES; }

/* P pixels of one row, from `row` on, for the LANES channels from `channel` on. `inside`: no tap
   is beside the image. */
INLINE void pixels(const int K, const int S, const int P, const int inside, const struct window *g,
                   const struct finish *f, const float *image, const float *weights, int64_t row,
                   int64_t y, int64_t x, int64_t channel)
{
    int64_t channels = g->channels, tap_step = whole_vectors(channels);
    int64_t top = y * S - g->padding[0], left = x * S - g->padding[1];
    vector sums[BESIDE];
    UNROLL for (int p = 0; p < P; p++)
        sums[p] = (vector){0};
    for (int i = 0; i < K; i++) {
        int64_t line = top + i;
        if (line < 0 || line >= g->height)
            continue;
        const float *from = image + (line * g->width + left) * channels + channel;
        const float *w = weights + i * K * tap_step + channel;
        vector seen[(BESIDE - 1) * 2 + MOST_KERNEL];
        UNROLL for (int j = 0; j < (P - 1) * S + K; j++)
            seen[j] = inside || (left + j >= 0 && left + j < g->width) ? load(from + j * channels)
                                                                       : (vector){0};
        UNROLL for (int j = 0; j < K; j++) {
            vector tap = load(w + j * tap_step);
            UNROLL for (int p = 0; p < P; p++)
                sums[p] += seen[p * S + j] * tap;
        }
    }
    UNROLL for (int p = 0; p < P; p++)
        finish(f, sums[p], row + p, channel);
}

INLINE void lines(const int K, const int S, const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    struct finish f = finish_of(o, c);
    const float *x = place(o, c, X), *weights = place(o, c, WEIGHTS);
    struct span own = own_part(c, (int64_t)g->batch * g->out_height, 1);
    for (int64_t line = own.begin; line < own.end; line++) {
        const float *image = x + line / g->out_height * g->height * g->width * g->channels;
        int64_t y = line % g->out_height;
        for (int64_t at = 0; at < g->out_width;) {
            int64_t row = line * g->out_width + at;
            int64_t left = at * S - g->padding[1];
            int many = at + BESIDE <= g->out_width;
            int inside = left >= 0 && left + (BESIDE - 1) * S + K <= g->width;
            for (int64_t channel = 0; channel < g->channels; channel += LANES)
                if (many && inside)
                    pixels(K, S, BESIDE, 1, g, &f, image, weights, row, y, at, channel);
                else if (many)
                    pixels(K, S, BESIDE, 0, g, &f, image, weights, row, y, at, channel);
                else
                    pixels(K, S, 1, 0, g, &f, image, weights, row, y, at, channel);
            at += many ? BESIDE : 1;
        }
    }
}

/* Any window, tap by tap. */
static void any_lines(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    struct finish f = finish_of(o, c);
    const float *x = place(o, c, X), *weights = place(o, c, WEIGHTS);
    int64_t tap_step = whole_vectors(g->channels);
    struct span own = own_part(c, (int64_t)g->batch * g->out_height * g->out_width, 1);
    for (int64_t row = own.begin; row < own.end; row++) {
        int64_t line = row / g->out_width, y = line % g->out_height;
        const float *image = x + line / g->out_height * g->height * g->width * g->channels;
        int64_t top = y * g->stride[0] - g->padding[0];
        int64_t left = row % g->out_width * g->stride[1] - g->padding[1];
        for (int64_t channel = 0; channel < g->channels; channel += LANES) {
            vector sum = {0};
            for (int i = 0; i < g->kernel[0]; i++)
                for (int j = 0; j < g->kernel[1]; j++) {
                    int64_t a = top + i * g->dilation[0], b = left + j * g->dilation[1];
                    if (a < 0 || a >= g->height || b < 0 || b >= g->width)
                        continue;
                    sum += load(image + (a * g->width + b) * g->channels + channel) *
                           load(weights + (i * g->kernel[1] + j) * tap_step + channel);
                }
            finish(&f, sum, row, channel);
        }
    }
}

void run_depthwise(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    int plain = g->kernel[0] == g->kernel[1] && g->stride[0] == g->stride[1] &&
                g->dilation[0] == 1 && g->dilation[1] == 1 && g->stride[0] <= 2;
    switch (plain ? g->kernel[0] * 10 + g->stride[0] : 0) {
    case 31: lines(3, 1, o, c); break;
    case 32: lines(3, 2, o, c); break;
    case 51: lines(5, 1, o, c); break;
    case 52: lines(5, 2, o, c); break;
    case 71: lines(7, 1, o, c); break;
    case 72: lines(7, 2, o, c); break;
    default: any_lines(o, c);
    }
}

/* Input gradient of a strided one: each pixel of the input gathers from the outputs that saw it.
   The window is that of the forward call; x is the gradient of its output. */
void run_depthwise_spread(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    struct finish f = finish_of(o, c);
    const float *dy = place(o, c, X), *weights = place(o, c, WEIGHTS);
    int64_t channels = g->channels, tap_step = whole_vectors(channels);
    struct span own = own_part(c, (int64_t)g->batch * g->height * g->width, 1);
    for (int64_t row = own.begin; row < own.end; row++) {
        int64_t line = row / g->width, y = line % g->height, x = row % g->width;
        const float *image = dy + line / g->height * g->out_height * g->out_width * channels;
        const float *from[MOST_SPREAD], *taps[MOST_SPREAD];
        int found = 0;
        for (int i = 0; i < g->kernel[0]; i++) {
            int64_t down = y + g->padding[0] - i * g->dilation[0], a = down / g->stride[0];
            if (down < 0 || down % g->stride[0] || a >= g->out_height)
                continue;
            for (int j = 0; j < g->kernel[1]; j++) {
                int64_t along = x + g->padding[1] - j * g->dilation[1], b = along / g->stride[1];
                if (along < 0 || along % g->stride[1] || b >= g->out_width)
                    continue;
                from[found] = image + (a * g->out_width + b) * channels;
                taps[found++] = weights + (i * g->kernel[1] + j) * tap_step;
            }
        }
        for (int64_t channel = 0; channel < channels; channel += LANES) {
            vector sum = {0};
            for (int i = 0; i < found; i++)
                sum += load(from[i] + channel) * load(taps[i] + channel);
            finish(&f, sum, row, channel);
        }
    }
}

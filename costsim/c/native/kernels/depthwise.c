/* Depthwise convolutions and their input gradients: channels side by side in a vector.

   Weights are packed as [taps, channels], channels filled up to whole vectors. */

#include "finish.h"

#define BESIDE 4 /* pixels of a tile: what they share of a row is loaded once */
#define MOST_KERNEL 7
#define MOST_SPREAD 256 /* taps that one pixel is seen through; lowering refuses more */

INLINE int64_t whole_vectors(int64_t channels) { return (channels + LANES - 1) / LANES * LANES; }

/* One pixel of any window, tap by tap. */
static void pixel(const struct window *g, const struct finish *f, const float *image,
                  const float *weights, int64_t row)
{
    int64_t tap_step = whole_vectors(g->channels);
    int64_t top = row / g->out_width % g->out_height * g->stride[0] - g->padding[0];
    int64_t left = row % g->out_width * g->stride[1] - g->padding[1];
    for (int64_t channel = 0; channel < g->channels; channel += LANES) {
        vector sum = {0};
        for (int i = 0; i < g->kernel[0]; i++)
            for (int j = 0; j < g->kernel[1]; j++) {
                int64_t y = top + i * g->dilation[0], x = left + j * g->dilation[1];
                if (y >= 0 && y < g->height && x >= 0 && x < g->width)
                    sum += load(image + (y * g->width + x) * g->channels + channel) *
                           load(weights + (i * g->kernel[1] + j) * tap_step + channel);
            }
        finish(ANYHOW, f, sum, row, channel);
    }
}

/* BESIDE pixels of one row, from `row` on, for the LANES channels from `channel` on. `inside`: no tap
   is beside the image. */
INLINE void pixels(const enum how how, const int K, const int S, const int inside,
                   const struct window *g, const struct finish *f, const float *image,
                   const float *weights, int64_t row, int64_t y, int64_t x, int64_t channel)
{
    int64_t channels = g->channels, tap_step = whole_vectors(channels);
    int64_t top = y * S - g->padding[0], left = x * S - g->padding[1];
    vector sums[BESIDE];
    UNROLL for (int p = 0; p < BESIDE; p++)
        sums[p] = (vector){0};
    for (int i = 0; i < K; i++) {
        int64_t line = top + i;
        if (line < 0 || line >= g->height)
            continue;
        const float *from = image + (line * g->width + left) * channels + channel;
        const float *w = weights + i * K * tap_step + channel;
        vector seen[(BESIDE - 1) * 2 + MOST_KERNEL];
        UNROLL for (int j = 0; j < (BESIDE - 1) * S + K; j++)
            seen[j] = inside || (left + j >= 0 && left + j < g->width) ? load(from + j * channels)
                                                                       : (vector){0};
        UNROLL for (int j = 0; j < K; j++) {
            vector tap = load(w + j * tap_step);
            UNROLL for (int p = 0; p < BESIDE; p++)
                sums[p] += seen[p * S + j] * tap;
        }
    }
    UNROLL for (int p = 0; p < BESIDE; p++)
        finish(how, f, sums[p], row + p, channel);
}

INLINE void lines(const enum how how, const int K, const int S, const struct operation *o,
                  const struct context *c)
{
    const struct window *g = &o->window;
    struct finish f = finish_of(o, c);
    const float *x = place(o, c, X), *weights = place(o, c, WEIGHTS);
    struct span own = own_part(c, (int64_t)g->batch * g->out_height, 1);
    for (int64_t line = own.begin; line < own.end; line++) {
        const float *image = x + line / g->out_height * g->height * g->width * g->channels;
        int64_t y = line % g->out_height;
        int64_t at = 0, row = line * g->out_width;
        for (; at + BESIDE <= g->out_width; at += BESIDE) {
            int64_t left = at * S - g->padding[1];
            /* Compiled for the plain case alone: what is asked for each vector takes longer. */
            int inside = how != ANYHOW && left >= 0 && left + (BESIDE - 1) * S + K <= g->width;
            for (int64_t channel = 0; channel < g->channels; channel += LANES)
                if (inside)
                    pixels(how, K, S, 1, g, &f, image, weights, row + at, y, at, channel);
                else
                    pixels(how, K, S, 0, g, &f, image, weights, row + at, y, at, channel);
        }
        for (; at < g->out_width; at++)
            pixel(g, &f, image, weights, row + at);
    }
}

static void any_lines(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    struct finish f = finish_of(o, c);
    const float *x = place(o, c, X), *weights = place(o, c, WEIGHTS);
    int64_t size = (int64_t)g->out_height * g->out_width;
    struct span own = own_part(c, g->batch * size, 1);
    for (int64_t row = own.begin; row < own.end; row++)
        pixel(g, &f, x + row / size * g->height * g->width * g->channels, weights, row);
}

void run_depthwise(const struct operation *o, const struct context *c)
{
    const struct window *g = &o->window;
    int plain = g->kernel[0] == g->kernel[1] && g->stride[0] == g->stride[1] &&
                g->dilation[0] == 1 && g->dilation[1] == 1 && g->stride[0] <= 2;
    struct finish f = finish_of(o, c);
    enum how how = how_of(&f);
#define LINES(K, S)                                                                                \
    case K * 10 + S:                                                                               \
        if (how == BIASED_AND_CLAMPED)                                                             \
            lines(BIASED_AND_CLAMPED, K, S, o, c);                                                 \
        else                                                                                       \
            lines(ANYHOW, K, S, o, c);                                                             \
        break;
    switch (plain ? g->kernel[0] * 10 + g->stride[0] : 0) {
        LINES(3, 1)
        LINES(3, 2)
        LINES(5, 1)
        LINES(5, 2)
        LINES(7, 1)
        LINES(7, 2)
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
            finish(ANYHOW, &f, sum, row, channel);
        }
    }
}

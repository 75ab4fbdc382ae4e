/* Kernels of a training step in 32-bit floats: portable C99, no memory of their own.
 *
 * Tensors are dense with the last dimension fastest, images [samples, channels, d, h, w]. Every
 * multiply-accumulate that is priced is one COSTSIM_MAC and is done only where both factors exist:
 * padding is skipped by the bounds of loops. Nothing else multiplies and adds in one instruction.
 */
#ifndef COSTSIM_KERNELS_H
#define COSTSIM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* Instructions for four 8-bit products at a time, where there are; 0 for plain C. */
#if !defined(COSTSIM_SIMD)
#if defined(__ARM_FEATURE_DSP) && defined(__thumb__)
#define COSTSIM_SIMD 1
#else
#define COSTSIM_SIMD 0
#endif
#endif

/* Of integers of at most 16 bits. By its own instruction where there is one: not that it is faster,
 * but no compiler takes it for addresses, so that those that run can be counted. */
#if defined(COSTSIM_Q_MAC)
#elif COSTSIM_SIMD
#define COSTSIM_Q_MAC(sum, a, b) \
    __asm__("smlabb %0, %1, %2, %0" : "+r"(sum) : "r"((int32_t)(a)), "r"((int32_t)(b)))
#else
#define COSTSIM_Q_MAC(sum, a, b) ((sum) += (a) * (b))
#endif
/* Fused where the machine can. To count them, define it before. */
#if defined(COSTSIM_MAC)
#elif defined(__ARM_FEATURE_FMA) || defined(__FMA__) || defined(__aarch64__)
#define COSTSIM_MAC(sum, a, b) ((sum) = __builtin_fmaf((a), (b), (sum)))
#else
#define COSTSIM_MAC(sum, a, b) ((sum) += (a) * (b))
#endif

/* From the C library or the compiler's own. */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

/* A number of a channel. */
typedef uint16_t costsim_channel;

/* A dense part [n_outs, n_ins, taps] of a weight. Its j-th output channel is channel
 * first_out + outs[j] of the output (first_out + j without a list), and alike for inputs. Forward
 * adds to the output where `adds_output`, else starts from the bias; the input gradient adds to
 * what is there where `adds_input`. */
typedef struct {
    const void *weight; /* of float, or of int8_t for the quantised kernels */
    const costsim_channel *outs, *ins;
    int32_t n_outs, n_ins, first_out, first_in;
    uint8_t adds_output, adds_input;
} costsim_block;

/* A window over three spatial dimensions; those that are not there have size 1. `inputs` and
 * `outputs` are all channels of x and of y. */
typedef struct {
    int32_t samples, inputs, outputs;
    int32_t size[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
} costsim_window;

/* Loops over a tensor of up to six dimensions, with the steps of three operands in elements. */
typedef struct {
    int32_t shape[6], a[6], b[6], y[6];
} costsim_loops;

typedef enum {
    COSTSIM_COPY,          /* y = a */
    COSTSIM_ADD_TO,        /* y += a */
    COSTSIM_SUBTRACT_FROM, /* y -= a */
    COSTSIM_ADD,           /* y = a + b */
    COSTSIM_SUBTRACT,      /* y = a - b */
    COSTSIM_MULTIPLY,      /* y = a * b */
    COSTSIM_ADD_PRODUCT,   /* y += a * b, rounded twice */
    COSTSIM_DIVIDE         /* y = a / scalar */
} costsim_elementwise;

typedef enum {
    COSTSIM_RELU,         /* max(x, 0) */
    COSTSIM_LEAKY_RELU,   /* x, or p * x where not positive */
    COSTSIM_CLAMP,        /* to [p, q]; the gradient stops at the bounds */
    COSTSIM_CLAMP_PASSES, /* to [p, q]; the gradient passes at the bounds */
    COSTSIM_HARD_SIGMOID,
    COSTSIM_HARD_SWISH,
    COSTSIM_GELU,
    COSTSIM_GELU_TANH,
    COSTSIM_SILU,
    COSTSIM_ELU, /* p * (exp(x) - 1) where not positive */
    COSTSIM_SIGMOID,
    COSTSIM_TANH
} costsim_activation;

/* Mathematics, in single precision: sqrt is exactly rounded; exp and log are within 2 units in the
 * last place of the result, expm1, tanh and erf within 5. */
float costsim_sqrt(float x);
float costsim_exp(float x);
float costsim_expm1(float x);
float costsim_log(float x);
float costsim_tanh(float x);
float costsim_erf(float x);

/* Products. */
typedef struct {
    const float *data;
    int32_t row, column; /* steps, in elements */
    const costsim_channel *rows, *columns;
} costsim_matrix;
void costsim_product(int32_t rows, int32_t columns, int32_t depth, const costsim_matrix *a,
                     const costsim_matrix *b, float *y, int32_t y_row, int32_t y_column,
                     const costsim_channel *y_rows, const float *bias, float scale, int adds);
void costsim_batched_product(const costsim_loops *l, int32_t rows, int32_t columns, int32_t depth,
                             const costsim_matrix *a, const costsim_matrix *b, float *y,
                             int32_t y_row, float scale, int adds);
void costsim_pointwise_forward(const costsim_window *w, const costsim_block *blocks, int32_t count,
                               const float *bias, const float *x, float *y);
void costsim_pointwise_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                      int32_t count, const float *dy, float *dx);
void costsim_pointwise_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                       int32_t count, const float *dy, const float *x, float *dw);
void costsim_linear_forward(int32_t rows, int32_t inputs, int32_t outputs,
                            const costsim_block *blocks, int32_t count, const float *bias,
                            const float *x, float *y);
void costsim_linear_input_gradient(int32_t rows, int32_t inputs, int32_t outputs,
                                   const costsim_block *blocks, int32_t count, const float *dy,
                                   float *dx);
void costsim_linear_weight_gradient(int32_t rows, int32_t inputs, int32_t outputs,
                                    const costsim_block *blocks, int32_t count, const float *dy,
                                    const float *x, float *dw);

/* Convolutions. `inputs` of the window of a weight gradient are the channels that were kept. */
void costsim_convolution_forward(const costsim_window *w, const costsim_block *blocks,
                                 int32_t count, const float *bias, const float *x, float *y);
void costsim_convolution_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                        int32_t count, const float *dy, float *dx);
void costsim_convolution_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                         int32_t count, const float *dy, const float *x, float *dw);
void costsim_depthwise_forward(const costsim_window *w, const costsim_block *blocks, int32_t count,
                               const float *bias, const float *x, float *y);
void costsim_depthwise_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                      int32_t count, const float *dy, float *dx);
void costsim_depthwise_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                       int32_t count, const float *dy, const float *x, float *dw);

/* The gradient of a bias [channels]: dy [outer, channels, inner] summed over the rest. */
void costsim_bias_gradient(int32_t outer, int32_t channels, int32_t inner, const float *dy,
                           float *db);

/* Element by element. y may be a (or b). */
void costsim_loop(costsim_elementwise what, const costsim_loops *loops, float scalar,
                  const float *a, const float *b, float *y);
void costsim_fill(int32_t count, float value, float *y);
void costsim_add(int32_t count, const float *a, const float *b, float *y);
void costsim_scale(int32_t count, float factor, float offset, const float *x, float *y);
void costsim_keep(int32_t outer, int32_t channels, int32_t inner, const costsim_channel *kept,
                  int32_t count, const float *x, float *y);
/* mask: a bit an element, the first the highest of its byte, or NULL. */
void costsim_activation_forward(costsim_activation what, float p, float q, int32_t count,
                                const float *x, float *y, uint8_t *mask);
/* Where the bit is set dx = inside * dy, elsewhere outside * dy. */
void costsim_mask_input_gradient(int32_t count, float inside, float outside, const uint8_t *mask,
                                 const float *dy, float *dx);
/* x: the input, of sigmoid and tanh the output. */
void costsim_activation_input_gradient(costsim_activation what, float p, int32_t count,
                                       const float *x, const float *dy, float *dx);
void costsim_softmax_forward(int32_t outer, int32_t size, int32_t inner, const float *x, float *y);
void costsim_softmax_input_gradient(int32_t outer, int32_t size, int32_t inner, const float *y,
                                    const float *dy, float *dx);
void costsim_log_softmax_forward(int32_t outer, int32_t size, int32_t inner, const float *x,
                                 float *y);
/* dx = dy - exp(y) * sum(dy) */
void costsim_log_softmax_input_gradient(int32_t outer, int32_t size, int32_t inner, const float *y,
                                        const float *dy, float *dx);

/* Normalisation. Blocks are of the weight [channels], with outs alone; none: a weight of ones.
 * statistics: means, then inverse deviations, or NULL. */
void costsim_batch_norm_forward(int32_t samples, int32_t channels, int32_t inner, float eps,
                                const costsim_block *blocks, int32_t count, const float *bias,
                                const float *mean, const float *variance, const float *x, float *y);
void costsim_batch_norm_input_gradient(int32_t samples, int32_t channels, int32_t inner, float eps,
                                       const costsim_block *blocks, int32_t count,
                                       const float *variance, const float *dy, float *dx);
void costsim_batch_norm_weight_gradient(int32_t samples, int32_t channels, int32_t inner,
                                        int32_t x_channels, float eps, const costsim_block *block,
                                        const float *mean, const float *variance, const float *dy,
                                        const float *x, float *dw);
void costsim_layer_norm_forward(int32_t rows, int32_t size, float eps, const costsim_block *blocks,
                                int32_t count, const float *bias, const float *x, float *y,
                                float *statistics);
void costsim_layer_norm_input_gradient(int32_t rows, int32_t size, const costsim_block *blocks,
                                       int32_t count, const float *x, const float *statistics,
                                       const float *dy, float *dx);
void costsim_layer_norm_weight_gradient(int32_t rows, int32_t size, int32_t x_size,
                                        const costsim_block *block, const float *statistics,
                                        const float *dy, const float *x, float *dw);
void costsim_group_norm_forward(int32_t samples, int32_t channels, int32_t inner, int32_t groups,
                                float eps, const costsim_block *blocks, int32_t count,
                                const float *bias, const float *x, float *y, float *statistics);
void costsim_group_norm_input_gradient(int32_t samples, int32_t channels, int32_t inner,
                                       int32_t groups, const costsim_block *blocks, int32_t count,
                                       const float *x, const float *statistics, const float *dy,
                                       float *dx);
void costsim_group_norm_weight_gradient(int32_t samples, int32_t channels, int32_t inner,
                                        int32_t groups, int32_t x_channels,
                                        const costsim_block *block, const float *statistics,
                                        const float *dy, const float *x, float *dw);

/* Pooling. `inputs` of the window counts planes: samples times channels. */
void costsim_max_pool_forward(const costsim_window *w, const float *x, float *y, uint8_t *places);
void costsim_max_pool_input_gradient(const costsim_window *w, const uint8_t *places,
                                     const float *dy, float *dx);
typedef enum {
    COSTSIM_MEAN_INSIDE,     /* over the elements that are there */
    COSTSIM_MEAN_OF_PADDED,  /* padding counts as zeros */
    COSTSIM_MEAN_ADAPTIVE    /* windows that tile the input; no stride or padding */
} costsim_mean;
void costsim_average_pool_forward(const costsim_window *w, costsim_mean how, const float *x,
                                  float *y);
void costsim_average_pool_input_gradient(const costsim_window *w, costsim_mean how, const float *dy,
                                         float *dx);

/* Mean cross entropy of softmax(x [rows, size]) and labels; dx (or NULL) is its gradient times
 * `scale`. x may be dx. */
float costsim_cross_entropy(int32_t rows, int32_t size, float scale, const float *x,
                            const int32_t *labels, float *dx);

/* What a classifier looks at: floats x, or where x is NULL integers q of scale * (q - zero). */
typedef struct {
    const float *x;
    const int8_t *q;
    float scale; /* 1 of floats */
    int32_t zero;
} costsim_features;
/* Means [classes, size]: zeros, to which the features of every image of a class are added, then
 * unit vectors: the cosine asks for directions alone. One that is zero is like nothing. */
void costsim_means_add(int32_t size, const costsim_features *f, float *mean);
void costsim_means_finish(int32_t classes, int32_t size, float *means);
/* Cosines [classes] of one image's features to finished means; 1 / the length of the features. */
float costsim_cosines(int32_t classes, int32_t size, const costsim_features *f, const float *means,
                      float *cosines);
/* Mean cross entropy of softmax(temperature * cosines) and labels, f being [rows, size]; dx (or
 * NULL) is its gradient times `scale`, the means held constant. x may be dx. `cosines` is work
 * space of [classes]. */
float costsim_prototype_loss(int32_t rows, int32_t classes, int32_t size, float scale,
                             float temperature, const costsim_features *f, const float *means,
                             const int32_t *labels, float *cosines, float *dx);
/* The class of the greatest of f [classes]; `score` is its share in softmax(factor * f). */
int32_t costsim_most_likely(int32_t classes, float factor, const costsim_features *f,
                            float *score);

/* Quantised: a value is scale * (q - zero) with q in int8, a weight scales[output channel] * q, a
 * bias and every sum are int32; gradients are floats of the real values. Results are rounded to the
 * nearest, halves to even, and saturate. Dimensions as above; `linear` is a window of one tap over
 * images of one pixel. `factors` are x scale * weight scale / y scale, by output channel. */
void costsim_q_quantise(int32_t count, float scale, int32_t zero, const float *x, int8_t *y);
void costsim_q_dequantise(int32_t count, float scale, int32_t zero, const int8_t *x, float *y);
void costsim_q_convolution_forward(const costsim_window *w, const costsim_block *blocks,
                                   int32_t count, int depthwise, const int32_t *bias,
                                   const float *factors, int32_t x_zero, int32_t y_zero,
                                   const int8_t *x, int8_t *y);
void costsim_q_convolution_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                          int32_t count, int depthwise, const float *scales,
                                          const float *dy, float *dx);
void costsim_q_convolution_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                           int32_t count, int depthwise, float x_scale,
                                           int32_t x_zero, const float *dy, const int8_t *x,
                                           float *dw);
/* To [low, high]; mask: a bit an element, set where it is strictly between. */
void costsim_q_clamp(int32_t count, int32_t low, int32_t high, const int8_t *x, int8_t *y,
                     uint8_t *mask);
void costsim_q_add(int32_t count, float a_factor, int32_t a_zero, float b_factor, int32_t b_zero,
                   int32_t y_zero, const int8_t *a, const int8_t *b, int8_t *y);
void costsim_q_max_pool(const costsim_window *w, const int8_t *x, int8_t *y, uint8_t *places);
void costsim_q_average_pool(const costsim_window *w, costsim_mean how, float ratio, int32_t x_zero,
                            int32_t y_zero, const int8_t *x, int8_t *y);
void costsim_q_mean(int32_t rows, int32_t size, float factor, int32_t x_zero, int32_t y_zero,
                    const int8_t *x, int8_t *y);
void costsim_q_keep(int32_t outer, int32_t channels, int32_t inner, const costsim_channel *kept,
                    int32_t count, const int8_t *x, int8_t *y);
float costsim_q_cross_entropy(int32_t rows, int32_t size, float scale, float x_scale,
                              int32_t x_zero, const int8_t *x, const int32_t *labels, float *dx);
/* Plain gradient descent, the change of a weight in units of its own scale: q -= rate * dw / scale
 * (quantisation-aware scaling: Lin et al. 2022, On-Device Training Under 256KB Memory, section
 * 3.1). With momentum `state` is not NULL. A change of less than half a unit is lost. */
void costsim_q_descend(const costsim_block *blocks, int32_t count, int32_t taps, float rate,
                       float momentum, const float *scales, uint32_t number, const float *dw,
                       int8_t *weight, float *state);
void costsim_q_descend_bias(int32_t count, float rate, float momentum, float x_scale,
                            const float *scales, const float *db, int32_t *bias, float *state);

/* Updates of `count` weights; `state` holds the tensors that the optimizer keeps. */
void costsim_sgd(int32_t count, float rate, const float *dw, float *weight);
void costsim_momentum(int32_t count, float rate, float momentum, const float *dw, float *weight,
                      float *state);
void costsim_adam(int32_t count, float rate, float beta2, float log_beta1,
                  float log_beta2, float eps, int32_t step, const float *dw, float *weight,
                  float *state);

#endif

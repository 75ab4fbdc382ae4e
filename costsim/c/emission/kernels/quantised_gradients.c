/* Gradients of 8-bit convolutions and linear layers: floats of the real values. */

/* One tap of one input channel: to what dx holds, the sums over `outs` output channels. */
static void costsim_q_spread(const costsim_window *w, const costsim_block *k, int32_t from_m,
                             int32_t outs, const int8_t *weight, int32_t row, const float *scales,
                             const costsim_span *s, const float *dy, float *image) {
    const int32_t pixels = costsim_pixels(w->out);
    int32_t q0, q1, q2, m;
    for (q0 = s[0].low; q0 < s[0].high; q0++) {
        for (q1 = s[1].low; q1 < s[1].high; q1++) {
            const int32_t p0 = s[0].start + q0 * w->stride[0];
            const int32_t p1 = s[1].start + q1 * w->stride[1];
            float *to = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
            const float *from = dy + (q0 * w->out[1] + q1) * w->out[2];
            for (q2 = s[2].low; q2 < s[2].high;) {
                const int32_t width = s[2].high - q2 < 4 ? 1 : 4;
                float a = 0, b = 0, c = 0, d = 0;
                for (m = from_m; m < from_m + outs; m++) {
                    const int32_t o = k->first_out + costsim_number(k->outs, m);
                    const float v = (float)weight[m * row] * scales[o];
                    const float *g = from + o * pixels + q2;
                    COSTSIM_MAC(a, v, g[0]);
                    if (width == 4) {
                        COSTSIM_MAC(b, v, g[1]);
                        COSTSIM_MAC(c, v, g[2]);
                        COSTSIM_MAC(d, v, g[3]);
                    }
                }
                to[q2 * w->stride[2]] += a;
                if (width == 4) {
                    to[(q2 + 1) * w->stride[2]] += b;
                    to[(q2 + 2) * w->stride[2]] += c;
                    to[(q2 + 3) * w->stride[2]] += d;
                }
                q2 += width;
            }
        }
    }
}

void costsim_q_convolution_input_gradient(const costsim_window *w, const costsim_block *blocks,
                                          int32_t count, int depthwise, const float *scales,
                                          const float *dy, float *dx) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t image = w->inputs * plane, dy_image = w->outputs * costsim_pixels(w->out);
    const int turns = depthwise && w->stride[0] == 1 && w->stride[1] == 1 && w->stride[2] == 1 &&
                      taps <= COSTSIM_TURNED;
    const costsim_window back = costsim_turned(w);
    int32_t n, block, i, t0, t1, t2;
    costsim_fill(w->samples * image, 0.0f, dx);
    for (n = 0; n < w->samples; n++) {
        for (block = 0; block < count; block++) {
            const costsim_block *k = blocks + block;
            const int32_t row = k->n_ins * taps, inputs = depthwise ? k->n_outs : k->n_ins;
            for (i = 0; i < inputs; i++) {
                const int8_t *weight = (const int8_t *)k->weight + (depthwise ? 0 : i * taps);
                const int32_t c = k->first_in + costsim_number(k->ins, i);
                if (turns) { /* the correlation with the kernel turned round */
                    const int32_t o = k->first_out + costsim_number(k->outs, i);
                    float turned[COSTSIM_TURNED];
                    for (t0 = 0; t0 < taps; t0++) {
                        turned[t0] = (float)weight[i * taps + taps - 1 - t0] * scales[o];
                    }
                    costsim_depthwise_plane(&back, turned,
                                            dy + n * dy_image + o * costsim_pixels(w->out),
                                            dx + n * image + c * plane);
                    continue;
                }
                for (t0 = 0; t0 < w->kernel[0]; t0++) {
                    for (t1 = 0; t1 < w->kernel[1]; t1++) {
                        for (t2 = 0; t2 < w->kernel[2]; t2++, weight++) {
                            costsim_span s[3];
                            s[0] = costsim_places(w, 0, t0);
                            s[1] = costsim_places(w, 1, t1);
                            s[2] = costsim_places(w, 2, t2);
                            costsim_q_spread(w, k, depthwise ? i : 0, depthwise ? 1 : k->n_outs,
                                             weight, row, scales, s, dy + n * dy_image,
                                             dx + n * image + c * plane);
                        }
                    }
                }
            }
        }
    }
}

/* `width` output channels (1 or 4) of one input channel and tap. */
COSTSIM_INLINE void costsim_q_correlate(const costsim_window *w, const costsim_span *s, int width,
                                        int32_t x_zero, const float *const *dy, const int8_t *x,
                                        float *sums) {
    const int32_t step = w->stride[2];
    float a = 0, b = 0, c = 0, d = 0;
    int32_t n, q0, q1, q2;
    for (n = 0; n < w->samples; n++) {
        const int32_t dy_image = n * w->outputs * costsim_pixels(w->out);
        const int8_t *image = x + n * w->inputs * costsim_pixels(w->size);
        for (q0 = s[0].low; q0 < s[0].high; q0++) {
            for (q1 = s[1].low; q1 < s[1].high; q1++) {
                const int32_t p0 = s[0].start + q0 * w->stride[0];
                const int32_t p1 = s[1].start + q1 * w->stride[1];
                const int32_t at = dy_image + (q0 * w->out[1] + q1) * w->out[2];
                const int8_t *from = image + (p0 * w->size[1] + p1) * w->size[2] + s[2].start;
                const float *g0 = dy[0] + at, *g1 = dy[1] + at, *g2 = dy[2] + at, *g3 = dy[3] + at;
                for (q2 = s[2].low; q2 < s[2].high; q2++) {
                    const float v = (float)(from[q2 * step] - x_zero);
                    COSTSIM_MAC(a, g0[q2], v);
                    if (width == 4) {
                        COSTSIM_MAC(b, g1[q2], v);
                        COSTSIM_MAC(c, g2[q2], v);
                        COSTSIM_MAC(d, g3[q2], v);
                    }
                }
            }
        }
    }
    sums[0] = a;
    if (width == 4) {
        sums[1] = b, sums[2] = c, sums[3] = d;
    }
}

void costsim_q_convolution_weight_gradient(const costsim_window *w, const costsim_block *blocks,
                                           int32_t count, int depthwise, float x_scale,
                                           int32_t x_zero, const float *dy, const int8_t *x,
                                           float *dw) {
    const int32_t taps = costsim_pixels(w->kernel), plane = costsim_pixels(w->size);
    const int32_t pixels = costsim_pixels(w->out);
    int32_t block, m, i, j, t0, t1, t2;
    for (block = 0; block < count; block++) {
        const costsim_block *k = blocks + block;
        const int32_t row = k->n_ins * taps;
        for (m = 0; m < k->n_outs;) {
            const int32_t width = depthwise || k->n_outs - m < 4 ? 1 : 4;
            const float *g[4];
            for (j = 0; j < 4; j++) {
                const int32_t o = costsim_number(k->outs, j < width ? m + j : m);
                g[j] = dy + (k->first_out + o) * pixels;
            }
            for (i = 0; i < k->n_ins; i++) {
                const int32_t c = k->first_in + costsim_number(k->ins, depthwise ? m : i);
                float *to = dw + m * row + i * taps;
                for (t0 = 0; t0 < w->kernel[0]; t0++) {
                    for (t1 = 0; t1 < w->kernel[1]; t1++) {
                        for (t2 = 0; t2 < w->kernel[2]; t2++, to++) {
                            costsim_span s[3];
                            float sums[4];
                            s[0] = costsim_places(w, 0, t0);
                            s[1] = costsim_places(w, 1, t1);
                            s[2] = costsim_places(w, 2, t2);
                            if (width == 4) {
                                costsim_q_correlate(w, s, 4, x_zero, g, x + c * plane, sums);
                            } else {
                                costsim_q_correlate(w, s, 1, x_zero, g, x + c * plane, sums);
                            }
                            for (j = 0; j < width; j++) {
                                to[j * row] = sums[j] * x_scale;
                            }
                        }
                    }
                }
            }
            m += width;
        }
        dw += k->n_outs * row;
    }
}


/* Pooling over windows; `samples` of the window counts planes. */

void costsim_max_pool_forward(const costsim_window *w, const float *x, float *y, uint8_t *places) {
    int32_t n, q0, q1, q2, t0, t1, t2;
    for (n = 0; n < w->samples; n++, x += costsim_pixels(w->size)) {
        for (q0 = 0; q0 < w->out[0]; q0++) {
            const costsim_span s0 = costsim_taps(w, 0, q0);
            for (q1 = 0; q1 < w->out[1]; q1++) {
                const costsim_span s1 = costsim_taps(w, 1, q1);
                for (q2 = 0; q2 < w->out[2]; q2++) {
                    const costsim_span s2 = costsim_taps(w, 2, q2);
                    float most = 0;
                    int32_t place = -1;
                    for (t0 = s0.low; t0 < s0.high; t0++) {
                        for (t1 = s1.low; t1 < s1.high; t1++) {
                            const int32_t p0 = s0.start + t0 * w->dilation[0];
                            const int32_t p1 = s1.start + t1 * w->dilation[1];
                            const float *from =
                                x + (p0 * w->size[1] + p1) * w->size[2] + s2.start;
                            for (t2 = s2.low; t2 < s2.high; t2++) {
                                const float v = from[t2 * w->dilation[2]];
                                if (place < 0 || v > most || v != v) {
                                    most = v;
                                    place = (t0 * w->kernel[1] + t1) * w->kernel[2] + t2;
                                }
                            }
                        }
                    }
                    *y++ = most;
                    if (places) {
                        *places++ = (uint8_t)place;
                    }
                }
            }
        }
    }
}

void costsim_max_pool_input_gradient(const costsim_window *w, const uint8_t *places,
                                     const float *dy, float *dx) {
    int32_t n, q0, q1, q2;
    costsim_fill(w->samples * costsim_pixels(w->size), 0.0f, dx);
    for (n = 0; n < w->samples; n++, dx += costsim_pixels(w->size)) {
        for (q0 = 0; q0 < w->out[0]; q0++) {
            for (q1 = 0; q1 < w->out[1]; q1++) {
                for (q2 = 0; q2 < w->out[2]; q2++) {
                    const int32_t place = *places++, row = place / w->kernel[2];
                    const int32_t t0 = row / w->kernel[1], t1 = row % w->kernel[1];
                    const int32_t t2 = place % w->kernel[2];
                    const int32_t p0 = q0 * w->stride[0] - w->padding[0] + t0 * w->dilation[0];
                    const int32_t p1 = q1 * w->stride[1] - w->padding[1] + t1 * w->dilation[1];
                    const int32_t p2 = q2 * w->stride[2] - w->padding[2] + t2 * w->dilation[2];
                    dx[(p0 * w->size[1] + p1) * w->size[2] + p2] += *dy++;
                }
            }
        }
    }
}

/* The elements [low, high) of a window along one dimension, and how many it counts as. */
static costsim_span costsim_averaged(const costsim_window *w, costsim_mean how, int d, int32_t q,
                                     int32_t *counted) {
    costsim_span s;
    if (how == COSTSIM_MEAN_ADAPTIVE) {
        s.start = s.low = q * w->size[d] / w->out[d];
        s.high = ((q + 1) * w->size[d] + w->out[d] - 1) / w->out[d];
        *counted = s.high - s.low;
        return s;
    }
    s.start = q * w->stride[d] - w->padding[d];
    s.high = s.start + w->kernel[d];
    s.high = s.high < w->size[d] + w->padding[d] ? s.high : w->size[d] + w->padding[d];
    *counted = s.high - s.start;
    s.low = s.start > 0 ? s.start : 0;
    s.high = s.high < w->size[d] ? s.high : w->size[d];
    if (how == COSTSIM_MEAN_INSIDE) {
        *counted = s.high - s.low;
    }
    return s;
}

static void costsim_average(const costsim_window *w, costsim_mean how, const float *from,
                            float *to, int back) {
    int32_t n, q0, q1, q2, p0, p1, p2, c0, c1, c2;
    for (n = 0; n < w->samples; n++) {
        for (q0 = 0; q0 < w->out[0]; q0++) {
            const costsim_span s0 = costsim_averaged(w, how, 0, q0, &c0);
            for (q1 = 0; q1 < w->out[1]; q1++) {
                const costsim_span s1 = costsim_averaged(w, how, 1, q1, &c1);
                for (q2 = 0; q2 < w->out[2]; q2++) {
                    const costsim_span s2 = costsim_averaged(w, how, 2, q2, &c2);
                    const float counted = (float)(c0 * c1 * c2);
                    float sum = back ? *from++ / counted : 0.0f;
                    for (p0 = s0.low; p0 < s0.high; p0++) {
                        for (p1 = s1.low; p1 < s1.high; p1++) {
                            const int32_t at = (p0 * w->size[1] + p1) * w->size[2];
                            for (p2 = s2.low; p2 < s2.high; p2++) {
                                if (back) {
                                    to[at + p2] += sum;
                                } else {
                                    sum += from[at + p2];
                                }
                            }
                        }
                    }
                    if (!back) {
                        *to++ = sum / counted;
                    }
                }
            }
        }
        if (back) {
            to += costsim_pixels(w->size);
        } else {
            from += costsim_pixels(w->size);
        }
    }
}

void costsim_average_pool_forward(const costsim_window *w, costsim_mean how, const float *x,
                                  float *y) {
    costsim_average(w, how, x, y, 0);
}

void costsim_average_pool_input_gradient(const costsim_window *w, costsim_mean how, const float *dy,
                                         float *dx) {
    costsim_fill(w->samples * costsim_pixels(w->size), 0.0f, dx);
    costsim_average(w, how, dy, dx, 1);
}

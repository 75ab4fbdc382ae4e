/* Normalisation. A weight may lie in two parts; without one it is all ones. */

/* Element j of a part, of channel *c. */
static float costsim_weight_of(const costsim_block *k, int32_t j, int32_t *c) {
    *c = k->first_out + costsim_number(k->outs, j);
    return k->weight ? ((const float *)k->weight)[j] : 1.0f;
}

void costsim_batch_norm_forward(int32_t samples, int32_t channels, int32_t inner, float eps,
                                const costsim_block *blocks, int32_t count, const float *bias,
                                const float *mean, const float *variance, const float *x,
                                float *y) {
    int32_t block, j, n, i, c;
    for (block = 0; block < count; block++) {
        for (j = 0; j < blocks[block].n_outs; j++) {
            const float weight = costsim_weight_of(blocks + block, j, &c);
            const float factor = weight / costsim_sqrt(variance[c] + eps);
            const float offset = (bias ? bias[c] : 0.0f) - mean[c] * factor;
            for (n = 0; n < samples; n++) {
                const int32_t at = (n * channels + c) * inner;
                for (i = at; i < at + inner; i++) {
                    y[i] = x[i] * factor + offset;
                }
            }
        }
    }
}

void costsim_batch_norm_input_gradient(int32_t samples, int32_t channels, int32_t inner, float eps,
                                       const costsim_block *blocks, int32_t count,
                                       const float *variance, const float *dy, float *dx) {
    int32_t block, j, n, i, c;
    for (block = 0; block < count; block++) {
        for (j = 0; j < blocks[block].n_outs; j++) {
            const float weight = costsim_weight_of(blocks + block, j, &c);
            const float factor = weight / costsim_sqrt(variance[c] + eps);
            for (n = 0; n < samples; n++) {
                const int32_t at = (n * channels + c) * inner;
                for (i = at; i < at + inner; i++) {
                    dx[i] = dy[i] * factor;
                }
            }
        }
    }
}

void costsim_batch_norm_weight_gradient(int32_t samples, int32_t channels, int32_t inner,
                                        int32_t x_channels, float eps, const costsim_block *block,
                                        const float *mean, const float *variance, const float *dy,
                                        const float *x, float *dw) {
    int32_t j, n, i;
    for (j = 0; j < block->n_outs; j++) {
        const int32_t c = block->first_out + costsim_number(block->outs, j);
        const int32_t kept = block->first_in + costsim_number(block->ins, j);
        float sum = 0;
        for (n = 0; n < samples; n++) {
            const float *g = dy + (n * channels + c) * inner;
            const float *v = x + (n * x_channels + kept) * inner;
            for (i = 0; i < inner; i++) {
                sum += g[i] * (v[i] - mean[c]);
            }
        }
        dw[j] = sum / costsim_sqrt(variance[c] + eps);
    }
}

/* Mean and inverse deviation of `count` elements. */
static void costsim_moments(int32_t count, float eps, const float *x, float *mean,
                            float *deviation) {
    float sum = 0, squares = 0;
    int32_t i;
    for (i = 0; i < count; i++) {
        sum += x[i];
    }
    *mean = sum / (float)count;
    for (i = 0; i < count; i++) {
        const float d = x[i] - *mean;
        squares += d * d;
    }
    *deviation = 1.0f / costsim_sqrt(squares / (float)count + eps);
}

void costsim_layer_norm_forward(int32_t rows, int32_t size, float eps, const costsim_block *blocks,
                                int32_t count, const float *bias, const float *x, float *y,
                                float *statistics) {
    int32_t r, block, j, c;
    for (r = 0; r < rows; r++, x += size, y += size) {
        float mean, deviation;
        costsim_moments(size, eps, x, &mean, &deviation);
        if (statistics) {
            statistics[r] = mean;
            statistics[rows + r] = deviation;
        }
        for (block = 0; block < count; block++) {
            for (j = 0; j < blocks[block].n_outs; j++) {
                const float weight = costsim_weight_of(blocks + block, j, &c);
                y[c] = (x[c] - mean) * deviation * weight + (bias ? bias[c] : 0.0f);
            }
        }
    }
}

void costsim_layer_norm_input_gradient(int32_t rows, int32_t size, const costsim_block *blocks,
                                       int32_t count, const float *x, const float *statistics,
                                       const float *dy, float *dx) {
    int32_t r, block, j, c;
    for (r = 0; r < rows; r++, x += size, dy += size, dx += size) {
        const float mean = statistics[r], deviation = statistics[rows + r];
        float sum = 0, along = 0;
        for (block = 0; block < count; block++) {
            for (j = 0; j < blocks[block].n_outs; j++) {
                const float g = costsim_weight_of(blocks + block, j, &c) * dy[c];
                sum += g;
                along += g * (x[c] - mean) * deviation;
            }
        }
        sum /= (float)size;
        along /= (float)size;
        for (block = 0; block < count; block++) {
            for (j = 0; j < blocks[block].n_outs; j++) {
                const float g = costsim_weight_of(blocks + block, j, &c) * dy[c];
                dx[c] = (g - sum - (x[c] - mean) * deviation * along) * deviation;
            }
        }
    }
}

void costsim_layer_norm_weight_gradient(int32_t rows, int32_t size, int32_t x_size,
                                        const costsim_block *block, const float *statistics,
                                        const float *dy, const float *x, float *dw) {
    int32_t r, j;
    for (j = 0; j < block->n_outs; j++) {
        const int32_t c = block->first_out + costsim_number(block->outs, j);
        const int32_t kept = block->first_in + costsim_number(block->ins, j);
        float sum = 0;
        for (r = 0; r < rows; r++) {
            sum += dy[r * size + c] * (x[r * x_size + kept] - statistics[r]) *
                   statistics[rows + r];
        }
        dw[j] = sum;
    }
}

void costsim_group_norm_forward(int32_t samples, int32_t channels, int32_t inner, int32_t groups,
                                float eps, const costsim_block *blocks, int32_t count,
                                const float *bias, const float *x, float *y, float *statistics) {
    const int32_t members = channels / groups;
    int32_t n, g, block, j, i, c;
    for (n = 0; n < samples; n++) {
        for (g = 0; g < groups; g++) {
            float mean, deviation;
            costsim_moments(members * inner, eps, x + (n * channels + g * members) * inner, &mean,
                            &deviation);
            if (statistics) {
                statistics[n * groups + g] = mean;
                statistics[(samples + n) * groups + g] = deviation;
            }
            for (block = 0; block < count; block++) {
                for (j = 0; j < blocks[block].n_outs; j++) {
                    const float weight = costsim_weight_of(blocks + block, j, &c);
                    const int32_t at = (n * channels + c) * inner;
                    if (c / members != g) {
                        continue;
                    }
                    for (i = at; i < at + inner; i++) {
                        y[i] = (x[i] - mean) * deviation * weight + (bias ? bias[c] : 0.0f);
                    }
                }
            }
        }
    }
}

void costsim_group_norm_input_gradient(int32_t samples, int32_t channels, int32_t inner,
                                       int32_t groups, const costsim_block *blocks, int32_t count,
                                       const float *x, const float *statistics, const float *dy,
                                       float *dx) {
    const int32_t members = channels / groups;
    int32_t n, g, block, j, i, c, pass;
    for (n = 0; n < samples; n++) {
        for (g = 0; g < groups; g++) {
            const float mean = statistics[n * groups + g];
            const float deviation = statistics[(samples + n) * groups + g];
            float sum = 0, along = 0;
            for (pass = 0; pass < 2; pass++) {
                for (block = 0; block < count; block++) {
                    for (j = 0; j < blocks[block].n_outs; j++) {
                        const float weight = costsim_weight_of(blocks + block, j, &c);
                        const int32_t at = (n * channels + c) * inner;
                        if (c / members != g) {
                            continue;
                        }
                        for (i = at; i < at + inner; i++) {
                            const float normal = (x[i] - mean) * deviation;
                            if (pass) {
                                dx[i] = (weight * dy[i] - sum - normal * along) * deviation;
                            } else {
                                sum += weight * dy[i];
                                along += weight * dy[i] * normal;
                            }
                        }
                    }
                }
                if (!pass) {
                    sum /= (float)(members * inner);
                    along /= (float)(members * inner);
                }
            }
        }
    }
}

void costsim_group_norm_weight_gradient(int32_t samples, int32_t channels, int32_t inner,
                                        int32_t groups, int32_t x_channels,
                                        const costsim_block *block, const float *statistics,
                                        const float *dy, const float *x, float *dw) {
    int32_t j, n, i;
    for (j = 0; j < block->n_outs; j++) {
        const int32_t c = block->first_out + costsim_number(block->outs, j);
        const int32_t kept = block->first_in + costsim_number(block->ins, j);
        const int32_t group = c / (channels / groups);
        float sum = 0;
        for (n = 0; n < samples; n++) {
            const float mean = statistics[n * groups + group];
            const float deviation = statistics[(samples + n) * groups + group];
            const float *g = dy + (n * channels + c) * inner;
            const float *v = x + (n * x_channels + kept) * inner;
            float inside = 0;
            for (i = 0; i < inner; i++) {
                inside += g[i] * (v[i] - mean);
            }
            sum += inside * deviation;
        }
        dw[j] = sum;
    }
}

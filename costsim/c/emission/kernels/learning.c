/* The loss and the updates. */

float costsim_cross_entropy(int32_t rows, int32_t size, float scale, const float *x,
                            const int32_t *labels, float *dx) {
    float loss = 0;
    int32_t r, k;
    for (r = 0; r < rows; r++, x += size) {
        float most = x[0], sum = 0;
        for (k = 1; k < size; k++) {
            most = x[k] > most ? x[k] : most;
        }
        for (k = 0; k < size; k++) {
            sum += costsim_exp(x[k] - most);
        }
        loss += costsim_log(sum) - (x[labels[r]] - most);
        if (dx) {
            for (k = 0; k < size; k++) {
                dx[k] = costsim_exp(x[k] - most) / sum;
            }
            dx[labels[r]] -= 1.0f;
            for (k = 0; k < size; k++) {
                dx[k] *= scale;
            }
            dx += size;
        }
    }
    return loss / (float)rows;
}

void costsim_sgd(int32_t count, float rate, const float *dw, float *weight) {
    int32_t i;
    for (i = 0; i < count; i++) {
        weight[i] -= rate * dw[i];
    }
}

void costsim_momentum(int32_t count, float rate, float momentum, const float *dw, float *weight,
                      float *state) {
    int32_t i;
    for (i = 0; i < count; i++) {
        state[i] = momentum * state[i] + dw[i];
        weight[i] -= rate * state[i];
    }
}

/* 1 - beta^step, from the logarithm of beta: beta itself is too coarse near one. */
void costsim_adam(int32_t count, float rate, float beta2, float log_beta1,
                  float log_beta2, float eps, int32_t step, const float *dw, float *weight,
                  float *state) {
    const float change1 = -costsim_expm1(log_beta1), change2 = -costsim_expm1(log_beta2);
    const float scale = costsim_sqrt(-costsim_expm1(log_beta2 * (float)step));
    const float size = rate / -costsim_expm1(log_beta1 * (float)step);
    float *square = state + count;
    int32_t i;
    for (i = 0; i < count; i++) {
        state[i] += (dw[i] - state[i]) * change1;
        square[i] = square[i] * beta2 + dw[i] * dw[i] * change2;
        weight[i] -= size * (state[i] / (costsim_sqrt(square[i]) / scale + eps));
    }
}

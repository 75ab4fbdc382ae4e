/* The classifier by class means, and what a classifier answers. */

static float costsim_feature(const costsim_features *f, int32_t k) {
    return f->x ? f->x[k] : (float)((int32_t)f->q[k] - f->zero);
}

static costsim_features costsim_features_at(const costsim_features *f, int32_t k) {
    costsim_features row = *f;
    if (row.x) {
        row.x += k;
    } else {
        row.q += k;
    }
    return row;
}

static float costsim_inverse_length(int32_t size, const costsim_features *f) {
    float sum = 0;
    int32_t k;
    for (k = 0; k < size; k++) {
        const float value = costsim_feature(f, k);
        COSTSIM_MAC(sum, value, value);
    }
    return sum > 0 ? 1.0f / costsim_sqrt(sum) : 0.0f;
}

void costsim_means_add(int32_t size, const costsim_features *f, float *mean) {
    int32_t k;
    for (k = 0; k < size; k++) {
        mean[k] += costsim_feature(f, k);
    }
}

void costsim_means_finish(int32_t classes, int32_t size, float *means) {
    costsim_features mean = {0, 0, 1.0f, 0};
    int32_t w, k;
    for (w = 0; w < classes; w++, means += size) {
        float inverse;
        mean.x = means;
        inverse = costsim_inverse_length(size, &mean);
        for (k = 0; k < size; k++) {
            means[k] *= inverse;
        }
    }
}

float costsim_cosines(int32_t classes, int32_t size, const costsim_features *f, const float *means,
                      float *cosines) {
    const float inverse = costsim_inverse_length(size, f);
    int32_t w, k;
    for (w = 0; w < classes; w++, means += size) {
        float sum = 0;
        for (k = 0; k < size; k++) {
            COSTSIM_MAC(sum, costsim_feature(f, k), means[k]);
        }
        cosines[w] = sum * inverse;
    }
    return inverse;
}

float costsim_prototype_loss(int32_t rows, int32_t classes, int32_t size, float scale,
                             float temperature, const costsim_features *f, const float *means,
                             const int32_t *labels, float *cosines, float *dx) {
    float loss = 0;
    int32_t r, w, k;
    for (r = 0; r < rows; r++) {
        const costsim_features row = costsim_features_at(f, r * size);
        const float inverse = costsim_cosines(classes, size, &row, means, cosines);
        const float outside = inverse / f->scale;
        float most = cosines[0], sum = 0, along = 0;
        for (w = 1; w < classes; w++) {
            most = cosines[w] > most ? cosines[w] : most;
        }
        for (w = 0; w < classes; w++) {
            sum += costsim_exp((cosines[w] - most) * temperature);
        }
        loss += costsim_log(sum) - (cosines[labels[r]] - most) * temperature;
        for (w = 0; dx && w < classes; w++) {
            const float p = costsim_exp((cosines[w] - most) * temperature) / sum;
            const float slope = (w == labels[r] ? p - 1.0f : p) * (temperature * scale);
            COSTSIM_MAC(along, slope, cosines[w]);
            cosines[w] = slope;
        }
        for (k = 0; dx && k < size; k++) {
            const float part = costsim_feature(&row, k) * inverse * along;
            float pull = 0;
            for (w = 0; w < classes; w++) {
                COSTSIM_MAC(pull, cosines[w], means[w * size + k]);
            }
            *dx++ = (pull - part) * outside;
        }
    }
    return loss / (float)rows;
}

int32_t costsim_most_likely(int32_t classes, float factor, const costsim_features *f,
                            float *score) {
    float sum = 0;
    int32_t w, best = 0;
    for (w = 1; w < classes; w++) {
        best = costsim_feature(f, w) > costsim_feature(f, best) ? w : best;
    }
    for (w = 0; w < classes; w++) {
        sum += costsim_exp((costsim_feature(f, w) - costsim_feature(f, best)) * f->scale * factor);
    }
    *score = 1.0f / sum;
    return best;
}

/* Launches of cuda/posterior.cu. */
#ifndef DEEM_POSTERIOR_H
#define DEEM_POSTERIOR_H

#include <stdint.h>

/* latents = scaling (mean + deviation noise) */
struct DeemPosteriorForward {
    const void *moments; /* [rows, 2, z]: mean, logvar */
    const void *noise;   /* [rows, z], or null */
    void *latents;       /* [rows, z] */
    int64_t rows;
    int32_t z;
    float scaling;
};

/* Gradient of the moments, and partial sums of the divergence */
struct DeemPosteriorBackward {
    const void *moments;   /* [rows, 2, z] */
    const void *noise;     /* [rows, z] */
    const void *d_latents; /* [rows, z] */
    void *d_moments;       /* [rows, 2, z] */
    void *partial;         /* f64 [blocks] */
    int64_t rows;
    int32_t z;
    float scaling;
    float weight;
    int32_t padding;
};

#endif

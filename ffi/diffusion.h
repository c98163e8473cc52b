/* Launches of cuda/diffusion.cu. */
#ifndef DEEM_DIFFUSION_H
#define DEEM_DIFFUSION_H

#include <stdint.h>

/* out = a[image] z + b[image] noise: noisy latents, or what is to be predicted */
struct DeemDiffusionMix {
    const void *z;       /* [images, per_image] */
    const void *noise;   /* [images, per_image] */
    const void *factors; /* f32 [images, 2]: a, b */
    void *out;           /* [images, per_image] */
    int64_t n;
    int64_t per_image;
};

/* guided = u + scale (c - u) */
struct DeemDiffusionGuide {
    const void *prediction; /* [2, n]: u, c */
    void *guided;           /* [n] */
    int64_t n;
    float scale;
    int32_t padding;
};

/* One step of a sampler in place, with guidance before it if there are two predictions */
struct DeemDiffusionStep {
    const void *prediction; /* [n], or [2, n] */
    const void *noise;      /* [n], or null if none is added */
    void *x;                /* [n] */
    void *x0;               /* [n] */
    int64_t n;
    int32_t guided; /* 1: two predictions */
    float guidance;
    float from_x;
    float from_prediction;
    float x_factor;
    float x0_factor;
    float previous;
    float noise_factor;
};

#endif

/* Launches of cuda/groupnorm.cu. */
#ifndef DEEM_GROUPNORM_H
#define DEEM_GROUPNORM_H

#include <stdint.h>

/* Sizes, and how the pixels of an image are cut into slices. */
struct DeemGroupnormSizes {
    int32_t images;
    int32_t pixels;
    int32_t channels;
    int32_t groups;
    int32_t slices;
    int32_t pixels_per_slice;
};

/* (mean, sum of squares of deviations) of each group of channels over slices of the pixels. Blocks: slices, groups_per_block groups, images. */
struct DeemGroupnormMoments {
    const void *x; /* [images, pixels, channels] */
    void *partial; /* f32 [images, slices, groups, 2] */
    struct DeemGroupnormSizes sizes;
    int32_t groups_per_block;
    int32_t padding;
};

/* stats from the moments of the slices, in order */
struct DeemGroupnormStatistics {
    const void *partial; /* f32 [images, slices, groups, 2] */
    void *stats;         /* f32 [images, groups, 2]: mean, rstd */
    struct DeemGroupnormSizes sizes;
    float eps;
    int32_t padding;
};

/* y = silu?((x - mean) rstd weight + bias) */
struct DeemGroupnormForward {
    const void *x;      /* [images, pixels, channels] */
    const void *weight; /* [channels] */
    const void *bias;   /* [channels] */
    const void *stats;  /* f32 [images, groups, 2] */
    void *y;            /* [images, pixels, channels] */
    int64_t n;
    struct DeemGroupnormSizes sizes;
    int32_t groups_per_block;
    int32_t silu;
};

/* Sums of g and g n of each group over slices of the pixels; d = silu'(z) dy or dy, g = weight d, n = (x - mean) rstd */
struct DeemGroupnormBackwardSums {
    const void *x;      /* [images, pixels, channels] */
    const void *weight; /* [channels] */
    const void *bias;   /* [channels] */
    const void *stats;  /* f32 [images, groups, 2] */
    const void *dy;     /* [images, pixels, channels] */
    void *partial;      /* f32 [images, slices, groups, 2] */
    struct DeemGroupnormSizes sizes;
    int32_t groups_per_block;
    int32_t silu;
};

/* Means of g and g n of each group: the slices' sums in order, times factor */
struct DeemGroupnormTotals {
    const void *partial; /* f32 [images, slices, groups, 2] */
    void *totals;        /* f32 [images, groups, 2] */
    struct DeemGroupnormSizes sizes;
    float factor;
    int32_t padding;
};

/* dx = residual + rstd (g - mean(g) - n mean(g n)) */
struct DeemGroupnormBackwardInput {
    const void *x;       /* [images, pixels, channels] */
    const void *weight;  /* [channels] */
    const void *bias;    /* [channels] */
    const void *stats;   /* f32 [images, groups, 2] */
    const void *dy;      /* [images, pixels, channels] */
    const void *totals;  /* f32 [images, groups, 2]: means of g and g n */
    const void *residual; /* [images, pixels, channels], or null for 0 */
    void *dx;            /* [images, pixels, channels] */
    struct DeemGroupnormSizes sizes;
    int32_t groups_per_block;
    int32_t silu;
};

/* Partial sums over slices of rows (images and pixels): of d n, of d */
struct DeemGroupnormBackwardWeight {
    const void *x;      /* [rows, channels] */
    const void *weight; /* [channels] */
    const void *bias;   /* [channels] */
    const void *stats;  /* f32 [images, groups, 2] */
    const void *dy;     /* [rows, channels] */
    void *partial_dw;   /* f32 [slices, channels], or null if not wanted */
    void *partial_db;   /* f32 [slices, channels], or null if not wanted */
    int64_t rows;
    int64_t rows_per_slice;
    struct DeemGroupnormSizes sizes; /* its slices are those of the other launches */
    int32_t silu;
    int32_t padding;
};

#endif

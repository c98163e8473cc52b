/* Launches of cuda/layernorm.cu. */
#ifndef DEEM_LAYERNORM_H
#define DEEM_LAYERNORM_H

#include <stdint.h>

/* y = (x - mean) rstd weight + bias per row */
struct DeemLayernormForward {
    const void *x;      /* [rows, cols] */
    const void *weight; /* [cols], or null for 1 */
    const void *bias;   /* [cols], or null for 0 */
    void *y;            /* [rows, cols] */
    void *stats;        /* f32 [rows, 2]: mean, rstd */
    int64_t rows;
    int32_t cols;
    float eps;
};

/* dx = residual + rstd (g - mean(g) - n mean(g n)), g = weight dy, n = (x - mean) rstd */
struct DeemLayernormBackwardInput {
    const void *x;      /* [rows, cols] */
    const void *weight; /* [cols], or null for 1 */
    const void *stats;  /* f32 [rows, 2] */
    const void *dy;     /* [rows, cols] */
    const void *residual; /* [rows, cols], or null for 0 */
    void *dx;           /* [rows, cols] */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* Partial sums over slices of rows: dw of dy n, db of dy */
struct DeemLayernormBackwardWeight {
    const void *x;     /* [rows, cols] */
    const void *stats; /* f32 [rows, 2] */
    const void *dy;    /* [rows, cols] */
    void *partial_dw;  /* f32 [slices, cols], or null if not wanted */
    void *partial_db;  /* f32 [slices, cols], or null if not wanted */
    int64_t rows;
    int64_t rows_per_slice;
    int32_t cols;
    int32_t padding;
};

#endif

/* Launches of cuda/rmsnorm.cu. */
#ifndef DEEM_RMSNORM_H
#define DEEM_RMSNORM_H

#include <stdint.h>

/* y = x rstd weight per row */
struct DeemRmsnormForward {
    const void *x;      /* [rows, cols] */
    const void *weight; /* [cols] */
    void *y;            /* [rows, cols] */
    void *rstd;         /* f32 [rows] */
    int64_t rows;
    int32_t cols;
    float eps;
};

/* dx = residual + rstd (g - n mean(g n)), g = weight dy, n = x rstd */
struct DeemRmsnormBackwardInput {
    const void *x;      /* [rows, cols] */
    const void *weight; /* [cols] */
    const void *rstd;   /* f32 [rows] */
    const void *dy;     /* [rows, cols] */
    const void *residual; /* [rows, cols], or null for 0 */
    void *dx;           /* [rows, cols] */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* Partial sums of dy n over slices of rows */
struct DeemRmsnormBackwardWeight {
    const void *x;    /* [rows, cols] */
    const void *rstd; /* f32 [rows] */
    const void *dy;   /* [rows, cols] */
    void *partial;    /* f32 [slices, cols] */
    int64_t rows;
    int64_t rows_per_slice;
    int32_t cols;
    int32_t padding;
};

#endif

/* Launches of cuda/fold.cu. */
#ifndef DEEM_FOLD_H
#define DEEM_FOLD_H

#include <stdint.h>

/* to_weight = weight gamma, to_bias = bias + weight beta */
struct DeemFoldForward {
    const void *gamma;  /* [cols] */
    const void *beta;   /* [cols] */
    const void *weight; /* [rows, cols] */
    const void *bias;   /* [rows] */
    void *to_weight;    /* [rows, cols] */
    void *to_bias;      /* [rows] */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* to_weight += d_weight gamma + d_bias beta, to_bias += d_bias */
struct DeemFoldBackwardWeight {
    const void *gamma;    /* [cols] */
    const void *beta;     /* [cols] */
    const void *d_weight; /* f32 [rows, cols] */
    const void *d_bias;   /* f32 [rows] */
    void *to_weight;      /* f32 [rows, cols], or null if not wanted */
    void *to_bias;        /* f32 [rows], or null if not wanted */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* Partial sums over slices of rows: of weight d_weight, of weight d_bias */
struct DeemFoldBackwardNorm {
    const void *weight;   /* [rows, cols] */
    const void *d_weight; /* f32 [rows, cols] */
    const void *d_bias;   /* f32 [rows] */
    void *partial_gamma;  /* f32 [slices, cols], or null if not wanted */
    void *partial_beta;   /* f32 [slices, cols], or null if not wanted */
    int64_t rows;
    int64_t rows_per_slice;
    int32_t cols;
    int32_t padding;
};

#endif

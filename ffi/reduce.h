/* Launches of cuda/reduce.cu. */
#ifndef DEEM_REDUCE_H
#define DEEM_REDUCE_H

#include <stdint.h>

/* out (+)= sum of partial over its slices: the second launch of every sum over rows */
struct DeemReduceSlices {
    const void *partial; /* f32 [slices, cols] */
    void *out;           /* f32 [cols] */
    int64_t slices;
    int64_t cols;
    int32_t add; /* 1: added to what is there */
    int32_t padding;
};

/* Partial sums of x over slices of rows */
struct DeemReduceSumRows {
    const void *x; /* [rows, cols] */
    void *partial; /* f32 [slices, cols] */
    int64_t rows;
    int64_t rows_per_slice;
    int32_t cols;
    int32_t padding;
};

/* Sum of an array of f64, in one block */
struct DeemReduceTotal {
    const void *partial; /* f64 [n] */
    void *out;           /* f64 [1] */
    int64_t n;
};

/* Partial sums, in f64, of x or of its squares; or the number of elements that are infinite or NaN */
struct DeemReduceSum {
    const void *x; /* [n] */
    void *partial; /* f64 [blocks] */
    int64_t n;
    int32_t what; /* DEEM_REDUCE_... */
    int32_t padding;
};
#define DEEM_REDUCE_SUM 0
#define DEEM_REDUCE_SQUARES 1
#define DEEM_REDUCE_NOT_FINITE 2

/* Column of the largest element of each row */
struct DeemReduceArgmax {
    const void *x; /* [rows, cols] */
    void *found;   /* i32 [rows] */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* Partial sums of how often a column is the wanted one */
struct DeemReduceHits {
    const void *found;  /* i32 [n] */
    const void *wanted; /* i32 [n] */
    void *partial;      /* f64 [blocks] */
    int64_t n;
};

/* y = x - ln sum exp(x) per row */
struct DeemReduceLogSoftmax {
    const void *x; /* [rows, cols] */
    void *y;       /* f32 [rows, cols] */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* y = factor times the sum of x over the pixels */
struct DeemReduceSumPixels {
    const void *x; /* [images, pixels, cols] */
    void *y;       /* [images, cols] */
    int64_t pixels;
    int32_t images;
    int32_t cols;
    float factor;
    int32_t padding;
};

/* dx = factor dy at every pixel */
struct DeemReduceSpreadPixels {
    const void *dy; /* [images, cols] */
    void *dx;       /* [images, pixels, cols] */
    int64_t n;      /* images pixels cols */
    int64_t pixels;
    int32_t cols;
    float factor;
};

#endif

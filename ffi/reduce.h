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

#endif

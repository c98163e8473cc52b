/* Launches of cuda/copy.cu. */
#ifndef DEEM_COPY_H
#define DEEM_COPY_H

#include <stdint.h>

/* For every entry: y[entry y_stride + y_start ..][..len] = or += x[entry x_stride + x_start ..][..len] */
struct DeemCopyBlocks {
    const void *x;
    void *y;
    int64_t entries;
    int64_t len;
    int64_t x_stride;
    int64_t x_start;
    int64_t y_stride;
    int64_t y_start;
    int32_t add; /* 1: added to what is there */
    int32_t padding;
};

/* dx = sum of the entries of dy */
struct DeemCopySumBatch {
    const void *dy; /* [entries, n] */
    void *dx;       /* [n] */
    int64_t entries;
    int64_t n;
};

/* y = x in another type */
struct DeemCopyCast {
    const void *x; /* [n] */
    void *y;       /* [n] */
    int64_t n;
};

/* y = the transposes of matrices, in another type */
struct DeemCopyTranspose {
    const void *x; /* [matrices, rows, cols] */
    void *y;       /* [matrices, cols, rows] */
    int64_t matrices;
    int32_t rows;
    int32_t cols;
};

#endif

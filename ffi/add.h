/* Launches of cuda/add.cu. */
#ifndef DEEM_ADD_H
#define DEEM_ADD_H

#include <stdint.h>

/* y = a + b */
struct DeemAddForward {
    const void *a; /* [n] */
    const void *b; /* [n] */
    void *y;       /* [n] */
    int64_t n;
};

/* y += alpha x */
struct DeemAddAxpy {
    const void *x; /* [n] */
    void *y;       /* [n] */
    int64_t n;
    float alpha;
    int32_t padding;
};

/* y = alpha x */
struct DeemAddScale {
    const void *x; /* [n] */
    void *y;       /* [n] */
    int64_t n;
    float alpha;
    int32_t padding;
};

/* y = v x, or v + x, the same v for every row */
struct DeemAddChannels {
    const void *v; /* [cols] */
    const void *x; /* [rows, cols] */
    void *y;       /* [rows, cols] */
    int64_t n;     /* rows cols */
    int64_t cols;
    int32_t product; /* 1: v x, 0: v + x */
    int32_t padding;
};

/* y = keep x, one factor per row */
struct DeemAddMaskRows {
    const void *keep; /* f32 [rows] */
    const void *x;    /* [rows, cols] */
    void *y;          /* [rows, cols] */
    int64_t n;        /* rows cols */
    int64_t cols;
};

/* Partial sums of x dy over slices of rows */
struct DeemAddGammaGradient {
    const void *x;  /* [rows, cols] */
    const void *dy; /* [rows, cols] */
    void *partial;  /* f32 [slices, cols] */
    int64_t rows;
    int64_t rows_per_slice;
    int32_t cols;
    int32_t padding;
};

/* Partial sums of a b, in f64 */
struct DeemAddDot {
    const void *a; /* [n] */
    const void *b; /* [n] */
    void *partial; /* f64 [blocks] */
    int64_t n;
};

#endif

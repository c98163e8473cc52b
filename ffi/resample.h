/* Launches of cuda/resample.cu. */
#ifndef DEEM_RESAMPLE_H
#define DEEM_RESAMPLE_H

#include <stdint.h>

/* out pixel (i, j) = sum over the taps of i of weight times the sum over the taps of j of weight times the in pixel: a resize, or its gradient.
 * Taps of n pixels along an axis: their bounds [n + 1], then the place of each tap, then the weight of each. */
struct DeemResampleGather {
    const void *from;    /* [images, in_height, in_width, channels] */
    const void *rows;    /* i32 bounds [out_height + 1], i32 places [taps], f32 weights [taps] */
    const void *columns; /* i32 bounds [out_width + 1], i32 places [taps], f32 weights [taps] */
    void *out;           /* [images, out_height, out_width, channels] */
    int64_t n;           /* elements of out */
    int32_t in_height;
    int32_t in_width;
    int32_t out_height;
    int32_t out_width;
    int32_t channels;
    int32_t row_taps;
    int32_t column_taps;
    int32_t padding;
};

/* y = the largest of 3x3 pixels, stride 2, padding 1 */
struct DeemResampleMaxPoolForward {
    const void *x; /* [images, height, width, channels] */
    void *y;       /* [images, (height + 1) / 2, (width + 1) / 2, channels] */
    int64_t n;     /* elements of y */
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t padding;
};

/* dx = the sum of dy over the windows whose first largest pixel this is */
struct DeemResampleMaxPoolBackward {
    const void *x;  /* [images, height, width, channels] */
    const void *dy; /* [images, (height + 1) / 2, (width + 1) / 2, channels] */
    void *dx;       /* [images, height, width, channels] */
    int64_t n;      /* elements of x */
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t padding;
};

#endif

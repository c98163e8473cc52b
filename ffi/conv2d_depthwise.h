/* Launches of cuda/conv2d_depthwise.cu. */
#ifndef DEEM_CONV2D_DEPTHWISE_H
#define DEEM_CONV2D_DEPTHWISE_H

#include <stdint.h>

/* y = bias + x * w; for the gradient of the input x is dy, y is dx, and the kernel is turned around */
struct DeemConv2dDepthwiseForward {
    const void *x;    /* [batch, height, width, channels] */
    const void *w;    /* [kernel_height, kernel_width, channels] */
    const void *bias; /* [channels], or null for 0 */
    void *y;          /* [batch, height, width, channels] */
    int32_t batch;
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t kernel_height; /* odd */
    int32_t kernel_width;  /* odd */
    int32_t turned;        /* 1: taps from the last to the first */
    int32_t padding;
};

/* Partial sums of dw over slices of the batch's lines */
struct DeemConv2dDepthwiseBackwardWeight {
    const void *x;  /* [batch, height, width, channels] */
    const void *dy; /* [batch, height, width, channels] */
    void *partial;  /* f32 [slices, kernel_height kernel_width, channels] */
    int64_t lines_per_slice;
    int32_t batch;
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t kernel_height; /* odd */
    int32_t kernel_width;  /* odd */
};

#endif

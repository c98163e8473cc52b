/* Launches of cuda/rope.cu. */
#ifndef DEEM_ROPE_H
#define DEEM_ROPE_H

#include <stdint.h>

/* (x_k, x_{k+half}) rotated by position frequency_k, in place */
struct DeemRopeRotate {
    void *x;               /* [rows, heads, 2 half] */
    const void *positions; /* i32 [rows] */
    const void *frequency; /* f32 [half] */
    int64_t rows;
    int32_t heads;
    int32_t half;
    int32_t inverse; /* 1: by the opposite angles */
    int32_t padding;
};

#endif

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

/* New keys, rotated, and values at rows start .. start + count of caches */
struct DeemRopeStore {
    const void *keys;      /* [rows, heads, 2 half], rows = B count */
    const void *values;    /* as keys */
    void *key_cache;       /* [B, capacity, heads, 2 half] */
    void *value_cache;     /* as key_cache */
    const void *positions; /* i32 [rows] */
    const void *frequency; /* f32 [half] */
    int64_t rows;
    int64_t count;
    int64_t start;
    int64_t capacity;
    int32_t heads;
    int32_t half;
};

#endif

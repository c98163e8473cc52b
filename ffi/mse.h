/* Launches of cuda/mse.cu. */
#ifndef DEEM_MSE_H
#define DEEM_MSE_H

#include <stdint.h>

/* Partial sums of factor (pred - target)^2, in f64 */
struct DeemMseForward {
    const void *pred;   /* [n] */
    const void *target; /* [n] */
    const void *factor; /* f32 [n / cols], or null for 1 */
    void *map;          /* [n]: each term, or null if not wanted */
    void *partial;      /* f64 [blocks] */
    int64_t n;
    int64_t cols;
};

/* dpred = scale factor (pred - target) */
struct DeemMseBackward {
    const void *pred;   /* [n] */
    const void *target; /* [n] */
    const void *factor; /* f32 [n / cols], or null for 1 */
    void *dpred;        /* [n] */
    int64_t n;
    int64_t cols;
    float scale;
    int32_t padding;
};

#endif

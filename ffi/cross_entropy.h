/* Launches of cuda/cross_entropy.cu. */
#ifndef DEEM_CROSS_ENTROPY_H
#define DEEM_CROSS_ENTROPY_H

#include <stdint.h>

/* lse and loss of each row; 0 for ignored rows */
struct DeemCrossEntropyForward {
    const void *logits;  /* [rows, cols] */
    const void *targets; /* i32 [rows]: a class, or negative for rows that are ignored */
    void *lse;           /* f32 [rows] */
    void *losses;        /* f64 [rows] */
    int64_t rows;
    int32_t cols;
    int32_t padding;
};

/* d_logits = scale (softmax - onehot); 0 in ignored rows */
struct DeemCrossEntropyBackward {
    const void *logits;  /* [rows, cols] */
    const void *targets; /* i32 [rows]: a class, or negative for rows that are ignored */
    const void *lse;     /* f32 [rows] */
    void *d_logits;      /* [rows, cols] */
    int64_t rows;
    int32_t cols;
    float scale;
};

#endif

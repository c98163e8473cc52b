/* Launches of cuda/dropout.cu. */
#ifndef DEEM_DROPOUT_H
#define DEEM_DROPOUT_H

#include <stdint.h>

/* y = residual + keep factor x; keep is 0 where the number of an element in the stream is below the threshold */
struct DeemDropout {
    const void *x;        /* [rows, cols] */
    const void *residual; /* [rows, cols], or null */
    void *y;              /* [rows, cols] */
    int64_t rows;
    int32_t cols;
    float factor;
    uint32_t key[2];
    uint32_t tensor[2];
    uint32_t threshold;
    int32_t padding;
};

#endif

/* Launches of cuda/random.cu. */
#ifndef DEEM_RANDOM_H
#define DEEM_RANDOM_H

#include <stdint.h>

/* y[i] = the number i of a stream: Philox-4x32-10 of counter (i, tensor) and key */
struct DeemRandomFill {
    void *y; /* [n] */
    int64_t n;
    uint32_t key[2];
    uint32_t tensor[2];
};

#endif

/* Launches of cuda/timestep_embedding.cu. */
#ifndef DEEM_TIMESTEP_EMBEDDING_H
#define DEEM_TIMESTEP_EMBEDDING_H

#include <stdint.h>

/* y = sin | cos of timestep frequency */
struct DeemTimestepEmbeddingForward {
    const void *timesteps; /* f32 [rows] */
    const void *frequency; /* f32 [cols / 2] */
    void *y;               /* [rows, cols] */
    int64_t rows;
    int32_t cols;
    int32_t flip; /* 1: cos | sin */
};

#endif

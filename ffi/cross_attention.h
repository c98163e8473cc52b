/* Launches of cuda/cross_attention.cu. */
#ifndef DEEM_CROSS_ATTENTION_H
#define DEEM_CROSS_ATTENTION_H

#include <stdint.h>

/* out = softmax(scale q k^T) v per head, few keys, no masks. */
struct DeemCrossAttentionForward {
    const void *q; /* [B, T, heads * d] */
    const void *k; /* [B, S, heads * d] */
    const void *v; /* as k */
    void *out;     /* [B, T, heads * d] */
    void *lse;     /* f32 [B, heads, T] */
    int64_t batch;
    int64_t t;
    int64_t s;
    int32_t heads;
    int32_t d;
    float scale;
    int32_t padding; /* of the struct */
};

#endif

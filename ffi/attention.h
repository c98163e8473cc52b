/* Launches of cuda/attention.cu. */
#ifndef DEEM_ATTENTION_H
#define DEEM_ATTENTION_H

#include <stdint.h>

#include "tensor_map.h"

/* What multiplies the probabilities: those whose number of the stream is below the threshold are dropped; see ffi/dropout.h. Rows are (b, n, t). */
struct DeemAttentionDropout {
    uint32_t key[2];
    uint32_t tensor[2];
    uint32_t threshold; /* 0: nothing is dropped */
    float factor;
};

/* out = softmax(scale q k^T + mask) v per head; query head n reads key head n / (heads / kv_heads). */
struct DeemAttentionForward {
    const void *q;    /* [B, T, heads * d] */
    const void *k;    /* [B, capacity, kv_heads * d], of which the first S are used */
    const void *v;    /* as k */
    const void *keys; /* bytes [B, S], 0 = masked; or null */
    void *out;        /* [B, T, heads * d] */
    void *lse;        /* f32 [B, heads, T] */
    int64_t batch;
    int64_t t;
    int64_t s;
    int64_t capacity;
    int64_t causal; /* query t sees keys 0 ..= t + causal; -1: all */
    int32_t heads;
    int32_t kv_heads;
    int32_t d;
    float scale;
    const void *first; /* u32 [B, T]: the first key that a query sees; or null */
    struct DeemAttentionDropout dropout;
};

/* The same by the kernels for sm_90a. The maps have the numbers of a head as their inner axis, then heads, rows, images; boxes of 64 numbers by a block's queries or keys. */
struct DeemAttentionTensorForward {
    struct DeemTensorMap q_map;
    struct DeemTensorMap k_map;
    struct DeemTensorMap v_map;
    struct DeemAttentionForward attention;
    int64_t padding[7]; /* a multiple of 64 bytes */
};

/* Gradients of q, k and v, overwritten. One struct serves the three launches: delta, then dq and dk with dv in any order. */
struct DeemAttentionBackward {
    const void *q;     /* [B, T, heads * d] */
    const void *k;     /* [B, capacity, kv_heads * d] */
    const void *v;     /* as k */
    const void *keys;  /* bytes [B, S], 0 = masked; or null */
    const void *out;   /* [B, T, heads * d] */
    const void *lse;   /* f32 [B, heads, T] */
    const void *d_out; /* [B, T, heads * d] */
    void *delta;       /* scratch, f32 [B, heads, T]: the sum of d_out * out per row */
    void *dq;          /* [B, T, heads * d] */
    void *dk;          /* as k; 0 behind the first S */
    void *dv;          /* as k; 0 behind the first S */
    int64_t batch;
    int64_t t;
    int64_t s;
    int64_t capacity;
    int64_t causal; /* query t sees keys 0 ..= t + causal; -1: all */
    int32_t heads;
    int32_t kv_heads;
    int32_t d;
    float scale;
    const void *first; /* u32 [B, T]: the first key that a query sees; or null */
    struct DeemAttentionDropout dropout;
};

#endif

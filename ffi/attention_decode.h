/* Launches of cuda/attention_decode.cu. */
#ifndef DEEM_ATTENTION_DECODE_H
#define DEEM_ATTENTION_DECODE_H

#include <stdint.h>

/* Attention of few queries, keys in parts. One struct serves the two launches: parts, and, where there is more than one, what they add up to. */
struct DeemAttentionDecode {
    const void *q;     /* [B, T, heads * d] */
    const void *k;     /* [B, capacity, kv_heads * d], of which the first S are used */
    const void *v;     /* as k */
    const void *keys;  /* bytes [B, S], 0 = masked; or null */
    const void *first; /* u32 [B, T]: the first key that a query sees; or null */
    void *out;         /* [B, T, heads * d] */
    void *lse;         /* f32 [B, heads, T] */
    void *sums;        /* scratch, f32 [B, heads, T, parts, d]: weighted sums of values; null for one part */
    void *weights;     /* scratch, f32 [B, heads, T, parts, 2]: the largest score in powers of two, and the sum of weights relative to it; null for one part */
    const void *positions; /* i32 [B, T]: queries are rotated by position frequency_k as ffi/rope.h says; or null */
    const void *frequency; /* f32 [d / 2]; or null */
    int64_t batch;
    int64_t t;
    int64_t s;
    int64_t capacity;
    int64_t causal; /* query t sees keys 0 ..= t + causal; -1: all */
    int32_t heads;
    int32_t kv_heads;
    int32_t d;
    float scale;
    int32_t parts;
    int32_t keys_of_part; /* a multiple of 64 */
};

#endif

// What the attention kernels share: where heads lie, what masks hide, and the plain kernels' rows.
#pragma once

#include <cstdint>

#include "../arch/math.cuh"
#include "philox.cuh"
#include "tile.cuh"

namespace deem {

/// The lowest finite number: the lse of a query all of whose keys are masked.
constexpr float LOWEST = -3.402823466e38f;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.69314718055994531f;

/// Where the numbers of query (b, t, n) begin.
template <class P> __device__ __forceinline__ int64_t query_at(const P &p, int64_t b, int64_t t, int n) { return ((b * p.t + t) * p.heads + n) * p.d; }

/// Where the numbers of key (b, s, n) begin.
template <class P> __device__ __forceinline__ int64_t key_at(const P &p, int64_t b, int64_t s, int n) { return ((b * p.capacity + s) * p.kv_heads + n) * p.d; }

/// How many keys lie before the causal line of query t.
template <class P> __device__ __forceinline__ int64_t limit_of(const P &p, int64_t t) {
    return p.causal < 0 || p.causal >= p.s - t ? p.s : t + p.causal + 1;
}

/// Whether the key mask hides key s of image b.
template <class P> __device__ __forceinline__ bool is_padded(const P &p, int64_t b, int64_t s) {
    return p.keys && static_cast<const uint8_t *>(p.keys)[b * p.s + s] == 0;
}

/// The first key that query t of image b sees.
template <class P> __device__ __forceinline__ int64_t start_of(const P &p, int64_t b, int64_t t) {
    return p.first ? static_cast<const uint32_t *>(p.first)[b * p.t + t] : 0;
}

/// What dropout multiplies the probability of query (b, n, t) and key s by.
template <class P> __device__ __forceinline__ float kept(const P &p, int64_t b, int n, int64_t t, int64_t s) {
    if (p.dropout.threshold == 0) return 1.f;
    const uint64_t four = static_cast<uint64_t>((b * p.heads + n) * p.t + t) * ((p.s + 3) / 4) + s / 4;
    const Words words = philox({{static_cast<uint32_t>(four), static_cast<uint32_t>(four >> 32), p.dropout.tensor[0], p.dropout.tensor[1]}},
                               p.dropout.key[0], p.dropout.key[1]);
    const int k = static_cast<int>(s % 4);
    const uint32_t word = k == 0 ? words.x[0] : k == 1 ? words.x[1] : k == 2 ? words.x[2] : words.x[3];
    return word < p.dropout.threshold ? 0.f : p.dropout.factor;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

/// Probability (what is left of it) and score gradient of query t of head n and key s, from score and dP = d_out v^T, as the host's backward has them.
template <class P>
__device__ __forceinline__ void score_gradient(const P &p, int64_t b, int n, int64_t t, int64_t s, float score, float dp, float lse, float delta, float &prob, float &ds) {
    const bool later = s >= limit_of(p, t) || s < start_of(p, b, t), padded = is_padded(p, b, s);
    const float share = kept(p, b, n, t, s);
    dp *= share;
    if ((p.keys || p.first) && lse == LOWEST) {
        prob = 1.f / static_cast<float>(p.s);
        ds = later && padded ? 0.f : 0.5f * p.scale * prob * (dp - delta);
    } else {
        prob = later || padded ? 0.f : expf(fmaf(p.scale, score, -lse));
        ds = p.scale * prob * (dp - delta);
    }
    prob *= share;
    if (p.s == 1) ds = 0.f; // the only key has weight 1 whatever its score is
}

/// Dot product of a row in shared memory and one in global memory, by one lane.
template <class E> __device__ __forceinline__ float row_dot(const float *x, const typename E::Stored *y, int d) {
    float sum = 0.f;
#pragma unroll 4
    for (int c = 0; c < d; ++c) sum = fmaf(x[c], E::load(y + c), sum);
    return sum;
}

} // namespace deem

// The plain kernels of attention, and the lists of all kernels of a storage type.
#pragma once

#include <cstdint>

#include "../../ffi/attention.h"
#include "attention.cuh"
#include "flash.cuh"
#include "flash_backward.cuh"

namespace deem {

constexpr int PLAIN_WARPS = 4, PLAIN_THREADS = 32 * PLAIN_WARPS;

/// Image, head and row of this warp among `batch * heads * rows`; false behind the end.
__device__ __forceinline__ bool place_of_warp(int64_t batch, int heads, int64_t rows, int64_t &b, int &n, int64_t &row) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * PLAIN_WARPS + threadIdx.x / 32;
    row = item % rows;
    n = static_cast<int>(item / rows % heads);
    b = item / rows / heads;
    return b < batch;
}

// ---------------------------------------------------------------- forward

template <class E> __device__ __forceinline__ void forward_plain(const DeemAttentionForward &p) {
    using Stored = typename E::Stored;
    extern __shared__ __align__(16) float space[];
    const int lane = threadIdx.x % 32, d = p.d;
    float *q = space + threadIdx.x / 32 * (2 * d + 32), *sums = q + d, *weights = sums + d;
    int64_t b, t;
    int n;
    if (!place_of_warp(p.batch, p.heads, p.t, b, n, t)) return;
    const int kv = n / (p.heads / p.kv_heads);
    const int64_t at = query_at(p, b, t, n), stride = static_cast<int64_t>(p.kv_heads) * d;
    const Stored *k = static_cast<const Stored *>(p.k) + key_at(p, b, 0, kv), *v = static_cast<const Stored *>(p.v) + key_at(p, b, 0, kv);
    for (int c = lane; c < d; c += 32) {
        q[c] = E::load(static_cast<const Stored *>(p.q) + at + c);
        sums[c] = 0.f;
    }
    __syncwarp();
    const int64_t first = start_of(p, b, t), end = limit_of(p, t);
    float max = LOWEST, total = 0.f;
    for (int64_t start = first / 32 * 32; start < end; start += 32) {
        const int64_t s = start + lane;
        const int count = static_cast<int>(end - start < 32 ? end - start : 32);
        const bool open = lane < count && s >= first && !is_padded(p, b, s);
        const float score = open ? p.scale * row_dot<E>(q, k + s * stride, d) : LOWEST;
        const float old = max;
        max = fmaxf(max, warp_max(score));
        const float weight = open ? expf(score - max) : 0.f, factor = expf(old - max);
        total = total * factor + warp_sum(weight);
        weights[lane] = open ? weight * kept(p, b, n, t, s) : 0.f;
        __syncwarp();
        for (int c = lane; c < d; c += 32) {
            float sum = sums[c] * factor;
            for (int j = 0; j < count; ++j) sum = fmaf(weights[j], E::load(v + (start + j) * stride + c), sum);
            sums[c] = sum;
        }
        __syncwarp();
    }
    const bool masked = total == 0.f;
    if (masked) { // the plain mean of all values
        for (int c = lane; c < d; c += 32) {
            float sum = 0.f;
            for (int64_t s = 0; s < p.s; ++s) sum = fmaf(kept(p, b, n, t, s), E::load(v + s * stride + c), sum);
            sums[c] = sum;
        }
    }
    const float factor = masked ? 1.f / static_cast<float>(p.s > 0 ? p.s : 1) : 1.f / total;
    for (int c = lane; c < d; c += 32) E::store(static_cast<Stored *>(p.out) + at + c, sums[c] * factor);
    if (lane == 0) static_cast<float *>(p.lse)[(b * p.heads + n) * p.t + t] = d == 0 ? 0.f : masked ? LOWEST : max + logf(total);
}

// ---------------------------------------------------------------- backward

template <class E> __device__ __forceinline__ void backward_delta(const DeemAttentionBackward &p) {
    using Stored = typename E::Stored;
    int64_t b, t;
    int n;
    if (!place_of_warp(p.batch, p.heads, p.t, b, n, t)) return;
    const int64_t at = query_at(p, b, t, n);
    float sum = 0.f;
    for (int c = threadIdx.x % 32; c < p.d; c += 32) {
        sum = fmaf(E::load(static_cast<const Stored *>(p.d_out) + at + c), E::load(static_cast<const Stored *>(p.out) + at + c), sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) static_cast<float *>(p.delta)[(b * p.heads + n) * p.t + t] = sum;
}

template <class E> __device__ __forceinline__ void backward_dq_plain(const DeemAttentionBackward &p) {
    using Stored = typename E::Stored;
    extern __shared__ __align__(16) float space[];
    const int lane = threadIdx.x % 32, d = p.d;
    float *q = space + threadIdx.x / 32 * (3 * d + 32), *d_out = q + d, *sums = d_out + d, *grads = sums + d;
    int64_t b, t;
    int n;
    if (!place_of_warp(p.batch, p.heads, p.t, b, n, t)) return;
    const int kv = n / (p.heads / p.kv_heads);
    const int64_t at = query_at(p, b, t, n), stride = static_cast<int64_t>(p.kv_heads) * d, line = (b * p.heads + n) * p.t + t;
    const Stored *k = static_cast<const Stored *>(p.k) + key_at(p, b, 0, kv), *v = static_cast<const Stored *>(p.v) + key_at(p, b, 0, kv);
    for (int c = lane; c < d; c += 32) {
        q[c] = E::load(static_cast<const Stored *>(p.q) + at + c);
        d_out[c] = E::load(static_cast<const Stored *>(p.d_out) + at + c);
        sums[c] = 0.f;
    }
    __syncwarp();
    const float lse = static_cast<const float *>(p.lse)[line], delta = static_cast<const float *>(p.delta)[line];
    const bool everything = (p.keys || p.first) && lse == LOWEST;
    const int64_t begin = everything ? 0 : start_of(p, b, t) / 32 * 32, end = everything ? p.s : limit_of(p, t);
    for (int64_t start = begin; start < end; start += 32) {
        const int64_t s = start + lane;
        const int count = static_cast<int>(end - start < 32 ? end - start : 32);
        float prob, ds = 0.f;
        if (lane < count) {
            score_gradient(p, b, n, t, s, row_dot<E>(q, k + s * stride, d), row_dot<E>(d_out, v + s * stride, d), lse, delta, prob, ds);
        }
        grads[lane] = ds;
        __syncwarp();
        for (int c = lane; c < d; c += 32) {
            float sum = sums[c];
            for (int j = 0; j < count; ++j) sum = fmaf(grads[j], E::load(k + (start + j) * stride + c), sum);
            sums[c] = sum;
        }
        __syncwarp();
    }
    for (int c = lane; c < d; c += 32) E::store(static_cast<Stored *>(p.dq) + at + c, sums[c]);
}

template <class E> __device__ __forceinline__ void backward_dkv_plain(const DeemAttentionBackward &p) {
    using Stored = typename E::Stored;
    extern __shared__ __align__(16) float space[];
    const int lane = threadIdx.x % 32, d = p.d, group = p.heads / p.kv_heads;
    float *k = space + threadIdx.x / 32 * (4 * d + 64), *v = k + d, *dk = v + d, *dv = dk + d, *probs = dv + d, *grads = probs + 32;
    int64_t b, s;
    int kv;
    if (!place_of_warp(p.batch, p.kv_heads, p.capacity, b, kv, s)) return;
    const int64_t at = key_at(p, b, s, kv), stride = static_cast<int64_t>(p.heads) * d;
    for (int c = lane; c < d; c += 32) {
        if (s < p.s) {
            k[c] = E::load(static_cast<const Stored *>(p.k) + at + c);
            v[c] = E::load(static_cast<const Stored *>(p.v) + at + c);
        }
        dk[c] = 0.f;
        dv[c] = 0.f;
    }
    __syncwarp();
    // Queries before the first that sees this key have no part in it, unless a query sees nothing and takes the mean of all.
    const int64_t first = s >= p.s ? p.t : p.causal >= 0 && !p.keys && !p.first && s > p.causal ? s - p.causal : 0;
    for (int n = kv * group; n < (kv + 1) * group; ++n) {
        const Stored *q = static_cast<const Stored *>(p.q) + query_at(p, b, 0, n), *d_out = static_cast<const Stored *>(p.d_out) + query_at(p, b, 0, n);
        const int64_t line = (b * p.heads + n) * p.t;
        for (int64_t start = first; start < p.t; start += 32) {
            const int64_t t = start + lane;
            const int count = static_cast<int>(p.t - start < 32 ? p.t - start : 32);
            float prob = 0.f, ds = 0.f;
            if (lane < count) {
                const float lse = static_cast<const float *>(p.lse)[line + t], delta = static_cast<const float *>(p.delta)[line + t];
                score_gradient(p, b, n, t, s, row_dot<E>(k, q + t * stride, d), row_dot<E>(v, d_out + t * stride, d), lse, delta, prob, ds);
            }
            probs[lane] = prob;
            grads[lane] = ds;
            __syncwarp();
            for (int c = lane; c < d; c += 32) {
                float k_sum = dk[c], v_sum = dv[c];
                for (int j = 0; j < count; ++j) {
                    k_sum = fmaf(grads[j], E::load(q + (start + j) * stride + c), k_sum);
                    v_sum = fmaf(probs[j], E::load(d_out + (start + j) * stride + c), v_sum);
                }
                dk[c] = k_sum;
                dv[c] = v_sum;
            }
            __syncwarp();
        }
    }
    for (int c = lane; c < d; c += 32) {
        E::store(static_cast<Stored *>(p.dk) + at + c, dk[c]);
        E::store(static_cast<Stored *>(p.dv) + at + c, dv[c]);
    }
}

// ---------------------------------------------------------------- kernels of a storage type

/// Blocks of the small kernel that a multiprocessor shall hold: as many as its registers need not be spilled for.
constexpr int SMALL_BLOCKS(int d) { return d <= 40 ? 4 : 3; }

#define DEEM_PLAIN(E, TYPE)                                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_forward_##TYPE(const __grid_constant__ DeemAttentionForward p) {                    \
        forward_plain<E>(p);                                                                                                                                      \
    }                                                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_delta_##TYPE(const __grid_constant__ DeemAttentionBackward p) {            \
        backward_delta<E>(p);                                                                                                                                     \
    }                                                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_dq_##TYPE(const __grid_constant__ DeemAttentionBackward p) {               \
        backward_dq_plain<E>(p);                                                                                                                                  \
    }                                                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_dkv_##TYPE(const __grid_constant__ DeemAttentionBackward p) {              \
        backward_dkv_plain<E>(p);                                                                                                                                 \
    }

#define DEEM_FORWARD(E, TYPE, D)                                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_forward_mma_d##D##_##TYPE(const __grid_constant__ DeemAttentionForward p) {         \
        flash_forward<E, D, 2>(p);                                                                                                                                \
    }                                                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, SMALL_BLOCKS(D)) attention_forward_small_d##D##_##TYPE(const __grid_constant__ DeemAttentionForward p) { \
        flash_forward<E, D, 1>(p);                                                                                                                                \
    }

#define DEEM_BACKWARD(E, TYPE, D, NAME, KEY_ROWS, SCORES, PROBS)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_backward_##NAME##_mma_d##D##_##TYPE(const __grid_constant__ DeemAttentionBackward p) { \
        flash_backward<E, D, KEY_ROWS, SCORES, PROBS>(p);                                                                                                         \
    }

// One kernel for both gradients of the keys, and two.
#define DEEM_MMA_SMALL_HEAD(E, TYPE, D)                \
    DEEM_FORWARD(E, TYPE, D)                           \
    DEEM_BACKWARD(E, TYPE, D, dq, false, true, false)  \
    DEEM_BACKWARD(E, TYPE, D, dkv, true, true, true)
#define DEEM_MMA_LARGE_HEAD(E, TYPE, D)                \
    DEEM_FORWARD(E, TYPE, D)                           \
    DEEM_BACKWARD(E, TYPE, D, dq, false, true, false)  \
    DEEM_BACKWARD(E, TYPE, D, dk, true, true, false)   \
    DEEM_BACKWARD(E, TYPE, D, dv, true, false, true)

#define DEEM_MMA_KERNELS(E, TYPE)     \
    DEEM_MMA_SMALL_HEAD(E, TYPE, 40)  \
    DEEM_MMA_SMALL_HEAD(E, TYPE, 64)  \
    DEEM_MMA_LARGE_HEAD(E, TYPE, 80)  \
    DEEM_MMA_LARGE_HEAD(E, TYPE, 96)  \
    DEEM_MMA_LARGE_HEAD(E, TYPE, 128) \
    DEEM_MMA_LARGE_HEAD(E, TYPE, 160)

} // namespace deem

// Attention: out = softmax(scale q k^T + mask) v per head, and its gradients.
//
// Documents (first keys) and dropout are for the plain kernels.
//
// Shapes: q, out [B, T, N*D], k, v [B, S, Nkv*D], lse [B, N, T]. Source: FlashAttention-2 (arXiv 2307.08691). Masks: src/ops/attention.rs.
//
// | kernel | legal for | a block is | threads | dynamic shared |
// |---|---|---|---|---|
// | attention_forward_{f32,bf16} | everything | 4 queries, a warp each | 128 | 4 (2 D + 32) floats |
// | attention_forward_mma_d{40,64,80,96,128,160}_bf16 | that D; bases 16-byte aligned; scale > 0; T, S, causal < 2^30; B, N < 65536 | 128 queries of (x, head y, image z) | 128 | (128 + 2 KEYS) ROW, and 3072 from D = 128 on |
// | attention_forward_small_d{..}_bf16 | the same; where 128 queries to a block leave multiprocessors idle | 64 queries | 128 | (64 + 2 KEYS) ROW |
// | attention_forward_wgmma{,_small}_d{..}_bf16 | the same on compute capability 9.0 alone, S > 0, no key mask | 128 queries, small: 64 | 384, small: 256 | WarpgroupFlash::SHARED_BYTES |
// | attention_backward_delta_{f32,bf16} | everything | 4 queries, a warp each | 128 | 0 |
// | attention_backward_dq_{f32,bf16} | everything | 4 queries, a warp each | 128 | 4 (3 D + 32) floats |
// | attention_backward_dkv_{f32,bf16} | everything | 4 keys, a warp each | 128 | 4 (4 D + 64) floats |
//
// | attention_backward_{dq,dkv}_mma_d{40,64}_bf16, attention_backward_{dq,dk,dv}_mma_d{80,96,128,160}_bf16 | as the forward's | 128 queries or keys (x), head or key head y, image z | 128 | FlashBackward::SHARED_BYTES |
//
// KEYS: 64, or 32 beyond D = 128. ROW = 32 ceil(D / 16) + 16 bytes. The ladder of the forward at D = 64, modelled tensor utilisation (MTU): 16 queries to a warp would
// be bound by shared memory; 32 queries 0.67; one running offset for keys and values instead of 64-bit addresses per piece 0.68. At D = 128: 0.78 with
// registers spilled; 0.79 without, since what is used once a round waits in shared memory.
//
// Gradients are summed in a fixed order: each is written by one warp, without atomics. The price is that the backward makes 7 products (8 beyond D = 64) where one with
// atomics makes 5. dk and dv in one launch fit the registers up to D = 64: 32 keys to a warp, since 16 would be bound by shared memory.
#include "../ffi/attention.h"
#include "common/attention.cuh"
#include "common/flash.cuh"
#include "common/flash_backward.cuh"
#include "common/ffma_flash.cuh"
#ifdef DEEM_SM90A
#include "common/warpgroup_flash.cuh"
#endif

namespace deem {

#ifdef DEEM_SM90A

// ---------------------------------------------------------------- forward, Hopper

#define DEEM_WARPGROUP(D)                                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(384, 1) attention_forward_wgmma_d##D##_bf16(const __grid_constant__ DeemAttentionTensorForward p) {      \
        warpgroup_flash<Bf16, D, 2>(p);                                                                                                                   \
    }                                                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_forward_wgmma_small_d##D##_bf16(const __grid_constant__ DeemAttentionTensorForward p) { \
        warpgroup_flash<Bf16, D, 1>(p);                                                                                                                   \
    }
DEEM_WARPGROUP(40)
DEEM_WARPGROUP(64)
DEEM_WARPGROUP(80)
DEEM_WARPGROUP(96)
DEEM_WARPGROUP(128)
DEEM_WARPGROUP(160)
#undef DEEM_WARPGROUP

#else

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

extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_forward_f32(const __grid_constant__ DeemAttentionForward p) { forward_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_forward_bf16(const __grid_constant__ DeemAttentionForward p) { forward_plain<Bf16>(p); }

/// Blocks of the small kernel that a multiprocessor shall hold: as many as its registers need not be spilled for.
constexpr int SMALL_BLOCKS(int d) { return d <= 40 ? 4 : 3; }

#define DEEM_FORWARD(D)                                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_forward_mma_d##D##_bf16(const __grid_constant__ DeemAttentionForward p) {   \
        flash_forward<Bf16, D, 2>(p);                                                                                                                    \
    }                                                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, SMALL_BLOCKS(D)) attention_forward_small_d##D##_bf16(const __grid_constant__ DeemAttentionForward p) { \
        flash_forward<Bf16, D, 1>(p);                                                                                                                    \
    }
DEEM_FORWARD(40)
DEEM_FORWARD(64)
DEEM_FORWARD(80)
DEEM_FORWARD(96)
DEEM_FORWARD(128)
DEEM_FORWARD(160)
#undef DEEM_FORWARD

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

extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_delta_f32(const __grid_constant__ DeemAttentionBackward p) { backward_delta<F32>(p); }
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_delta_bf16(const __grid_constant__ DeemAttentionBackward p) { backward_delta<Bf16>(p); }

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

extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_dq_f32(const __grid_constant__ DeemAttentionBackward p) { backward_dq_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_dq_bf16(const __grid_constant__ DeemAttentionBackward p) { backward_dq_plain<Bf16>(p); }

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

extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_dkv_f32(const __grid_constant__ DeemAttentionBackward p) { backward_dkv_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS, 1) attention_backward_dkv_bf16(const __grid_constant__ DeemAttentionBackward p) { backward_dkv_plain<Bf16>(p); }

#define DEEM_BACKWARD(D, NAME, KEY_ROWS, SCORES, PROBS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_backward_##NAME##_mma_d##D##_bf16(const __grid_constant__ DeemAttentionBackward p) { \
        flash_backward<Bf16, D, KEY_ROWS, SCORES, PROBS>(p);                                                                                             \
    }
DEEM_BACKWARD(40, dq, false, true, false)
DEEM_BACKWARD(64, dq, false, true, false)
DEEM_BACKWARD(80, dq, false, true, false)
DEEM_BACKWARD(96, dq, false, true, false)
DEEM_BACKWARD(128, dq, false, true, false)
DEEM_BACKWARD(160, dq, false, true, false)
DEEM_BACKWARD(40, dkv, true, true, true)
DEEM_BACKWARD(64, dkv, true, true, true)
DEEM_BACKWARD(80, dk, true, true, false)
DEEM_BACKWARD(96, dk, true, true, false)
DEEM_BACKWARD(128, dk, true, true, false)
DEEM_BACKWARD(160, dk, true, true, false)
DEEM_BACKWARD(80, dv, true, false, true)
DEEM_BACKWARD(96, dv, true, false, true)
DEEM_BACKWARD(128, dv, true, false, true)
DEEM_BACKWARD(160, dv, true, false, true)
#undef DEEM_BACKWARD

// ---------------------------------------------------------------- f32 in tiles

#define DEEM_TILES(D)                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_forward_tile_d##D##_f32(const __grid_constant__ DeemAttentionForward p) {           \
        ffma_forward<D>(p);                                                                                                                                      \
    }                                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_backward_dq_tile_d##D##_f32(const __grid_constant__ DeemAttentionBackward p) {      \
        ffma_backward<D, false>(p);                                                                                                                              \
    }                                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_backward_dkv_tile_d##D##_f32(const __grid_constant__ DeemAttentionBackward p) {     \
        ffma_backward<D, true>(p);                                                                                                                               \
    }
DEEM_TILES(40)
DEEM_TILES(64)
DEEM_TILES(80)
DEEM_TILES(96)
DEEM_TILES(128)
DEEM_TILES(160)
#undef DEEM_TILES

#endif

} // namespace deem

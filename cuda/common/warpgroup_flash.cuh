// Attention's forward pass on Hopper (sm_90a), in the manner of FlashAttention-3 (arXiv 2407.08608): one thread copies tiles of keys and values by the tensor
// memory accelerator; each warpgroup has 64 queries, whose next scores are made while the last weights are multiplied by their values.
#pragma once

#include <cmath>
#include <cstdint>

#include "../arch/hopper.cuh"
#include "flash.cuh"

namespace deem {

/// Shape of a block of 64 CONSUMERS queries; rows of a tile lie in chunks of 64 numbers, zeros behind D.
template <int D, int CONSUMERS_> struct WarpgroupFlash {
    static constexpr int CONSUMERS = CONSUMERS_, QUERIES = 64 * CONSUMERS, KEYS = D > 128 ? 64 : 128, STAGES = 2, THREADS = 128 * (CONSUMERS + 1);
    static constexpr int CHUNKS = (D + 63) / 64, STEPS = (D + 15) / 16;
    static constexpr int Q_CHUNK = QUERIES * 128, KV_CHUNK = KEYS * 128, Q_BYTES = CHUNKS * Q_CHUNK, KV_BYTES = CHUNKS * KV_CHUNK;
    static constexpr int SLAB = 16 * 144;                                // of a warp's output on its way
    static constexpr int SLABS = Q_BYTES + 2 * STAGES * KV_BYTES;        // where they begin
    static constexpr int BARRIERS = SLABS + CONSUMERS * 4 * SLAB;        // likewise
    static constexpr int SHARED_BYTES = 1024 + BARRIERS + (1 + 4 * STAGES) * 8;
};

/// Begins the copies of a tile of rows of one head.
template <int CHUNKS> __device__ __forceinline__ void copy_rows(uint32_t to, int chunk_bytes, const DeemTensorMap &map, uint32_t barrier, int head, int row, int image) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) copy_box(to + chunk * chunk_bytes, map, barrier, chunk * 64, head, row, image);
}

template <class T, int D, int CONSUMERS> __device__ __forceinline__ void warpgroup_flash(const DeemAttentionTensorForward &params) {
    using Shape = WarpgroupFlash<D, CONSUMERS>;
    constexpr int KEYS = Shape::KEYS, STAGES = Shape::STAGES, TILES = D / 8, KEY_TILES = KEYS / 8;
    const DeemAttentionForward &p = params.attention;
    extern __shared__ uint8_t unaligned[];
    const uint32_t q_tile = (shared_address(unaligned) + 1023) & ~1023u, k_tiles = q_tile + Shape::Q_BYTES, v_tiles = k_tiles + STAGES * Shape::KV_BYTES;
    uint8_t *shared = unaligned + (q_tile - shared_address(unaligned));
    const uint32_t q_full = q_tile + Shape::BARRIERS, k_full = q_full + 8, k_empty = k_full + STAGES * 8, v_full = k_empty + STAGES * 8, v_empty = v_full + STAGES * 8;
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // The last queries see the most keys: they begin first.
    const int t0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Shape::QUERIES, n = blockIdx.y, image = blockIdx.z, t_end = static_cast<int>(p.t);
    const int rounds = (open_keys(p, min(t0 + Shape::QUERIES, t_end) - 1) + KEYS - 1) / KEYS;
    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(k_full + stage * 8, 1);
            barrier_init(v_full + stage * 8, 1);
            barrier_init(k_empty + stage * 8, CONSUMERS * 4);
            barrier_init(v_empty + stage * 8, CONSUMERS * 4);
        }
        barrier_fence();
    }
    __syncthreads();
    if (warpgroup == CONSUMERS) {
        if constexpr (CONSUMERS == 2) fewer_registers<24>();
        if (threadIdx.x != CONSUMERS * 128) return;
        const int kv = n / (p.heads / p.kv_heads);
        barrier_expect(q_full, Shape::Q_BYTES);
        copy_rows<Shape::CHUNKS>(q_tile, Shape::Q_CHUNK, params.q_map, q_full, n, t0, image);
#pragma unroll 1
        for (int j = 0; j < rounds; ++j) {
            const int stage = j % STAGES, parity = j / STAGES % 2 ^ 1;
            barrier_wait(k_empty + stage * 8, parity);
            barrier_expect(k_full + stage * 8, Shape::KV_BYTES);
            copy_rows<Shape::CHUNKS>(k_tiles + stage * Shape::KV_BYTES, Shape::KV_CHUNK, params.k_map, k_full + stage * 8, kv, j * KEYS, image);
            barrier_wait(v_empty + stage * 8, parity);
            barrier_expect(v_full + stage * 8, Shape::KV_BYTES);
            copy_rows<Shape::CHUNKS>(v_tiles + stage * Shape::KV_BYTES, Shape::KV_CHUNK, params.v_map, v_full + stage * 8, kv, j * KEYS, image);
        }
        return;
    }
    if constexpr (CONSUMERS == 2) more_registers<240>();

    const int first = t0 + warp * 16; // this warp's rows
    const uint64_t q_at = describe(q_tile + warpgroup * (64 * 128), 0);
    const float factor = p.scale * LOG2_E, minus_factor = -factor;
    float scores[KEY_TILES][4], sums[TILES][4], max[2] = {-INFINITY, -INFINITY}, total[2] = {};
    uint32_t weights[KEYS / 16][4];

    /// The products of queries and the keys of round j.
    const auto begin_scores = [&](int j) __attribute__((always_inline)) {
        const uint64_t k_at = describe(k_tiles + j % STAGES * Shape::KV_BYTES, 0);
        barrier_wait(k_full + j % STAGES * 8, j / STAGES % 2);
        products_fence();
#pragma unroll
        for (int step = 0; step < Shape::STEPS; ++step) {
            Warpgroup<KEYS>::template of_shared<false, false>(scores, q_at + (step / 4 * Shape::Q_CHUNK + step % 4 * 32) / 16, k_at + (step / 4 * Shape::KV_CHUNK + step % 4 * 32) / 16,
                                                              step > 0);
        }
        products_commit();
    };
    /// The products of the weights and the values of round j.
    const auto begin_sums = [&](int j) __attribute__((always_inline)) {
        const uint64_t v_at = describe(v_tiles + j % STAGES * Shape::KV_BYTES, Shape::KV_CHUNK);
        barrier_wait(v_full + j % STAGES * 8, j / STAGES % 2);
        products_fence();
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) Warpgroup<D>::template of_registers<true>(sums, weights[step], v_at + step * (16 * 128 / 16), j > 0 || step > 0);
        products_commit();
    };
    const auto release = [&](uint32_t barrier, int j) __attribute__((always_inline)) {
        if (lane == 0) barrier_arrive(barrier + j % STAGES * 8);
    };
    /// The scores of round j become weights, not yet packed; returns what the sums so far are to be multiplied by.
    const auto soften = [&](int j, float (&rescale)[2]) __attribute__((always_inline)) {
        const int key = j * KEYS + lane % 4 * 2;
        if ((j + 1) * KEYS > open_keys(p, t0)) {
            const int open[2] = {open_keys(p, first + lane / 4) - key, open_keys(p, first + lane / 4 + 8) - key};
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    if (tile * 8 + e % 2 >= open[e / 2]) scores[tile][e] = -INFINITY;
                }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float largest = max[r];
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile) largest = fmaxf(largest, fmaxf(scores[tile][r * 2], scores[tile][r * 2 + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
            const float shift = largest * minus_factor; // finite: every query sees the first key, in round 0
            rescale[r] = exp2_approximate(fmaf(max[r], factor, shift));
            max[r] = largest;
            total[r] *= rescale[r];
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &x = scores[tile][r * 2 + e];
                    x = exp2_approximate(fmaf(x, factor, shift));
                    total[r] += x;
                }
        }
    };
    const auto pack = [&]() __attribute__((always_inline)) {
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step)
#pragma unroll
            for (int r = 0; r < 4; ++r) weights[step][r] = T::pack(scores[step * 2 + r / 2][r % 2 * 2], scores[step * 2 + r / 2][r % 2 * 2 + 1]);
    };

    float rescale[2];
#pragma unroll
    for (int i = 0; i < TILES; ++i) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.f;
    barrier_wait(q_full, 0);
    begin_scores(0);
    products_wait<0>();
    hold(scores);
    release(k_empty, 0);
    soften(0, rescale);
    pack();
#pragma unroll 1
    for (int j = 1; j < rounds; ++j) {
        begin_scores(j);
        begin_sums(j - 1);
        products_wait<1>();
        hold(scores);
        release(k_empty, j);
        soften(j, rescale);
        products_wait<0>();
        hold(sums);
        release(v_empty, j - 1);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[tile][e] *= rescale[e / 2];
        pack();
    }
    begin_sums(rounds - 1);
    products_wait<0>();
    hold(sums);

    float my_total = 0.f, my_max = 0.f, inverse[2]; // of one row of the two: the logarithm is made for both at once
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float sum = total[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == r) my_total = sum, my_max = max[r];
        inverse[r] = 1.f / sum;
    }
    const int my_row = first + lane / 4 + lane % 4 * 8;
    if (lane % 4 < 2 && my_row < t_end) {
        static_cast<float *>(p.lse)[(static_cast<int64_t>(image) * p.heads + n) * p.t + my_row] = fmaf(my_max, p.scale, logf(my_total));
    }
    uint8_t *slab = shared + Shape::SLABS + warp * Shape::SLAB;
    const int64_t stride = static_cast<int64_t>(p.heads) * D;
    uint16_t *out = static_cast<uint16_t *>(p.out) + query_at(p, image, first + lane / 8, n) + lane % 8 * 8;
#pragma unroll
    for (int part = 0; part < TILES; part += 8) { // rows of 128 bytes, in whole sectors
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 8 && part + j < TILES; ++j)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                *reinterpret_cast<uint32_t *>(slab + (lane / 4 + r * 8) * 144 + j * 16 + lane % 4 * 4) = T::pack(sums[part + j][r * 2] * inverse[r], sums[part + j][r * 2 + 1] * inverse[r]);
            }
        __syncwarp();
#pragma unroll
        for (int line = 0; line < 16; line += 4) {
            if (part + lane % 8 < TILES && first + line + lane / 8 < t_end) {
                *reinterpret_cast<uint4 *>(out + line * stride + part * 8) = *reinterpret_cast<const uint4 *>(slab + (line + lane / 8) * 144 + lane % 8 * 16);
            }
        }
    }
}

} // namespace deem

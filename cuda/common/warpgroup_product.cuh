// The product of GEMM on Hopper (sm_90a): one thread copies tiles by the tensor memory accelerator, warpgroups multiply them out of shared memory.
#pragma once

#include <cstdint>

#include "../arch/hopper.cuh"
#include "tile.cuh"

namespace deem {

/// Shape of a block: a tile of C of 64 CONSUMERS x COLS, a warpgroup to 64 rows, and one more that copies. A stage holds DEPTH steps of 64 along k: with small
/// tiles the questions of a stage cost more than its products.
template <int CONSUMERS_, int COLS_, int DEPTH_, int STAGES_> struct TensorProduct {
    static constexpr int CONSUMERS = CONSUMERS_, ROWS = 64 * CONSUMERS, COLS = COLS_, K = 64, DEPTH = DEPTH_, STAGES = STAGES_;
    static constexpr int THREADS = 128 * (CONSUMERS + 1), TILES = COLS / 8;
    static constexpr int A_BYTES = ROWS * K * 2, B_BYTES = COLS * K * 2, STEP_BYTES = A_BYTES + B_BYTES, STAGE_BYTES = DEPTH * STEP_BYTES;
    static constexpr int CHUNK = 64 * K * 2;             // bytes of 64 lines across k
    static constexpr int SLAB = 16 * (32 + 8) * 4;       // of a warp's sums on their way to C
    static constexpr int BARRIERS = STAGES * STAGE_BYTES + CONSUMERS * 4 * SLAB; // where they begin
    static constexpr int SHARED_BYTES = 1024 + BARRIERS + STAGES * 16; // tiles begin at a multiple of 1024
};

/// The ring of stages: which one comes next, and the parity of its round.
template <int STAGES> struct Ring {
    uint32_t stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

/// Begins the copies of a tile of `LINES` lines of an operand.
template <class P, int LINES, bool ALONG> __device__ __forceinline__ void copy_lines(uint32_t to, const DeemTensorMap &map, uint32_t barrier, int line0, int k0, int z) {
    if constexpr (ALONG) {
        copy_box(to, map, barrier, k0, line0, z);
    } else {
#pragma unroll
        for (int chunk = 0; chunk < LINES / 64; ++chunk) copy_box(to + chunk * P::CHUNK, map, barrier, line0 + chunk * 64, k0, z);
    }
}

/// A warp's 16 rows of sums to C: as they are, rounded, or to `sink(row, col, four neighbouring sums)`.
template <class E, class P, class Sink>
__device__ __forceinline__ void give_rows(uint8_t *slab, float (&sums)[P::TILES][4], int row0, int col0, bool is_bare, uint16_t *c, int m, int n, const Sink &sink) {
    const int lane = threadIdx.x & 31;
    if (is_bare) {
        constexpr int LD = 128 + 16; // bytes: rows lie in different banks
#pragma unroll
        for (int part = 0; part < P::TILES; part += 8) {
            __syncwarp();
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                uint8_t *to = slab + lane / 4 * LD + j * 16 + lane % 4 * 4;
                *reinterpret_cast<uint32_t *>(to) = E::pack(sums[part + j][0], sums[part + j][1]);
                *reinterpret_cast<uint32_t *>(to + 8 * LD) = E::pack(sums[part + j][2], sums[part + j][3]);
            }
            __syncwarp();
            const int col = col0 + part * 8 + lane % 8 * 8;
#pragma unroll
            for (int line = 0; line < 16; line += 4) {
                const int row = row0 + line + lane / 8;
                if (row < m && col < n) {
                    *reinterpret_cast<uint4 *>(c + static_cast<int64_t>(row) * n + col) = *reinterpret_cast<const uint4 *>(slab + (line + lane / 8) * LD + lane % 8 * 16);
                }
            }
        }
        return;
    }
    constexpr int LD = 32 + 8;
    float *floats = reinterpret_cast<float *>(slab);
#pragma unroll
    for (int part = 0; part < P::TILES; part += 4) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            float *to = floats + lane / 4 * LD + j * 8 + lane % 4 * 2;
            store_shared_8(shared_address(to), sums[part + j][0], sums[part + j][1]);
            store_shared_8(shared_address(to + 8 * LD), sums[part + j][2], sums[part + j][3]);
        }
        __syncwarp();
#pragma unroll 1
        for (int line = lane / 8; line < 16; line += 4) sink(row0 + line, col0 + part * 8 + lane % 8 * 4, *reinterpret_cast<const float4 *>(floats + line * LD + lane % 8 * 4));
    }
}

/// All products of a launch for this block's tile of C; `sink_of(z)` takes what the epilogue does not leave bare.
template <class E, class P, bool A_ALONG, bool B_ALONG, class SinkOf>
__device__ __forceinline__ void warpgroup_products(const DeemGemmTensorForward &p, int row0, int col0, const SinkOf &sink_of) {
    extern __shared__ uint8_t unaligned[];
    const uint32_t tiles = (shared_address(unaligned) + 1023) & ~1023u;
    uint8_t *shared = unaligned + (tiles - shared_address(unaligned));
    const uint32_t full = tiles + P::BARRIERS, empty = full + P::STAGES * 8;
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32;
    const int k = static_cast<int>(p.gemm.k), steps = (k + P::K * P::DEPTH - 1) / (P::K * P::DEPTH);
    if (threadIdx.x == P::CONSUMERS * 128) { // of the warp that has the least to do
#pragma unroll
        for (int stage = 0; stage < P::STAGES; ++stage) {
            barrier_init(full + stage * 8, 1);
            barrier_init(empty + stage * 8, P::CONSUMERS * 4);
        }
        barrier_fence();
    }
    __syncthreads();
    const int batch = static_cast<int>(p.gemm.batch);
    Ring<P::STAGES> ring;
    if (warpgroup == P::CONSUMERS) {
        if constexpr (P::CONSUMERS == 2) fewer_registers<40>();
        if (threadIdx.x != P::CONSUMERS * 128) return;
        for (int z = blockIdx.y; z < batch; z += gridDim.y)
#pragma unroll 1
            for (int step = 0; step < steps; ++step) {
                const uint32_t to = tiles + ring.stage * P::STAGE_BYTES, barrier = full + ring.stage * 8;
                barrier_wait(empty + ring.stage * 8, ring.parity ^ 1);
                barrier_expect(barrier, P::STAGE_BYTES);
#pragma unroll
                for (int i = 0; i < P::DEPTH; ++i) {
                    copy_lines<P, P::ROWS, A_ALONG>(to + i * P::STEP_BYTES, p.a_map, barrier, row0, (step * P::DEPTH + i) * P::K, z);
                    copy_lines<P, P::COLS, B_ALONG>(to + i * P::STEP_BYTES + P::A_BYTES, p.b_map, barrier, col0, (step * P::DEPTH + i) * P::K, z);
                }
                ring.advance();
            }
        return;
    }
    if constexpr (P::CONSUMERS == 2) more_registers<232>();
    for (int z = blockIdx.y; z < batch; z += gridDim.y) {
        float sums[P::TILES][4]; // overwritten by the first product: K > 0
        uint32_t read = 0; // the barrier of the stage that is read now
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            const uint32_t a = tiles + ring.stage * P::STAGE_BYTES + warpgroup * (64 * P::K * 2), b = tiles + ring.stage * P::STAGE_BYTES + P::A_BYTES;
            const uint64_t a_at = describe(a, P::CHUNK), b_at = describe(b, P::CHUNK);
            barrier_wait(full + ring.stage * 8, ring.parity);
            products_fence();
#pragma unroll
            for (int part = 0; part < 4 * P::DEPTH; ++part) {
                // 16 along k are 32 bytes of a row along, 16 rows of 128 bytes across; in units of 16 bytes.
                // Zeros behind K. With one warpgroup ptxas would have the products wait for each other.
                if (P::CONSUMERS == 2 && part % 4 == 0 && part > 0 && (step * P::DEPTH + part / 4) * P::K >= k) break;
                const int of_step = part / 4 * (P::STEP_BYTES / 16), a_part = part % 4 * (A_ALONG ? 2 : 128), b_part = part % 4 * (B_ALONG ? 2 : 128);
                Warpgroup<P::COLS>::template of_shared<!A_ALONG, !B_ALONG>(sums, a_at + of_step + a_part, b_at + of_step + b_part, part > 0 || step > 0);
            }
            products_commit();
            products_wait<1>();
            // The products of the step before are done: its stage is free.
            if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(read);
            read = empty + ring.stage * 8;
            ring.advance();
        }
        products_wait<0>();
        hold(sums);
        if (threadIdx.x % 32 == 0) barrier_arrive(read);
        const int64_t first = static_cast<int64_t>(z) * p.gemm.m * p.gemm.n;
        give_rows<E, P>(shared + P::STAGES * P::STAGE_BYTES + warp * P::SLAB, sums, row0 + warp * 16, col0, p.gemm.is_bare != 0, static_cast<uint16_t *>(p.gemm.c) + first,
                        static_cast<int>(p.gemm.m), static_cast<int>(p.gemm.n), sink_of(first));
    }
}

} // namespace deem

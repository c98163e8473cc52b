// Cross attention over a short condition: out = softmax(scale q k^T) v per head, up to 128 keys, no masks.
//
// Shapes: q, out [B, T, N*D], k, v [B, S, N*D], lse [B, N, T]. Source: the UNet of latent diffusion (arXiv 2112.10752).
//
// | kernel | legal for | a block is | threads | dynamic shared |
// |---|---|---|---|---|
// | cross_attention_forward_keys{80,128}_d{40,64,80,160}_bf16 | that D, 1 <= S <= that many keys; bases 16-byte aligned; scale > 0; T < 2^30; B, N < 65536 | every gridDim.x-th 128 queries (x) of head y, image z | 128 | (128 + 2 KEYS) ROW |
//
// The keys and values of a head stay in shared memory for all of the block's queries, and a row of scores is complete before its softmax: nothing is rescaled, and the
// output is made a part of the head at a time, so that large heads keep 32 queries to a warp. Warps read and write queries of their own and never wait for each other.
// Everything else goes to attention.cu, which also has the backward. ROW as there. Quality of the main loops: KERNELS.md.
#include "../ffi/cross_attention.h"
#include "common/flash.cuh"

namespace deem {

/// Calls `f(row, piece)` for this lane's part of the 16-byte pieces of a warp's 32 rows.
template <int D, class F> __device__ __forceinline__ void each_piece(int lane, const F &f) {
    using Copy = RowCopy<D>;
    if constexpr (Copy::WIDE > 1) {
        const Copy first(lane);
#pragma unroll
        for (int i = 0; i < Copy::WIDE; ++i)
#pragma unroll
            for (int j = 0; j < Copy::PIECES; j += Copy::WIDE) f(first.row + i * (32 / Copy::WIDE), first.piece + j);
    } else {
#pragma unroll
        for (int i = 0; i < Copy::PIECES; ++i) f(turned_row<D>((lane + i * 32) / Copy::PIECES), (lane + i * 32) % Copy::PIECES);
    }
}

template <class T, int D, int KEYS> __device__ __forceinline__ void short_forward(const DeemCrossAttentionForward &p) {
    constexpr int QUERIES = 128, ROW = Head<D>::ROW, STEPS = Head<D>::STEPS, TILES = D / 8, KEY_TILES = KEYS / 8;
    constexpr int PART = TILES > 10 ? TILES / 2 : TILES; // tiles of the output that are made at once
    static_assert(KEYS % 16 == 0 && TILES % PART == 0 && (PART == TILES || PART % 2 == 0), "whole fragments");
    extern __shared__ __align__(128) uint8_t shared[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, s = static_cast<int>(p.s), t = static_cast<int>(p.t);
    const uint32_t k_tile = shared_address(shared), v_tile = k_tile + KEYS * ROW, q_tile = v_tile + KEYS * ROW + warp * 32 * ROW;
    const int64_t stride = static_cast<int64_t>(p.heads) * D, head = static_cast<int64_t>(block_y()) * D;
    const RowCopy<D> copier(threadIdx.x);
    clear_tails<D>(shared, 2 * KEYS + QUERIES);
    {
        const int64_t from = (block_z() * p.s + copier.row) * stride + head + copier.piece * 8;
        copier.template copy<KEYS>(k_tile + copier.place(), static_cast<const uint16_t *>(p.k) + from, stride, s);
        copier.template copy<KEYS>(v_tile + copier.place(), static_cast<const uint16_t *>(p.v) + from, stride, s);
        copy_commit();
    }
    copy_wait<0>();
    __syncthreads();

    const uint32_t k_from = k_tile + second_offset<D>(lane), v_from = v_tile + second_transposed_offset<D>(lane), q_from = q_tile + first_offset<D>(lane);
    uint8_t *const rows = shared + (2 * KEYS + warp * 32) * ROW;
    const float factor = p.scale * LOG2_E;
#pragma unroll 1
    for (int first = static_cast<int>(blockIdx.x) * QUERIES + warp * 32; first < t; first += static_cast<int>(gridDim.x) * QUERIES) {
        const int64_t at = (static_cast<int64_t>(block_z()) * p.t + first) * stride + head;
        const uint16_t *q = static_cast<const uint16_t *>(p.q) + at;
        each_piece<D>(lane, [&](int row, int piece) { copy_async_16(q_tile + row * ROW + piece * 16, q + row * stride + piece * 8, first + row < t ? 16 : 0); });
        copy_commit();
        copy_wait<0>();
        __syncwarp();
        float scores[2][KEY_TILES][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            uint32_t a[2][4];
            for (int i = 0; i < 2; ++i) ldmatrix_x4(a[i], q_from + i * 16 * ROW + step * 32);
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; tile += 2) {
                uint32_t r[4];
                ldmatrix_x4(r, k_from + tile * 8 * ROW + step * 32);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    T::mma(scores[i][tile], a[i], r[0], r[1]);
                    T::mma(scores[i][tile + 1], a[i], r[2], r[3]);
                }
            }
        }
        // Behind the last key; whole tiles of keys take no instruction.
#pragma unroll
        for (int tile = 0; tile < KEY_TILES; ++tile) {
            if (tile * 8 + 8 <= s) continue;
#pragma unroll
            for (int r = 0; r < 4; ++r)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    if (tile * 8 + lane % 4 * 2 + e >= s) scores[r / 2][tile][r % 2 * 2 + e] = -INFINITY;
                }
        }
        float inverse[4];
        uint32_t weights[2][KEY_TILES / 2][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            float max = -INFINITY, total = 0.f;
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile) max = fmaxf(max, fmaxf(scores[r / 2][tile][r % 2 * 2], scores[r / 2][tile][r % 2 * 2 + 1]));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
            max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
            const float shift = max * factor;
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile) {
                const float x = exp2_approximate(fmaf(scores[r / 2][tile][r % 2 * 2], factor, -shift));
                const float y = exp2_approximate(fmaf(scores[r / 2][tile][r % 2 * 2 + 1], factor, -shift));
                total += x + y;
                weights[r / 2][tile / 2][tile % 2 * 2 + r % 2] = T::pack(x, y);
            }
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            inverse[r] = 1.f / total;
            const int row = first + r * 8 + lane / 4;
            if (lane % 4 == 0 && row < t) static_cast<float *>(p.lse)[(static_cast<int64_t>(block_z()) * p.heads + block_y()) * p.t + row] = fmaf(max, p.scale, logf(total));
        }
        __syncwarp(); // the queries have been read; their place takes the output
#pragma unroll
        for (int part = 0; part < TILES; part += PART) {
            float sums[2][PART][4] = {};
#pragma unroll
            for (int step = 0; step < KEYS / 16; ++step)
#pragma unroll
                for (int tile = 0; tile < PART; tile += 2) {
                    uint32_t r[4];
                    ldmatrix_x4_transposed(r, v_from + step * 16 * ROW + (part + tile) * 16);
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        T::mma(sums[i][tile], weights[i][step], r[0], r[1]);
                        if (tile + 1 < PART) T::mma(sums[i][tile + 1 < PART ? tile + 1 : tile], weights[i][step], r[2], r[3]);
                    }
                }
#pragma unroll
            for (int r = 0; r < 4; ++r)
#pragma unroll
                for (int tile = 0; tile < PART; ++tile) {
                    *reinterpret_cast<uint32_t *>(rows + (r * 8 + lane / 4) * ROW + (part + tile) * 16 + lane % 4 * 4) =
                        T::pack(sums[r / 2][tile][r % 2 * 2] * inverse[r], sums[r / 2][tile][r % 2 * 2 + 1] * inverse[r]);
                }
        }
        __syncwarp();
        uint16_t *out = static_cast<uint16_t *>(p.out) + at;
        each_piece<D>(lane, [&](int row, int piece) {
            if (first + row < t) *reinterpret_cast<uint4 *>(out + row * stride + piece * 8) = *reinterpret_cast<const uint4 *>(rows + row * ROW + piece * 16);
        });
        __syncwarp(); // the output has been read; the next queries may come
    }
}

#define DEEM_SHORT(KEYS, D)                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) cross_attention_forward_keys##KEYS##_d##D##_bf16(const __grid_constant__ DeemCrossAttentionForward p) { \
        short_forward<Bf16, D, KEYS>(p);                                                                                                                           \
    }
DEEM_SHORT(80, 40)
DEEM_SHORT(80, 64)
DEEM_SHORT(80, 80)
DEEM_SHORT(80, 160)
DEEM_SHORT(128, 40)
DEEM_SHORT(128, 64)
DEEM_SHORT(128, 80)
DEEM_SHORT(128, 160)
#undef DEEM_SHORT

} // namespace deem

// f32 products of small or ragged matrices: tiles of 32 x 32, eight warps to a tile, each with its own terms of the sums.
#pragma once

#include <cstdint>

#include "tile.cuh"

namespace deem {

constexpr int SLICED_TILE = 32, SLICED_K = 16, SLICED_WARPS = 8, SLICED_THREADS = 32 * SLICED_WARPS, SLICED_LD = SLICED_TILE + 4;

/// An operand of 32 lines, 16 terms at a time: along k (rows of k numbers), or across, [K, lines]. PACKED: 16 bytes at a time, which rows and base allow.
template <bool ALONG, bool PACKED> struct SlicedOperand {
    static constexpr int PIECES = PACKED ? SLICED_K / 4 : SLICED_K;
    const float *from;     // this lane's first piece
    int64_t step, advance; // numbers to its next piece, and to the warp's next terms
    uint32_t there;        // which pieces have a line
    int32_t left;          // terms from the first piece on

    __device__ __forceinline__ SlicedOperand(const float *data, int64_t lines, int64_t k, int64_t line0, int k0) : there(0) {
        const int lane = threadIdx.x % 32, line = line_of(lane, 0), term = k0 + term_of(lane, 0);
        for (int i = 0; i < PIECES; ++i) there |= static_cast<uint32_t>(line0 + line_of(lane, i) < lines) << i;
        left = static_cast<int32_t>(k) - term;
        from = opaque(data + (ALONG ? (line0 + line) * k + term : term * lines + line0 + line));
        step = ALONG ? line_of(0, 1) * k : term_of(0, 1) * lines;
        advance = SLICED_WARPS * SLICED_K * (ALONG ? 1 : lines);
    }

    /// Puts the next terms of all lines, zeros behind the ends, into a tile of this warp. Along k, the lines of terms 8 on are swapped, so that lanes of
    /// different terms write to different banks.
    __device__ __forceinline__ void copy(float (&tile)[SLICED_K][SLICED_LD]) {
        const int lane = threadIdx.x % 32;
        const float *at = from;
        float4 four[PACKED ? PIECES : 1];
        float one[PACKED ? 1 : PIECES];
#pragma unroll
        for (int i = 0; i < PIECES; ++i, at += step) {
            const bool is_there = there >> i & 1 && left > (ALONG ? 0 : term_of(0, i));
            if constexpr (PACKED) four[i] = is_there ? F32::load4(at) : make_float4(0.f, 0.f, 0.f, 0.f);
            else one[i] = is_there ? *at : 0.f;
        }
        from += advance;
        left -= SLICED_WARPS * SLICED_K;
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            const int line = line_of(lane, i), term = term_of(lane, i);
            if constexpr (!PACKED) {
                tile[term][line ^ swap(term)] = one[i];
            } else if constexpr (ALONG) {
                tile[term][line ^ swap(term)] = four[i].x;
                tile[term + 1][line ^ swap(term)] = four[i].y;
                tile[term + 2][line ^ swap(term)] = four[i].z;
                tile[term + 3][line ^ swap(term)] = four[i].w;
            } else {
                *reinterpret_cast<float4 *>(&tile[term][line]) = four[i];
            }
        }
    }

    __device__ static __forceinline__ int swap(int term) { return ALONG ? term & 8 : 0; }

  private:
    __device__ static __forceinline__ int line_of(int lane, int i) {
        if (PACKED) return ALONG ? lane / 4 + 8 * i : lane % 8 * 4;
        return ALONG ? lane / 16 + 2 * i : lane;
    }
    __device__ static __forceinline__ int term_of(int lane, int i) {
        if (PACKED) return ALONG ? lane % 4 * 4 : lane / 8 + 4 * i;
        return ALONG ? lane % 16 : i;
    }
};

/// One tile of C. Warp w takes steps w, w + 8, .. of 16 terms; the warps' sums are added in their order.
template <bool A_ALONG, bool B_ALONG, bool PACKED, class Sink>
__device__ __forceinline__ void sliced_tile(const float *a_data, const float *b_data, int64_t m, int64_t n, int64_t k, int64_t row0, int64_t col0, const Sink &sink) {
    using A = SlicedOperand<A_ALONG, PACKED>;
    using B = SlicedOperand<B_ALONG, PACKED>;
    __shared__ __align__(16) union {
        float operands[SLICED_WARPS][2][SLICED_K][SLICED_LD];
        float sums[SLICED_WARPS][SLICED_TILE][SLICED_LD];
    } space;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, rows = lane / 4 * 4, cols = lane % 4 * 4;
    A a(a_data, m, k, row0, warp * SLICED_K);
    B b(b_data, n, k, col0, warp * SLICED_K);
    float sums[4][8] = {};
    auto &tiles = space.operands[warp];
#pragma unroll 1
    for (int64_t k0 = warp * SLICED_K; k0 < k; k0 += SLICED_WARPS * SLICED_K) {
        a.copy(tiles[0]);
        b.copy(tiles[1]);
        __syncwarp();
#pragma unroll
        for (int term = 0; term < SLICED_K; ++term) {
            float x[4], y[8];
            *reinterpret_cast<float4 *>(x) = *reinterpret_cast<const float4 *>(&tiles[0][term][rows ^ A::swap(term)]);
#pragma unroll
            for (int part = 0; part < 2; ++part) *reinterpret_cast<float4 *>(y + part * 4) = *reinterpret_cast<const float4 *>(&tiles[1][term][(cols + part * 16) ^ B::swap(term)]);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        __syncwarp();
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            *reinterpret_cast<float4 *>(&space.sums[warp][rows + i][cols + part * 16]) =
                make_float4(sums[i][part * 4], sums[i][part * 4 + 1], sums[i][part * 4 + 2], sums[i][part * 4 + 3]);
        }
    __syncthreads();
    const int row = threadIdx.x / 8, col = threadIdx.x % 8 * 4;
    const int64_t steps = (k + SLICED_K - 1) / SLICED_K;
    const int warps = steps < SLICED_WARPS ? static_cast<int>(steps) : SLICED_WARPS; // others have no terms
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int i = 0; i < warps; ++i) sum = sum + *reinterpret_cast<const float4 *>(&space.sums[i][row][col]);
    if constexpr (PACKED) {
        sink(row0 + row, col0 + col, sum);
    } else if (row0 + row < m) {
        const float each[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (col0 + col + j < n) sink(row0 + row, col0 + col + j, each[j]);
    }
}

} // namespace deem

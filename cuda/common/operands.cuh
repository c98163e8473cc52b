// Plain matrices as operands of the products of tile.cuh, and the order in which blocks take tiles.
#pragma once

#include <cstdint>

#include "tile.cuh"

namespace deem {

/// The tile of this block. Blocks that run at the same time take groups of 8 rows of tiles, so that the second-level cache serves both operands.
template <int ROWS, int COLS> __device__ __forceinline__ void place_of_tile(int64_t m, int64_t n, int64_t &row0, int64_t &col0) {
    const int64_t rows = (m + ROWS - 1) / ROWS, columns = (n + COLS - 1) / COLS;
    const int64_t group = blockIdx.x / (8 * columns), in_group = blockIdx.x % (8 * columns);
    const int64_t height = rows - group * 8 < 8 ? rows - group * 8 : 8;
    row0 = (group * 8 + in_group % height) * ROWS;
    col0 = in_group / height * COLS;
}

/// Lines of a matrix along k, as a source of `ffma_tile`.
struct LinesAlong {
    static constexpr bool ALONG = true;
    const float *from[FFMA_PIECES];
    int32_t left[FFMA_PIECES];

    __device__ __forceinline__ LinesAlong(const float *data, int64_t lines, int64_t k, int64_t line0) {
        const int piece = threadIdx.x % 4 * 4;
        for (int i = 0; i < FFMA_PIECES; ++i) {
            const int64_t line = line0 + threadIdx.x / 4 + i * 64;
            left[i] = line < lines ? static_cast<int32_t>(k) - piece : 0;
            from[i] = data + line * k + piece;
        }
    }

    __device__ __forceinline__ void fetch(float4 (&pieces)[FFMA_PIECES]) {
#pragma unroll
        for (int i = 0; i < FFMA_PIECES; ++i) {
            pieces[i] = left[i] > 0 ? F32::load4(from[i]) : make_float4(0.f, 0.f, 0.f, 0.f);
            from[i] += FFMA_K;
            left[i] -= FFMA_K;
        }
    }
};

/// Lines of a matrix `[K, lines]`, as a source of `ffma_tile`.
struct LinesAcross {
    static constexpr bool ALONG = false;
    const float *from[FFMA_PIECES];
    int32_t left;
    int64_t step;

    __device__ __forceinline__ LinesAcross(const float *data, int64_t lines, int64_t k, int64_t line0) {
        const int64_t line = line0 + threadIdx.x % 32 * 4;
        left = line < lines ? static_cast<int32_t>(k) - static_cast<int32_t>(threadIdx.x / 32) : 0;
        step = lines * FFMA_K;
        for (int i = 0; i < FFMA_PIECES; ++i) from[i] = data + (threadIdx.x / 32 + i * 8) * lines + line;
    }

    __device__ __forceinline__ void fetch(float4 (&pieces)[FFMA_PIECES]) {
#pragma unroll
        for (int i = 0; i < FFMA_PIECES; ++i) {
            pieces[i] = left > i * 8 ? F32::load4(from[i]) : make_float4(0.f, 0.f, 0.f, 0.f);
            from[i] += step;
        }
        left -= FFMA_K;
    }
};

/// Rows of a matrix along k, as a source of `mma_tile`: this thread copies its piece of rows line0 + thread / 4 + 32 i.
template <int TILE> struct RowsAlong {
    static constexpr bool ALONG = true;
    static constexpr int PIECES = Mma<TILE>::PIECES;
    const uint16_t *from[PIECES];
    int32_t gone[PIECES]; // 0, or so much that a row which does not exist never has numbers left
    int32_t left;

    __device__ __forceinline__ RowsAlong(const uint16_t *data, int64_t lines, int64_t k, int64_t line0) {
        const int piece = threadIdx.x % 4 * 8;
        left = static_cast<int32_t>(k) - piece;
        for (int i = 0; i < PIECES; ++i) {
            const int64_t line = line0 + threadIdx.x / 4 + i * 32;
            gone[i] = line < lines ? 0 : 0x7fffffff;
            from[i] = opaque(data + (line < lines ? line : 0) * k + piece);
        }
    }

    __device__ __forceinline__ void copy(uint32_t to) {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            copy_async_16(to + i * PIECE_STEP<TILE, ALONG>, from[i], left > gone[i] ? 16 : 0);
            from[i] += MMA_K;
        }
        left -= MMA_K;
    }
};

/// Rows k of a matrix `[K, lines]`: this thread copies its piece of rows thread / (TILE / 8) + ACROSS_STEP i. Lines < 2^27.
template <int TILE> struct RowsAcross {
    static constexpr bool ALONG = false;
    static constexpr int PIECES = Mma<TILE>::PIECES, STEP = Mma<TILE>::ACROSS_STEP;
    const uint8_t *from;
    uint32_t jump; // bytes of STEP rows
    int32_t left;  // nothing, if the line does not exist

    __device__ __forceinline__ RowsAcross(const uint16_t *data, int64_t lines, int64_t k, int64_t line0) {
        const int row = threadIdx.x / (TILE / 8);
        const int64_t line = line0 + threadIdx.x % (TILE / 8) * 8;
        left = line < lines ? static_cast<int32_t>(k) - row : 0;
        jump = static_cast<uint32_t>(lines * (2 * STEP));
        from = reinterpret_cast<const uint8_t *>(opaque(data + row * lines + (line < lines ? line : 0)));
    }

    __device__ __forceinline__ void copy(uint32_t to) {
#pragma unroll
        for (int i = 0; i < PIECES; ++i) copy_async_16(to + i * PIECE_STEP<TILE, ALONG>, from + static_cast<uint64_t>(jump) * i, left > i * STEP ? 16 : 0);
        from += static_cast<uint64_t>(jump) * PIECES;
        left -= MMA_K;
    }
};

} // namespace deem

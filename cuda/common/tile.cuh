// What the matrix-like kernels share: storage types, and the two products of tiles that GEMM and convolution are made of.
//
// | product | tile | threads | operands | numbers |
// |---|---|---|---|---|
// | simt_tile | 64 x 64 x 16 | 256 | any, one element at a time | f32, in rising k |
// | ffma_tile | 128 x 128 x 16 | 256 | f32, 16 bytes at a time, through registers | f32, in rising k |
// | mma_tile | 128 x 128 x 32, or 64 x 64 x 32 | 128 | 16 bytes at a time, through asynchronous copies | bf16 operands, f32 sums |
//
// Where an operand lies is told by a source object: a matrix, or the patches of an image. Where a sum goes is told by a sink.
#pragma once

#include <cstdint>

#include "../arch/copy.cuh"
#include "../arch/math.cuh"
#include "../arch/mma.cuh"

namespace deem {

/// Storage types with their conversions and the tensor-core product that takes them. Kernels that go element by element are templates over float and bf16 instead
/// (numeric.cuh); here numbers are also the bits that ldmatrix and mma move about, and a kernel's type says which mma takes them.
struct F32 {
    using Stored = float;
    __device__ static float load(const float *p) { return *p; }
    __device__ static void store(float *p, float x) { *p = x; }
    __device__ static float4 load4(const float *p) { return *reinterpret_cast<const float4 *>(p); }
    __device__ static void store4(float *p, float4 x) { *reinterpret_cast<float4 *>(p) = x; }
};

struct Bf16 {
    using Stored = uint16_t;
    __device__ static float2 unpack(uint32_t x) { return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)); }
    __device__ static uint32_t pack(float low, float high) { return pack_bf16(low, high); }
    __device__ static float load(const uint16_t *p) { return __uint_as_float(static_cast<uint32_t>(*p) << 16); }
    __device__ static void store(uint16_t *p, float x) { *p = static_cast<uint16_t>(pack_bf16(x, 0.f)); }
    __device__ static float4 load4(const uint16_t *p) {
        const uint2 raw = *reinterpret_cast<const uint2 *>(p);
        const float2 a = unpack(raw.x), b = unpack(raw.y);
        return make_float4(a.x, a.y, b.x, b.y);
    }
    __device__ static void store4(uint16_t *p, float4 x) {
        store_global_8(p, pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
    }
    __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_16816_bf16(d, a, b0, b1); }
    /// d = a b if FIRST, else d += a b.
    template <bool FIRST> __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        if constexpr (FIRST) mma_16816_bf16_first(d, a, b0, b1);
        else mma_16816_bf16(d, a, b0, b1);
    }
};

/// What attention needs of f16.
struct F16 {
    using Stored = uint16_t;
    __device__ static uint32_t pack(float low, float high) { return pack_f16(low, high); }
    __device__ static float load(const uint16_t *p) { return widen_f16(*p); }
    __device__ static void store(uint16_t *p, float x) { *p = static_cast<uint16_t>(pack_f16(x, 0.f)); }
    __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_16816_f16(d, a, b0, b1); }
    /// d = a b if FIRST, else d += a b.
    template <bool FIRST> __device__ static void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        if constexpr (FIRST) mma_16816_f16_first(d, a, b0, b1);
        else mma_16816_f16(d, a, b0, b1);
    }
};

/// Calls `f(i, sums[i])` for each row. The rows take turns in the first one's registers, so that there is one copy of f's code and no spill.
template <int ROWS, int COLS, class F> __device__ __forceinline__ void for_each_row(float (&sums)[ROWS][COLS], const F &f) {
#pragma unroll 1
    for (int i = 0; i < ROWS; ++i) {
        f(i, sums[0]);
#pragma unroll
        for (int r = 0; r + 1 < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLS; ++c) sums[r][c] = sums[r + 1][c];
    }
}

// ---------------------------------------------------------------- plain product

constexpr int SIMT_TILE = 64, SIMT_K = 16, SIMT_THREADS = 256;

/// One tile of C, rows from `row0` and columns from `col0`, by scalar multiply-adds; any sizes and strides.
///
/// A source has `Line`, `line(r)`: what is worth keeping about row or column r; `at(line, k)`: its number k; and `along_k`: whether neighbours
/// along k are neighbours in memory. `sink(row, col, sum)` is called for each element of C.
template <class A, class B, class Sink>
__device__ __forceinline__ void simt_tile(const A &a, const B &b, const Sink &sink, int64_t m, int64_t n, int64_t k, int64_t row0, int64_t col0) {
    constexpr int EACH = SIMT_TILE * SIMT_K / SIMT_THREADS, LD = SIMT_TILE + 4;
    __shared__ __align__(16) float a_tile[SIMT_K][LD], b_tile[SIMT_K][LD];
    const int thread = threadIdx.x;
    const auto line_of = [&](bool along_k, int i) { return along_k ? thread / SIMT_K + i * (SIMT_THREADS / SIMT_K) : thread % SIMT_TILE; };
    const auto k_of = [&](bool along_k, int i) { return along_k ? thread % SIMT_K : thread / SIMT_TILE + i * (SIMT_THREADS / SIMT_TILE); };
    const bool a_along = a.along_k, b_along = b.along_k;
    typename A::Line a_line[EACH];
    typename B::Line b_line[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int64_t r = row0 + line_of(a_along, i), c = col0 + line_of(b_along, i);
        a_line[i] = a.line(r < m ? r : m - 1);
        b_line[i] = b.line(c < n ? c : n - 1);
    }
    const int rows = thread / 16 * 4, cols = thread % 16 * 4;
    float sums[4][4] = {};
    for (int64_t k0 = 0; k0 < k; k0 += SIMT_K) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int ak = k_of(a_along, i), bk = k_of(b_along, i);
            a_tile[ak][line_of(a_along, i)] = k0 + ak < k ? a.at(a_line[i], k0 + ak) : 0.f;
            b_tile[bk][line_of(b_along, i)] = k0 + bk < k ? b.at(b_line[i], k0 + bk) : 0.f;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < SIMT_K; ++kk) {
            const float4 x = *reinterpret_cast<const float4 *>(&a_tile[kk][rows]);
            const float4 y = *reinterpret_cast<const float4 *>(&b_tile[kk][cols]);
            const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(xs[i], ys[j], sums[i][j]);
        }
    }
    for_each_row(sums, [&](int i, const float (&row)[4]) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (row0 + rows + i < m && col0 + cols + j < n) sink(row0 + rows + i, col0 + cols + j, row[j]);
    });
}

// ---------------------------------------------------------------- f32 product

constexpr int FFMA_TILE = 128, FFMA_K = 16, FFMA_THREADS = 256, FFMA_PIECES = 2;

/// One tile of C by multiply-adds over `tiles` steps of 16 along k; a thread has 8 x 8 sums.
///
/// A source has `ALONG`, whether its pieces of four numbers lie along k, and `fetch(pieces)`, which reads this thread's pieces of the next tile, zeros behind
/// the end: k 4 (thread % 4) .. of lines thread / 4 + 64 i if along, else lines 4 (thread % 32) .. of k thread / 32 + 8 i.
/// `sink(row, col, four neighbouring sums)`.
template <class A, class B, class Sink> __device__ __forceinline__ void ffma_tile(A &a, B &b, int tiles, int64_t row0, int64_t col0, const Sink &sink) {
    constexpr int LD = FFMA_TILE + 4;
    __shared__ __align__(16) float space[2][2][FFMA_K][LD];
    const int thread = threadIdx.x, rows = thread / 16 * 4, cols = thread % 16 * 4;
    float4 a_piece[FFMA_PIECES], b_piece[FFMA_PIECES];
    const auto put = [&](bool along, float (&tile)[FFMA_K][LD], const float4 (&piece)[FFMA_PIECES]) {
#pragma unroll
        for (int i = 0; i < FFMA_PIECES; ++i) {
            if (along) {
                const int k = thread % 4 * 4, line = (thread / 4 + i * 64) ^ (k & 8); // lanes of k and k + 8 in different banks
                tile[k][line] = piece[i].x;
                tile[k + 1][line] = piece[i].y;
                tile[k + 2][line] = piece[i].z;
                tile[k + 3][line] = piece[i].w;
            } else {
                *reinterpret_cast<float4 *>(&tile[thread / 32 + i * 8][thread % 32 * 4]) = piece[i];
            }
        }
    };
    float sums[8][8] = {};
    if (tiles > 0) {
        a.fetch(a_piece);
        b.fetch(b_piece);
        put(A::ALONG, space[0][0], a_piece);
        put(B::ALONG, space[0][1], b_piece);
    }
    __syncthreads();
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
        const auto &now = space[tile & 1];
        a.fetch(a_piece);
        b.fetch(b_piece);
#pragma unroll
        for (int k = 0; k < FFMA_K; ++k) {
            float x[8], y[8];
#pragma unroll
            for (int part = 0; part < 2; ++part) {
                *reinterpret_cast<float4 *>(x + part * 4) = *reinterpret_cast<const float4 *>(&now[0][k][(rows ^ (A::ALONG ? k & 8 : 0)) + part * 64]);
                *reinterpret_cast<float4 *>(y + part * 4) = *reinterpret_cast<const float4 *>(&now[1][k][(cols ^ (B::ALONG ? k & 8 : 0)) + part * 64]);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        put(A::ALONG, space[~tile & 1][0], a_piece);
        put(B::ALONG, space[~tile & 1][1], b_piece);
        __syncthreads();
    }
    for_each_row(sums, [&](int i, const float (&row)[8]) {
        const int64_t r = row0 + rows + i % 4 + i / 4 * 64;
        sink(r, col0 + cols, make_float4(row[0], row[1], row[2], row[3]));
        sink(r, col0 + cols + 64, make_float4(row[4], row[5], row[6], row[7]));
    });
}

// ---------------------------------------------------------------- tensor-core product

constexpr int MMA_TILE = 128, MMA_SMALL_TILE = 64, MMA_K = 32, MMA_THREADS = 128, MMA_STAGES = 4;

/// Sizes of the tile of C of a block of four warps, two by two.
template <int TILE> struct Mma {
    static constexpr int WARP = TILE / 2, FRAGMENTS = WARP / 16; // rows and columns of a warp; of 16 each
    static constexpr int PIECES = TILE / 32;                     // of 16 bytes that a thread copies of a tile of an operand
    static constexpr int ACROSS_ROW = TILE * 2 + 16;             // bytes between rows of a tile across
    static constexpr int ACROSS_STEP = 1024 / TILE;              // rows between a thread's pieces in it
    static constexpr int OPERAND_BYTES = MMA_K * ACROSS_ROW, STAGE_BYTES = 2 * OPERAND_BYTES, SHARED_BYTES = MMA_STAGES * STAGE_BYTES;
};

// An operand's tile lies in shared memory as it does in global memory: along k, [TILE][32], or across, [32][TILE]. The eight rows of a matrix that `ldmatrix` reads
// must lie in different banks: along k, the four 16-byte pieces of a row are permuted; across, rows are padded to an odd number of pieces.

/// Where this thread's first piece goes in a tile: along, the others are 32 rows apart; across, ACROSS_STEP rows.
template <int TILE, bool ALONG> __device__ __forceinline__ int first_piece(int thread) {
    if (ALONG) return thread / 4 * 64 + ((thread ^ thread >> 3) & 3) * 16;
    return thread / (TILE / 8) * Mma<TILE>::ACROSS_ROW + thread % (TILE / 8) * 16;
}
/// Bytes between a thread's pieces.
template <int TILE, bool ALONG> constexpr int PIECE_STEP = ALONG ? 2048 : Mma<TILE>::ACROSS_STEP *Mma<TILE>::ACROSS_ROW;

/// The fragments of a warp's rows (A) or columns (B) of one tile, for one half of 16 along k.
///
/// ALONG: layout of the tile. FIRST: whether this is operand A. Addresses are relative to the tile; `offset` holds what does not fit an immediate.
template <int TILE, bool ALONG, bool FIRST> struct Fragments {
    uint32_t offset[ALONG ? 2 : 1];

    __device__ __forceinline__ explicit Fragments(int lane, int line0) {
        const int low = lane & 15, high = lane >> 4, eight = lane & 7, second = lane >> 3 & 1;
        if constexpr (ALONG) {
            const int line = line0 + (FIRST ? low : eight + high * 8);
            const int piece = FIRST ? high : second;
            for (int half = 0; half < 2; ++half) offset[half] = line * 64 + (((half * 2 + piece) ^ (line >> 1)) & 3) * 16;
        } else {
            const int row = FIRST ? eight + high * 8 : low;
            offset[0] = row * Mma<TILE>::ACROSS_ROW + line0 * 2 + (FIRST ? second : high) * 16;
        }
    }

    __device__ __forceinline__ void load(uint32_t (&r)[Mma<TILE>::FRAGMENTS][4], uint32_t tile, int half) const {
#pragma unroll
        for (int i = 0; i < Mma<TILE>::FRAGMENTS; ++i) {
            if constexpr (ALONG) ldmatrix_x4(r[i], tile + offset[half] + i * 1024);
            else ldmatrix_x4_transposed(r[i], tile + offset[0] + half * (16 * Mma<TILE>::ACROSS_ROW) + i * 32);
        }
    }
};

/// sums[i][j] += rows 16i of A by columns 8j of B.
template <class T, int N>
__device__ __forceinline__ void multiply(float (&sums)[N][2 * N][4], const uint32_t (&a)[N][4], const uint32_t (&b)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < 2 * N; ++j) {
            // To and fro, so that the last column's registers are read again at once.
            const int jj = i & 1 ? 2 * N - 1 - j : j;
            T::mma(sums[i][jj], a[i], b[jj / 2][jj % 2 * 2], b[jj / 2][jj % 2 * 2 + 1]);
        }
}

/// The sums of a warp's part of a tile of C over `tiles` steps of 32 along k.
///
/// A source has `ALONG` and `copy(to)`, which begins the copies of this thread's pieces of the next tile (to + i PIECE_STEP<TILE, ALONG>) and moves on;
/// behind the end it writes zeros. `shared`: Mma<TILE>::SHARED_BYTES.
template <class T, int TILE, class A, class B>
__device__ __forceinline__ void mma_tile(A &a, B &b, int tiles, uint32_t shared, float (&sums)[Mma<TILE>::FRAGMENTS][2 * Mma<TILE>::FRAGMENTS][4]) {
    using Shape = Mma<TILE>;
    constexpr int N = Shape::FRAGMENTS;
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const Fragments<TILE, A::ALONG, true> a_at(lane, warp / 2 * Shape::WARP);
    const Fragments<TILE, B::ALONG, false> b_at(lane, warp % 2 * Shape::WARP);
    const uint32_t a_to = first_piece<TILE, A::ALONG>(thread), b_to = Shape::OPERAND_BYTES + first_piece<TILE, B::ALONG>(thread);
    for (int stage = 0; stage < MMA_STAGES - 1; ++stage) {
        a.copy(shared + stage * Shape::STAGE_BYTES + a_to);
        b.copy(shared + stage * Shape::STAGE_BYTES + b_to);
        copy_commit();
    }
    copy_wait<MMA_STAGES - 2>();
    __syncthreads();
    uint32_t a_now[N][4], b_now[N][4], a_next[N][4], b_next[N][4];
    a_at.load(a_now, shared, 0);
    b_at.load(b_now, shared + Shape::OPERAND_BYTES, 0);
    uint32_t read = shared, write = shared + (MMA_STAGES - 1) * Shape::STAGE_BYTES;
    const uint32_t end = shared + Shape::SHARED_BYTES;
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
        a_at.load(a_next, read, 1);
        b_at.load(b_next, read + Shape::OPERAND_BYTES, 1);
        a.copy(write + a_to);
        b.copy(write + b_to);
        copy_commit();
        write = read;
        read = read + Shape::STAGE_BYTES == end ? shared : read + Shape::STAGE_BYTES;
        multiply<T>(sums, a_now, b_now);
        copy_wait<MMA_STAGES - 2>();
        __syncthreads();
        a_at.load(a_now, read, 0);
        b_at.load(b_now, read + Shape::OPERAND_BYTES, 0);
        multiply<T>(sums, a_next, b_next);
    }
    copy_wait<0>();
    __syncthreads();
}

/// Gives the sums of `mma_tile` to `sink(row, col, four neighbouring sums)`, in an order in which a warp's accesses to a row of C are whole sectors.
template <int TILE, class Sink>
__device__ __forceinline__ void mma_store(float *shared, const float (&sums)[Mma<TILE>::FRAGMENTS][2 * Mma<TILE>::FRAGMENTS][4], int64_t row0, int64_t col0, const Sink &sink) {
    constexpr int WARP = Mma<TILE>::WARP, N = Mma<TILE>::FRAGMENTS, HALVES = WARP / 32;
    constexpr int LD = WARP + 8; // rows 8 banks apart: neither the writes nor the reads below conflict
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float *slab = shared + warp * (16 * LD);
    const int64_t row = row0 + warp / 2 * WARP, col = col0 + warp % 2 * WARP;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 2 * N; ++j) {
            float *to = slab + lane / 4 * LD + j * 8 + lane % 4 * 2;
            store_shared_8(shared_address(to), sums[i][j][0], sums[i][j][1]);
            store_shared_8(shared_address(to + 8 * LD), sums[i][j][2], sums[i][j][3]);
        }
        __syncwarp();
#pragma unroll 1
        for (int part = 0; part < 4 * HALVES; ++part) { // one copy of the sink's code
            const int line = part / HALVES * 4 + lane / 8, at = part % HALVES * 32 + lane % 8 * 4;
            sink(row + i * 16 + line, col + at, *reinterpret_cast<const float4 *>(slab + line * LD + at));
        }
    }
}

} // namespace deem

// The tensor-core product of GEMM (sm_80): tiles of C of several shapes, from matrices whose rows lie along k or across it.
//
// Operands lie in shared memory as they do in global memory: along k, [LINES][K], or across, [K][LINES]. The eight rows of a matrix that `ldmatrix` reads must
// lie in different banks: along k, the 16-byte pieces of a row are permuted; across, rows are padded to an odd number of pieces.
#pragma once

#include <cstdint>

#include "tile.cuh"

namespace deem {

/// Shape of a block: a tile of C of ROWS x COLS in steps of K, DOWN x ACROSS warps, and that SLICES times: each slice takes its part of every step along k.
template <int ROWS_, int COLS_, int K_, int DOWN_, int ACROSS_, int SLICES_, int STAGES_> struct Product {
    static constexpr int ROWS = ROWS_, COLS = COLS_, K = K_, DOWN = DOWN_, ACROSS = ACROSS_, SLICES = SLICES_, STAGES = STAGES_;
    static constexpr int WARPS = DOWN * ACROSS * SLICES, THREADS = 32 * WARPS;
    static constexpr int WARP_ROWS = ROWS / DOWN, WARP_COLS = COLS / ACROSS, ROW_PARTS = WARP_ROWS / 16, COL_PARTS = WARP_COLS / 16;
    static constexpr int HALVES = K / 16 / SLICES; // steps of 16 along k of a warp in each step of K
    // Bytes of a stage of the operands, whichever way they lie.
    static constexpr int A_BYTES = K * (ROWS * 2 + 16), B_BYTES = K * (COLS * 2 + 16), STAGE_BYTES = A_BYTES + B_BYTES, SHARED_BYTES = STAGES * STAGE_BYTES;
    static constexpr int LD = COLS + 8; // of the sums in shared memory, so that neither writes nor reads of a row conflict
    static_assert(ROWS * LD * SLICES * 4 <= SHARED_BYTES || SLICES == 1, "the slices' sums fit");
    static_assert(WARPS * 16 * (WARP_COLS + 8) * 4 <= SHARED_BYTES, "a slab for each warp");
};

/// LINES rows or columns of a matrix for a tile: this thread's copies, and a warp's fragments. ALONG: rows lie along k.
template <class P, int LINES, bool ALONG> struct Lines {
    static constexpr int IN_ROW = ALONG ? P::K / 8 : LINES / 8;          // pieces of 16 bytes of a row in memory
    static constexpr int STEP = P::THREADS / IN_ROW;                     // rows between a thread's pieces
    static constexpr int PIECES = LINES * P::K / 8 / P::THREADS;         // of a thread
    static constexpr int ROW_BYTES = ALONG ? P::K * 2 : LINES * 2 + 16;  // in shared memory
    static_assert(PIECES > 0 && PIECES * STEP * IN_ROW == LINES * P::K / 8, "threads divide a tile evenly");
    const uint8_t *from[ALONG ? PIECES : 1];
    int32_t gone[ALONG ? PIECES : 1]; // along: 0, or so much that a line that does not exist never has numbers left
    uint32_t jump;                    // across: bytes of STEP rows
    int32_t left;                     // numbers along k, from this thread's first on

    /// `data`: from the first number along k on, rows of `stride` numbers if along, else of `lines`; so many numbers along k.
    __device__ __forceinline__ Lines(const uint16_t *data, int lines, int stride, int line0, int numbers) {
        const int row = static_cast<int>(threadIdx.x) / IN_ROW, piece = static_cast<int>(threadIdx.x) % IN_ROW * 8;
        if constexpr (ALONG) {
            left = numbers - piece;
            jump = 0;
            for (int i = 0; i < PIECES; ++i) {
                const int line = line0 + row + i * STEP;
                gone[i] = line < lines ? 0 : 0x7fffffff;
                from[i] = reinterpret_cast<const uint8_t *>(opaque(data + (static_cast<int64_t>(line < lines ? line : 0) * stride + piece)));
            }
        } else {
            const int line = line0 + piece;
            left = line < lines ? numbers - row : 0;
            gone[0] = 0;
            jump = static_cast<uint32_t>(lines) * (2 * STEP);
            from[0] = reinterpret_cast<const uint8_t *>(opaque(data + (static_cast<int64_t>(row) * lines + (line < lines ? line : 0))));
        }
    }

    /// Permutes the pieces of a row along k: eight neighbouring rows of 128 bytes, or pairs of them of 64, must differ.
    __device__ static __forceinline__ int permuted(int line, int piece) { return P::K == 64 ? piece ^ (line & 7) : piece ^ (line >> 1 & 3); }

    /// Where this thread's first piece goes in a tile.
    __device__ static __forceinline__ uint32_t place() {
        const int row = threadIdx.x / IN_ROW, piece = threadIdx.x % IN_ROW;
        return row * ROW_BYTES + (ALONG ? permuted(row, piece) : piece) * 16;
    }

    /// Begins the copies of the next tile, zeros behind the end. `to`: the tile plus `place`.
    __device__ __forceinline__ void copy(uint32_t to) {
        static_assert(!ALONG || STEP % 8 == 0, "a thread's pieces are permuted alike");
#pragma unroll
        for (int i = 0; i < PIECES; ++i) {
            if constexpr (ALONG) {
                copy_async_16(to + i * (STEP * ROW_BYTES), from[i], left > gone[i] ? 16 : 0);
                from[i] += P::K * 2;
            } else {
                copy_async_16(to + i * (STEP * ROW_BYTES), from[0] + static_cast<uint64_t>(jump) * i, left > i * STEP ? 16 : 0);
            }
        }
        if constexpr (!ALONG) from[0] += static_cast<uint64_t>(jump) * PIECES;
        left -= P::K;
    }
};

/// Where a lane finds the fragments of a warp's rows (A, FIRST) or columns (B) in a tile.
template <class P, int LINES, bool ALONG, bool FIRST> struct Operand {
    static constexpr int PARTS = FIRST ? P::ROW_PARTS : P::COL_PARTS, ROW_BYTES = Lines<P, LINES, ALONG>::ROW_BYTES;
    uint32_t offset[ALONG ? P::HALVES : 1];

    __device__ __forceinline__ Operand(int lane, int line0, int slice) {
        const int low = lane & 15, high = lane >> 4, eight = lane & 7, second = lane >> 3 & 1;
        if constexpr (ALONG) {
            const int line = line0 + (FIRST ? low : eight + high * 8), piece = FIRST ? high : second;
            for (int half = 0; half < P::HALVES; ++half) offset[half] = line * ROW_BYTES + Lines<P, LINES, ALONG>::permuted(line, (slice * P::HALVES + half) * 2 + piece) * 16;
        } else {
            offset[0] = (slice * (16 * P::HALVES) + (FIRST ? eight + high * 8 : low)) * ROW_BYTES + line0 * 2 + (FIRST ? second : high) * 16;
        }
        // Else parts that both operands share are added anew in each step.
        for (uint32_t &at : offset) asm volatile("" : "+r"(at));
    }

    __device__ __forceinline__ void load(uint32_t (&r)[PARTS][4], uint32_t tile, int half) const {
#pragma unroll
        for (int i = 0; i < PARTS; ++i) {
            if constexpr (ALONG) ldmatrix_x4(r[i], tile + offset[half] + i * (16 * ROW_BYTES));
            else ldmatrix_x4_transposed(r[i], tile + offset[0] + half * (16 * ROW_BYTES) + i * 32);
        }
    }
};

/// A warp's sums of a tile of C.
template <class P> using Sums = float[P::ROW_PARTS][2 * P::COL_PARTS][4];

/// The sums over `tiles` steps along k. `shared`: P::SHARED_BYTES.
template <class T, class P, bool A_ALONG, bool B_ALONG>
__device__ __forceinline__ void product(Lines<P, P::ROWS, A_ALONG> &a, Lines<P, P::COLS, B_ALONG> &b, int tiles, uint32_t shared, Sums<P> &sums) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, slice = warp / (P::DOWN * P::ACROSS), place = warp % (P::DOWN * P::ACROSS);
    const Operand<P, P::ROWS, A_ALONG, true> a_at(lane, place / P::ACROSS * P::WARP_ROWS, slice);
    const Operand<P, P::COLS, B_ALONG, false> b_at(lane, place % P::ACROSS * P::WARP_COLS, slice);
    constexpr int BEHIND_A = P::A_BYTES;
    const uint32_t a_to = a.place(), b_to = BEHIND_A + b.place();
#pragma unroll
    for (int stage = 0; stage < P::STAGES - 1; ++stage) {
        if (stage < tiles) {
            a.copy(shared + stage * P::STAGE_BYTES + a_to);
        b.copy(shared + stage * P::STAGE_BYTES + b_to);
        }
        copy_commit();
    }
    uint32_t read = shared, write = shared + (P::STAGES - 1) * P::STAGE_BYTES;
    const uint32_t end = shared + P::SHARED_BYTES;
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
        copy_wait<P::STAGES - 2>();
        __syncthreads(); // this step's tiles are there, and nobody reads those of the step before
        if (P::SLICES == 1 || tile + P::STAGES - 1 < tiles) { // copies behind the end cost the smallest products more than the question
            a.copy(write + a_to);
            b.copy(write + b_to);
        }
        copy_commit();
#pragma unroll
        for (int half = 0; half < P::HALVES; ++half) {
            uint32_t x[P::ROW_PARTS][4], y[P::COL_PARTS][4];
            a_at.load(x, read, half);
            b_at.load(y, read + BEHIND_A, half);
#pragma unroll
            for (int i = 0; i < P::ROW_PARTS; ++i)
#pragma unroll
                for (int j = 0; j < 2 * P::COL_PARTS; ++j) {
                    // To and fro, so that the last column's registers are read again at once.
                    const int jj = i & 1 ? 2 * P::COL_PARTS - 1 - j : j;
                    T::mma(sums[i][jj], x[i], y[jj / 2][jj % 2 * 2], y[jj / 2][jj % 2 * 2 + 1]);
                }
        }
        write = read;
        read = read + P::STAGE_BYTES == end ? shared : read + P::STAGE_BYTES;
    }
    copy_wait<0>();
    __syncthreads();
}

__device__ __forceinline__ float4 operator+(float4 x, float4 y) { return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w); }

/// Sums of 16 rows of a warp to shared memory, rows LD numbers apart.
template <int TILES, int LD> __device__ __forceinline__ void put_sums(float *to, const float (&sums)[TILES][4], int lane) {
#pragma unroll
    for (int j = 0; j < TILES; ++j) {
        float *at = to + lane / 4 * LD + j * 8 + lane % 4 * 2;
        store_shared_8(shared_address(at), sums[j][0], sums[j][1]);
        store_shared_8(shared_address(at + 8 * LD), sums[j][2], sums[j][3]);
    }
}

/// The tile of this block, for matrices of less than 2^28 rows and columns; order as `place_of_tile`.
template <class P> __device__ __forceinline__ int2 place_of_product(int m, int n) {
    const unsigned rows = (m + P::ROWS - 1) / P::ROWS, columns = (n + P::COLS - 1) / P::COLS;
    const unsigned group = blockIdx.x / (8 * columns), in_group = blockIdx.x % (8 * columns), height = min(rows - group * 8, 8u);
    return make_int2((group * 8 + in_group % height) * P::ROWS, in_group / height * P::COLS);
}

/// Gives the sums of `product` to `sink(row, col, four neighbouring sums)`; those of slices added in their order. Rows and columns may lie outside C.
template <class P, class Sink> __device__ __forceinline__ void give_sums(float *shared, const Sums<P> &sums, int row0, int col0, const Sink &sink) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const auto four = [](const float *at) { return *reinterpret_cast<const float4 *>(at); };
    if constexpr (P::SLICES > 1) {
        static_assert(P::ACROSS == 1, "warps of a slice lie below each other");
#pragma unroll
        for (int i = 0; i < P::ROW_PARTS; ++i) put_sums<2 * P::COL_PARTS, P::LD>(shared + (warp * P::WARP_ROWS + i * 16) * P::LD, sums[i], lane);
        __syncthreads();
        constexpr int LANES = P::COLS / 4;
#pragma unroll 1
        for (int row = threadIdx.x / LANES; row < P::ROWS; row += P::THREADS / LANES) {
            const float *at = shared + row * P::LD + threadIdx.x % LANES * 4;
            float4 sum = four(at);
#pragma unroll
            for (int slice = 1; slice < P::SLICES; ++slice) sum = sum + four(at + slice * (P::ROWS * P::LD));
            sink(row0 + row, col0 + threadIdx.x % LANES * 4, sum);
        }
    } else {
        constexpr int LD = P::WARP_COLS + 8, LANES = P::WARP_COLS / 4, AT_ONCE = 32 / LANES;
        float *slab = shared + warp * (16 * LD);
        const int row = row0 + warp / P::ACROSS * P::WARP_ROWS + lane / LANES, col = col0 + warp % P::ACROSS * P::WARP_COLS + lane % LANES * 4;
#pragma unroll
        for (int i = 0; i < P::ROW_PARTS; ++i) {
            __syncwarp();
            put_sums<2 * P::COL_PARTS, LD>(slab, sums[i], lane);
            __syncwarp();
#pragma unroll 1
            for (int part = 0; part < 16; part += AT_ONCE) sink(row + i * 16 + part, col, four(slab + (part + lane / LANES) * LD + lane % LANES * 4)); // one copy of the sink's code
        }
    }
}

/// Stores the sums of `product` as they are, rounded, into C of `m` x `n`, a multiple of 8: half the traffic in shared memory, and none of the epilogue's questions.
template <class T, class P> __device__ __forceinline__ void store_bare(uint8_t *shared, const Sums<P> &sums, int row0, int col0, uint16_t *c, int m, int n) {
    static_assert(P::SLICES == 1 && P::WARP_COLS == 32, "four lanes to a row");
    constexpr int LD = P::WARP_COLS * 2 + 16; // bytes: eight rows, and rows 0 and 4, lie in different banks
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    uint8_t *slab = shared + warp * (P::WARP_ROWS * LD);
    uint8_t *to = slab + lane / 4 * LD + lane % 4 * 4;
#pragma unroll
    for (int i = 0; i < P::ROW_PARTS; ++i)
#pragma unroll
        for (int j = 0; j < 2 * P::COL_PARTS; ++j) {
            *reinterpret_cast<uint32_t *>(to + i * 16 * LD + j * 16) = T::pack(sums[i][j][0], sums[i][j][1]);
            *reinterpret_cast<uint32_t *>(to + (i * 16 + 8) * LD + j * 16) = T::pack(sums[i][j][2], sums[i][j][3]);
        }
    __syncwarp();
    const int line = lane / 8 + (lane & 4), piece = lane % 4 * 8;
    const int row = row0 + warp / P::ACROSS * P::WARP_ROWS + line, col = col0 + warp % P::ACROSS * P::WARP_COLS + piece;
    if (col >= n) return;
    uint16_t *at = c + static_cast<int64_t>(row) * n + col;
    const int64_t step = static_cast<int64_t>(n) * 8;
#pragma unroll
    for (int part = 0; part < P::WARP_ROWS; part += 8) {
        if (row + part < m) *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(slab + (line + part) * LD + piece * 2);
        at += step;
    }
}

} // namespace deem

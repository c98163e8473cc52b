// Attention on tensor cores: how 16-bit tiles of queries, keys and values lie in shared memory, and the forward pass.
//
// Rows of a tile are padded to an odd number of 16-byte pieces, so that the eight rows of a matrix of `ldmatrix` lie in different banks without any
// permutation: every address is one register plus a constant.
#pragma once

#include <cmath>
#include <cstdint>

#include "../../ffi/attention.h"
#include "attention.cuh"

namespace deem {

/// Constants that choose between two versions of a lambda.
struct False {
    static constexpr bool value = false;
};
struct True {
    static constexpr bool value = true;
};

template <int N> struct Constant {
    static constexpr int value = N;
};

/// Calls `f` with each constant from I to N.
template <int I, int N, class F> __device__ __forceinline__ void each_constant(const F &f) {
    if constexpr (I < N) {
        f(Constant<I>{});
        each_constant<I + 1, N>(f);
    }
}

constexpr int FLASH_WARPS = 4, FLASH_THREADS = 32 * FLASH_WARPS;

/// Sizes of a head of `D` numbers.
template <int D> struct Head {
    static constexpr int PIECES = D / 8;                    // of 16 bytes, in global memory
    static constexpr int STEPS = (D + 15) / 16;             // of 16 along the head
    static constexpr int ROW = (STEPS * 2 + 1) * 16;        // bytes between rows in shared memory
    static constexpr int ROUND = (D + 15) / 16 * 16;
    static_assert(D % 8 == 0, "rows are copied in pieces of 16 bytes");
};

/// The row that takes turn `i` where lanes go through the pieces of rows one after the other. The turns permute every eight rows. Rows are two pieces longer than what they hold
/// if its pieces are odd in number: row r begins in the bank in which the pieces of i whole rows would end.
template <int D> __device__ __forceinline__ int turned_row(int i) {
    constexpr int PIECES = Head<D>::PIECES;
    return PIECES % 2 == 1 ? (i & ~7) | (i * (PIECES * (PIECES + 2)) & 7) : i;
}

/// This thread's part in copying tiles of rows of D numbers: its first row and piece.
///
/// Eight neighbouring lanes copy whole sectors (two pieces) to different banks: pieces 0 and 1 of rows 0, 2, 4, 6. Where pieces are odd in number a row's lie side by
/// side, and rows follow each other in such an order (`turned_row`) that neighbouring lanes reach neighbouring banks across the end of a row, too.
template <int D> struct RowCopy {
    static constexpr int PIECES = Head<D>::PIECES;
    static constexpr int WIDE = PIECES % 4 == 0 ? 4 : PIECES % 2 == 0 ? 2 : 1; // neighbouring pieces in a warp's request
    static constexpr int HIGH = WIDE > 1 ? 32 / WIDE * FLASH_WARPS : FLASH_THREADS / PIECES / 8 * 8; // rows of a request of all warps
    int row, piece;

    __device__ __forceinline__ explicit RowCopy(int thread) {
        const int lane = thread % 32, warp = thread / 32;
        if constexpr (WIDE > 1) {
            piece = (lane & 1) + (WIDE == 4 ? lane >> 4 << 1 : 0);
            row = warp * (32 / WIDE) + (lane >> 1 & 3) * 2 + (lane >> 3 & 1) + (WIDE == 2 ? lane >> 4 << 3 : 0);
        } else {
            piece = thread % PIECES;
            row = turned_row<D>(thread / PIECES);
        }
    }

    /// Where this thread's first piece lies in a tile, in bytes.
    __device__ __forceinline__ uint32_t place() const { return row * Head<D>::ROW + piece * 16; }

    /// Begins the copies of a tile of ROWS rows, `stride` numbers apart, of which `rows` exist; the others become 0. `to` and `from`: this thread's first piece.
    template <int ROWS> __device__ __forceinline__ void copy(uint32_t to, const uint16_t *from, int64_t stride, int rows) const {
        if (WIDE == 1 && threadIdx.x >= HIGH * PIECES) return; // behind the last whole row
        uint64_t at = __cvta_generic_to_global(from);
        const uint64_t step = static_cast<uint64_t>(stride) * (HIGH * 2);
        each_constant<0, (ROWS + HIGH - 1) / HIGH>([&](auto i) {
            constexpr int FIRST = decltype(i)::value * HIGH;
            if (ROWS % HIGH != 0 && row + FIRST >= ROWS) return;
            const uint32_t bytes = row + FIRST < rows ? 16 : 0;
            each_constant<0, WIDE == 1 ? 1 : PIECES / WIDE>([&](auto j) {
                constexpr int OFFSET = decltype(j)::value * WIDE * 16;
                copy_async_16_at<FIRST * Head<D>::ROW + OFFSET, OFFSET>(to, at, bytes);
            });
            at += step;
        });
    }
};

/// Zeros what rows hold behind D, up to a multiple of 16; the copies leave it alone.
template <int D> __device__ __forceinline__ void clear_tails(uint8_t *tile, int rows) {
    if constexpr (Head<D>::ROUND != D) {
        for (int row = threadIdx.x; row < rows; row += FLASH_THREADS) *reinterpret_cast<uint4 *>(tile + row * Head<D>::ROW + D * 2) = make_uint4(0, 0, 0, 0);
    }
}

// Offsets of this lane's row for `ldmatrix`, in bytes from the tile's first row and column.
/// 16 x 16 of an operand A; the next 16 along k are 32 bytes on.
template <int D> __device__ __forceinline__ uint32_t first_offset(int lane) { return (lane & 15) * Head<D>::ROW + (lane >> 4) * 16; }
/// Two fragments of B, [n][k] in memory: 16 columns of 16 along k.
template <int D> __device__ __forceinline__ uint32_t second_offset(int lane) { return ((lane & 7) + (lane >> 4) * 8) * Head<D>::ROW + (lane >> 3 & 1) * 16; }
/// Two fragments of B, [k][n] in memory, to be loaded transposed: 16 along k, 16 columns.
template <int D> __device__ __forceinline__ uint32_t second_transposed_offset(int lane) { return first_offset<D>(lane); }

/// Shape of the forward pass's blocks: HALVES times 64 queries, 16 HALVES to a warp, and KEYS keys at a time.
///
/// With 32 queries to a warp the loads of keys and values are shared by twice as many products; with 16 a warp is done in half the time, for problems that do not
/// fill the machine.
template <int D, int HALVES> struct FlashForward {
    static constexpr int QUERIES = 64 * HALVES, OF_WARP = 16 * HALVES, KEYS = D > 128 ? 32 : 64;
    static constexpr bool KEEP_Q = D <= (HALVES == 2 ? 64 : 96); // fragments of the queries stay in registers
    static constexpr bool LEAN = HALVES == 2 && D >= 128;       // what is needed but once a round waits in shared memory
    static constexpr int SHARED_BYTES = (QUERIES + 2 * KEYS) * Head<D>::ROW + (LEAN ? FLASH_THREADS * 24 : 0);
};

/// The plain mean of all values into the rows of this warp's output that saw nothing.
template <class T>
__device__ __noinline__ void mean_rows(const DeemAttentionForward &p, int64_t b, int n, int64_t first, uint32_t masked) {
    const int lane = threadIdx.x % 32, kv = n / (p.heads / p.kv_heads);
    using Stored = typename T::Stored;
    const Stored *v = static_cast<const Stored *>(p.v) + key_at(p, b, 0, kv);
    const float factor = 1.f / static_cast<float>(p.s > 0 ? p.s : 1);
    for (int c = lane; c < p.d; c += 32) {
        float sum = 0.f;
        for (int64_t s = 0; s < p.s; ++s) sum += T::load(v + s * p.kv_heads * p.d + c);
        for (int row = 0; row < 32; ++row) {
            if (masked >> row & 1) T::store(static_cast<Stored *>(p.out) + query_at(p, b, first + row, n) + c, sum * factor);
        }
    }
}

__device__ __forceinline__ void load_totals(float (&total)[4], const float4 &from) {
    const float4 x = from;
    total[0] = x.x, total[1] = x.y, total[2] = x.z, total[3] = x.w;
}

/// How many of the first `s` keys lie before the causal line of query t.
template <class P> __device__ __forceinline__ int open_keys(const P &p, int t) {
    const int s = static_cast<int>(p.s), line = t + static_cast<int>(p.causal) + 1;
    return p.causal < 0 || line > s ? s : line;
}

template <class T, int D, int HALVES> __device__ __forceinline__ void flash_forward(const DeemAttentionForward &p) {
    using Shape = FlashForward<D, HALVES>;
    constexpr int KEYS = Shape::KEYS, QUERIES = Shape::QUERIES, OF_WARP = Shape::OF_WARP, ROW = Head<D>::ROW, STEPS = Head<D>::STEPS, TILES = D / 8, KEY_TILES = KEYS / 8;
    constexpr bool KEEP_Q = Shape::KEEP_Q, LEAN = Shape::LEAN;
    extern __shared__ __align__(128) uint8_t shared[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    // The last queries see the most keys: they begin first.
    const auto first_query = [] { return (static_cast<int>(gridDim.x) - 1 - block_x()) * QUERIES; };
    const uint32_t q_tile = shared_address(shared), k_tile = q_tile + QUERIES * ROW, v_tile = k_tile + KEYS * ROW;
    const RowCopy<D> copier(threadIdx.x);
    const auto kv_stride = [&] { return static_cast<int64_t>(p.kv_heads) * D; };
    int rounds, open_rounds;
    int64_t next; // this thread's first number of the next tile of keys or values
    {
        const int t0 = first_query(), n = block_y(), t_last = t0 + QUERIES < p.t ? t0 + QUERIES - 1 : static_cast<int>(p.t) - 1;
        const int64_t b = block_z();
        rounds = (open_keys(p, t_last) + KEYS - 1) / KEYS;
        open_rounds = p.keys ? 0 : open_keys(p, t0) / KEYS;
        clear_tails<D>(shared, QUERIES + 2 * KEYS);
        const int64_t q_stride = static_cast<int64_t>(p.heads) * D;
        const uint16_t *q = static_cast<const uint16_t *>(p.q) + query_at(p, b, t0 + copier.row, n) + copier.piece * 8;
        copier.template copy<QUERIES>(q_tile + copier.place(), q, q_stride, static_cast<int>(p.t) - t0);
        next = key_at(p, b, copier.row, n / (p.heads / p.kv_heads)) + copier.piece * 8;
        copier.template copy<KEYS>(k_tile + copier.place(), static_cast<const uint16_t *>(p.k) + next, kv_stride(), static_cast<int>(p.s));
        copy_commit();
    }

    const uint32_t q_from = q_tile + warp * OF_WARP * ROW + first_offset<D>(lane), k_from = k_tile + second_offset<D>(lane);
    const uint32_t v_from = q_from + (v_tile - q_tile) - warp * OF_WARP * ROW; // by `second_transposed_offset`, which is `first_offset`: a register less

    const float factor = p.scale * LOG2_E, minus_factor = -factor;
    float sums[HALVES][TILES][4] = {};
    float max[2 * HALVES], total[2 * HALVES] = {}; // of rows g, g + 8, ..; totals of this lane's columns
    for (float &largest : max) largest = -INFINITY;
    // Large heads fill the registers: what is needed but once a round waits in shared memory, each thread's for itself.
    float4 &total_waits = reinterpret_cast<float4 *>(shared + (QUERIES + 2 * KEYS) * ROW)[threadIdx.x];
    int64_t &next_waits = reinterpret_cast<int64_t *>(shared + (QUERIES + 2 * KEYS) * ROW + FLASH_THREADS * 16)[threadIdx.x];
    if constexpr (LEAN) {
        total_waits = make_float4(0.f, 0.f, 0.f, 0.f);
        next_waits = next;
    }
    uint32_t q[HALVES][KEEP_Q ? STEPS : 1][4];
    if constexpr (KEEP_Q) {
        copy_wait<0>();
        __syncthreads();
        for (int i = 0; i < HALVES; ++i)
            for (int step = 0; step < STEPS; ++step) ldmatrix_x4(q[i][step], q_from + i * 16 * ROW + step * 32);
    }

    const auto round = [&](auto is_masked, int j) __attribute__((always_inline)) {
        constexpr bool MASKED = decltype(is_masked)::value;
        copy_wait<0>();
        __syncthreads(); // the keys are there, and nobody reads the last values any more
        if constexpr (LEAN) next = next_waits;
        copier.template copy<KEYS>(v_tile + copier.place(), static_cast<const uint16_t *>(p.v) + next, kv_stride(), MASKED ? static_cast<int>(p.s) - j * KEYS : KEYS);
        copy_commit();
        float scores[HALVES][KEY_TILES][4];
        const auto of_step = [&](auto is_first, int step) __attribute__((always_inline)) {
            constexpr bool FIRST = decltype(is_first)::value;
            uint32_t a[HALVES][4];
#pragma unroll
            for (int i = 0; i < HALVES; ++i) {
                if constexpr (KEEP_Q) {
                    for (int r = 0; r < 4; ++r) a[i][r] = q[i][step][r];
                } else {
                    ldmatrix_x4(a[i], q_from + i * 16 * ROW + step * 32);
                }
            }
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; tile += 2) {
                uint32_t r[4];
                ldmatrix_x4(r, k_from + tile * 8 * ROW + step * 32);
#pragma unroll
                for (int i = 0; i < HALVES; ++i) {
                    T::template mma<FIRST>(scores[i][tile], a[i], r[0], r[1]);
                    T::template mma<FIRST>(scores[i][tile + 1], a[i], r[2], r[3]);
                }
            }
        };
        of_step(True{}, 0);
#pragma unroll
        for (int step = 1; step < STEPS; ++step) of_step(False{}, step);
        if constexpr (MASKED) {
            const int key = j * KEYS + lane % 4 * 2, t = first_query() + warp * OF_WARP + lane / 4;
            const int64_t b = block_z();
            int open[2 * HALVES];
            for (int r = 0; r < 2 * HALVES; ++r) open[r] = open_keys(p, t + r * 8) - key;
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const bool padded = p.keys && key + tile * 8 + e < p.s && is_padded(p, b, key + tile * 8 + e);
#pragma unroll
                    for (int r = 0; r < 2 * HALVES; ++r) {
                        if (padded || tile * 8 + e >= open[r]) scores[r / 2][tile][r % 2 * 2 + e] = -INFINITY;
                    }
                }
        }
        copy_wait<0>();
        __syncthreads(); // the values are there, and nobody reads the keys any more
        if constexpr (LEAN) next = next_waits;
        next += KEYS * kv_stride();
        if constexpr (LEAN) next_waits = next;
        copier.template copy<KEYS>(k_tile + copier.place(), static_cast<const uint16_t *>(p.k) + next, kv_stride(), j + 1 < rounds ? static_cast<int>(p.s) - (j + 1) * KEYS : 0);
        copy_commit();
        if constexpr (LEAN) load_totals(total, total_waits);
#pragma unroll
        for (int r = 0; r < 2 * HALVES; ++r) {
            float largest = max[r];
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile) largest = fmaxf(largest, fmaxf(scores[r / 2][tile][r % 2 * 2], scores[r / 2][tile][r % 2 * 2 + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
            // Nothing seen yet: any finite number will do.
            const float shift = MASKED && largest == -INFINITY ? 0.f : largest * minus_factor;
            const float rescale = exp2_approximate(fmaf(max[r], factor, shift));
            max[r] = largest;
            total[r] *= rescale;
#pragma unroll
            for (int tile = 0; tile < KEY_TILES; ++tile)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &x = scores[r / 2][tile][r % 2 * 2 + e];
                    x = exp2_approximate(fmaf(x, factor, shift));
                    total[r] += x;
                }
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                sums[r / 2][tile][r % 2 * 2] *= rescale;
                sums[r / 2][tile][r % 2 * 2 + 1] *= rescale;
            }
        }
        if constexpr (LEAN) total_waits = make_float4(total[0], total[1], total[2], total[3]);
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            uint32_t weights[HALVES][4];
#pragma unroll
            for (int i = 0; i < HALVES; ++i)
#pragma unroll
                for (int r = 0; r < 4; ++r) weights[i][r] = T::pack(scores[i][step * 2 + r / 2][r % 2 * 2], scores[i][step * 2 + r / 2][r % 2 * 2 + 1]);
#pragma unroll
            for (int tile = 0; tile < TILES; tile += 2) {
                uint32_t r[4];
                ldmatrix_x4_transposed(r, v_from + step * 16 * ROW + tile * 16);
#pragma unroll
                for (int i = 0; i < HALVES; ++i) {
                    T::mma(sums[i][tile], weights[i], r[0], r[1]);
                    if (tile + 1 < TILES) T::mma(sums[i][tile + 1 < TILES ? tile + 1 : tile], weights[i], r[2], r[3]);
                }
            }
        }
    };
#pragma unroll 1
    for (int j = 0; j < open_rounds; ++j) round(False{}, j);
#pragma unroll 1
    for (int j = open_rounds; j < rounds; ++j) round(True{}, j);

    copy_wait<0>();
    __syncthreads();
    if constexpr (LEAN) load_totals(total, total_waits);
    // Through this warp's rows of the queries' tile, so that rows are written in whole sectors.
    const int64_t b = block_z();
    const int n = block_y(), first = first_query() + warp * OF_WARP;
    const int64_t q_stride = static_cast<int64_t>(p.heads) * D;
    uint8_t *rows = shared + warp * OF_WARP * ROW;
    float my_total = 0.f, my_max = 0.f; // of one row of the four: the logarithm is made for all at once
    int my_row = OF_WARP;
#pragma unroll
    for (int r = 0; r < 2 * HALVES; ++r) {
        float sum = total[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const int row = r / 2 * 16 + r % 2 * 8 + lane / 4;
        if (lane % 4 == r) my_total = sum, my_max = max[r], my_row = row;
        const float inverse = sum > 0.f ? 1.f / sum : 0.f;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            *reinterpret_cast<uint32_t *>(rows + row * ROW + tile * 16 + lane % 4 * 4) =
                T::pack(sums[r / 2][tile][r % 2 * 2] * inverse, sums[r / 2][tile][r % 2 * 2 + 1] * inverse);
        }
    }
    uint32_t masked = 0;
    if (my_row < OF_WARP && first + my_row < static_cast<int>(p.t)) {
        static_cast<float *>(p.lse)[(b * p.heads + n) * p.t + first + my_row] = my_total > 0.f ? fmaf(my_max, p.scale, logf(my_total)) : LOWEST;
        masked = my_total > 0.f ? 0u : 1u << my_row;
    }
    masked = __reduce_or_sync(0xffffffffu, masked);
    __syncwarp();
    uint16_t *out = static_cast<uint16_t *>(p.out) + query_at(p, b, first, n);
    const int exist = static_cast<int>(p.t) - first;
    if constexpr (32 % TILES == 0) { // a lane keeps its piece
        const int piece = lane % TILES;
        const uint8_t *from = rows + lane / TILES * ROW + piece * 16;
        uint16_t *to = out + lane / TILES * q_stride + piece * 8;
        const int64_t step = 32 / TILES * q_stride;
#pragma unroll
        for (int row = 0; row < OF_WARP; row += 32 / TILES) {
            if (row + lane / TILES < exist) *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from + row * ROW);
            to += step;
        }
    } else {
        for (int at = lane; at < OF_WARP * TILES; at += 32) {
            const int row = turned_row<D>(at / TILES), piece = at % TILES;
            if (row < exist) *reinterpret_cast<uint4 *>(out + row * q_stride + piece * 8) = *reinterpret_cast<const uint4 *>(rows + row * ROW + piece * 16);
        }
    }
    if (masked != 0) {
        __syncwarp();
        mean_rows<T>(p, b, n, first, masked);
    }
}

} // namespace deem

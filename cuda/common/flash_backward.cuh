// The backward of attention on tensor cores, without atomics: a block owns 128 rows of a gradient and walks over what they meet.
//
// | gradient | rows | columns | S | dP | sums |
// |---|---|---|---|---|---|
// | dq | queries | keys | Q K^T | dO V^T | dS K |
// | dk, dv, or both | keys | queries of all heads that share them | K Q^T | V dO^T | dS Q and P dO |
//
// P = exp(scale S - lse) and dS = P (dP - delta) stay in registers: sums of one product are the operand of the next. The factor `scale` of dS is applied at
// the end. Both gradients of the keys at once need 4 D registers and fit up to D = 64; beyond, there is a launch for each.
#pragma once

#include <cstdint>

#include "flash.cuh"

namespace deem {

/// Shape of a block that makes the gradients SCORES (from dS) and PROBS (from P).
template <int D, bool SCORES, bool PROBS> struct FlashBackward {
    static constexpr int ROWS = 128;
    static constexpr int SUMS = (D + 7) / 8 * 8 * (int(SCORES) + int(PROBS)); // registers of the gradients
    static constexpr int COLS = SUMS > 128 ? 16 : SUMS < 64 || (!SCORES && SUMS <= 96) ? 64 : 32;
    static constexpr int STAGE_BYTES = COLS * (2 * Head<D>::ROW + 8);
    static constexpr int SHARED_BYTES = ROWS * Head<D>::ROW * (SCORES ? 2 : 1) + 2 * STAGE_BYTES + FLASH_THREADS * 16 + 16;
};

/// sums[i][j] += rows 16i of a tile by rows 8j of another: A B^T along D.
template <class T, int D, int TILES>
__device__ __forceinline__ void multiply_rows(float (&sums)[2][TILES][4], uint32_t a_from, uint32_t b_from) {
    constexpr int ROW = Head<D>::ROW;
#pragma unroll
    for (int step = 0; step < Head<D>::STEPS; ++step) {
        uint32_t a[2][4];
        for (int i = 0; i < 2; ++i) ldmatrix_x4(a[i], a_from + i * 16 * ROW + step * 32);
#pragma unroll
        for (int tile = 0; tile < TILES; tile += 2) {
            uint32_t r[4];
            ldmatrix_x4(r, b_from + tile * 8 * ROW + step * 32);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                T::mma(sums[i][tile], a[i], r[0], r[1]);
                T::mma(sums[i][tile + 1], a[i], r[2], r[3]);
            }
        }
    }
}

/// sums += W B with weights W in the layout of sums, and B's rows along k.
template <class T, int D, int TILES>
__device__ __forceinline__ void multiply_weights(float (&sums)[2][D / 8][4], const float (&weights)[2][TILES][4], uint32_t b_from) {
#pragma unroll
    for (int step = 0; step < TILES / 2; ++step) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int r = 0; r < 4; ++r) a[i][r] = T::pack(weights[i][step * 2 + r / 2][r % 2 * 2], weights[i][step * 2 + r / 2][r % 2 * 2 + 1]);
#pragma unroll
        for (int tile = 0; tile < D / 8; tile += 2) {
            uint32_t r[4];
            ldmatrix_x4_transposed(r, b_from + step * 16 * Head<D>::ROW + tile * 16);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                T::mma(sums[i][tile], a[i], r[0], r[1]);
                if (tile + 1 < D / 8) T::mma(sums[i][tile + 1 < D / 8 ? tile + 1 : tile], a[i], r[2], r[3]);
            }
        }
    }
}

/// A warp's 32 rows, times `factor`, to rows of `to`, `stride` apart, of which `count` exist; through the warp's part of a tile in shared memory.
template <class T, int D>
__device__ __forceinline__ void store_rows(uint16_t *to, int64_t stride, int count, const float (&sums)[2][D / 8][4], float factor, uint8_t *rows) {
    constexpr int ROW = Head<D>::ROW, TILES = D / 8;
    const int lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            *reinterpret_cast<uint32_t *>(rows + (r / 2 * 16 + r % 2 * 8 + lane / 4) * ROW + tile * 16 + lane % 4 * 4) =
                T::pack(sums[r / 2][tile][r % 2 * 2] * factor, sums[r / 2][tile][r % 2 * 2 + 1] * factor);
        }
    __syncwarp();
    for (int at = lane; at < 32 * TILES; at += 32) {
        const int row = turned_row<D>(at / TILES), piece = at % TILES;
        if (row < count) *reinterpret_cast<uint4 *>(to + row * stride + piece * 8) = *reinterpret_cast<const uint4 *>(rows + row * ROW + piece * 16);
    }
}

/// KEY_ROWS: rows are keys, not queries. SCORES: the gradient dS Y (dq or dk); PROBS: the gradient P dO (dv).
template <class T, int D, bool KEY_ROWS, bool SCORES, bool PROBS> __device__ __forceinline__ void flash_backward(const DeemAttentionBackward &p) {
    using Shape = FlashBackward<D, SCORES, PROBS>;
    constexpr int ROWS = Shape::ROWS, COLS = Shape::COLS, ROW = Head<D>::ROW, COL_TILES = COLS / 8;
    extern __shared__ __align__(128) uint8_t shared[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t x_tile = shared_address(shared), u_tile = x_tile + ROWS * ROW, stages = x_tile + ROWS * ROW * (SCORES ? 2 : 1);
    const int s = static_cast<int>(p.s), t = static_cast<int>(p.t), causal = static_cast<int>(p.causal), group = p.heads / p.kv_heads;
    const int row0 = block_x() * ROWS, rows = KEY_ROWS ? s : t, columns = KEY_ROWS ? t : s, heads = KEY_ROWS ? group : 1;
    const int64_t row_stride = static_cast<int64_t>(KEY_ROWS ? p.kv_heads : p.heads) * D, column_stride = static_cast<int64_t>(KEY_ROWS ? p.heads : p.kv_heads) * D;
    // The rounds of a head, and where the masked ones among them begin and end. With a key mask all are, since a query may take the mean of all keys.
    int begin = 0, end = (columns + COLS - 1) / COLS, masked_begin = 0, masked_end = end;
    if (!p.keys && KEY_ROWS) {
        begin = causal >= 0 && row0 > causal ? (row0 - causal) / COLS : 0;
        masked_end = causal >= 0 && row0 + ROWS - 1 > causal ? (row0 + ROWS - 1 - causal + COLS - 1) / COLS : 0;
        masked_end = masked_end < begin ? begin : masked_end > end ? end : masked_end;
        begin = begin > end ? end : begin;
        if (row0 >= s) masked_end = begin = end;
    } else if (!p.keys) {
        const int last = row0 + ROWS < t ? row0 + ROWS - 1 : t - 1;
        masked_end = end = (open_keys(p, last) + COLS - 1) / COLS;
        masked_begin = open_keys(p, row0) / COLS;
    }

    // This thread's first number of the next tile of columns, and of its lse or delta. They wait in shared memory, because registers are short.
    longlong2 &next_waits = reinterpret_cast<longlong2 *>(shared + (stages - x_tile) + 2 * Shape::STAGE_BYTES)[threadIdx.x];
    volatile int *const bounds = reinterpret_cast<int *>(shared + (stages - x_tile) + 2 * Shape::STAGE_BYTES + FLASH_THREADS * 16);
    if (threadIdx.x == 0) bounds[0] = begin, bounds[1] = masked_end, bounds[2] = end;
    __syncthreads();
    // Begins the copies of the tile of round j of a head (of the first of the next head if j is the end).
    const auto fetch = [&](uint32_t stage, int head, int j) __attribute__((always_inline)) {
        const RowCopy<D> copier(Shape::SUMS >= 128 ? thread_x() : threadIdx.x); // large gradients leave no registers to keep it
        longlong2 next = next_waits;
        if (KEY_ROWS && j == bounds[2]) {
            next.x += D - (j - bounds[0]) * COLS * column_stride;
            next.y += p.t - (j - bounds[0]) * COLS;
            j = bounds[0];
            ++head;
        }
        const int left = head < heads ? columns - j * COLS : 0;
        const uint16_t *y = static_cast<const uint16_t *>(KEY_ROWS ? p.q : p.k), *w = static_cast<const uint16_t *>(KEY_ROWS ? p.d_out : p.v);
        copier.template copy<COLS>(stage + copier.place(), y + next.x, column_stride, left);
        copier.template copy<COLS>(stage + COLS * ROW + copier.place(), w + next.x, column_stride, left);
        if (KEY_ROWS && threadIdx.x < 2 * COLS) {
            const float *from = static_cast<const float *>(threadIdx.x < COLS ? p.lse : p.delta) + next.y;
            copy_async_4(stage + 2 * COLS * ROW + threadIdx.x * 4, from, static_cast<int>(threadIdx.x % COLS) < left ? 4 : 0);
        }
        copy_commit();
        next_waits = make_longlong2(next.x + COLS * column_stride, next.y + COLS);
    };
    float lse[4], delta[4]; // of this lane's rows, if they are queries
    {
        const int64_t b = block_z();
        const RowCopy<D> copier(threadIdx.x);
        const int row_head = block_y(), n = KEY_ROWS ? row_head * group : row_head, kv = KEY_ROWS ? row_head : row_head / group;
        clear_tails<D>(shared, ROWS * (SCORES ? 2 : 1));
        for (int stage = 0; stage < 2; ++stage) clear_tails<D>(shared + (stages - x_tile) + stage * Shape::STAGE_BYTES, 2 * COLS);
        const int64_t first = (KEY_ROWS ? key_at(p, b, row0 + copier.row, kv) : query_at(p, b, row0 + copier.row, n)) + copier.piece * 8;
        copier.template copy<ROWS>(x_tile + copier.place(), static_cast<const uint16_t *>(KEY_ROWS ? p.k : p.q) + first, row_stride, rows - row0);
        if (SCORES) copier.template copy<ROWS>(u_tile + copier.place(), static_cast<const uint16_t *>(KEY_ROWS ? p.v : p.d_out) + first, row_stride, rows - row0);
        next_waits = make_longlong2((KEY_ROWS ? query_at(p, b, begin * COLS + copier.row, n) : key_at(p, b, begin * COLS + copier.row, kv)) + copier.piece * 8,
                                    (b * p.heads + n) * p.t + begin * COLS + threadIdx.x % COLS);
        for (int r = 0; r < 4; ++r) {
            const int row = row0 + warp * 32 + r * 8 + lane / 4;
            const int64_t line = (b * p.heads + n) * p.t + row;
            lse[r] = !KEY_ROWS && row < rows ? static_cast<const float *>(p.lse)[line] : 0.f;
            delta[r] = !KEY_ROWS && row < rows ? static_cast<const float *>(p.delta)[line] : 0.f;
        }
        fetch(stages, begin == end ? heads : 0, begin);
    }

    const uint32_t x_from = x_tile + warp * 32 * ROW + first_offset<D>(lane), u_from = u_tile + warp * 32 * ROW + first_offset<D>(lane);
    const float factor = p.scale * LOG2_E;
    float scores_sum[2][SCORES ? D / 8 : 1][4] = {}, probs_sum[2][PROBS ? D / 8 : 1][4] = {};
    uint32_t read = 0;

    const auto round = [&](auto is_masked, int head, int j) __attribute__((always_inline)) {
        constexpr bool MASKED = decltype(is_masked)::value;
        copy_wait<0>();
        __syncthreads(); // this tile is there, and nobody reads the last one any more
        fetch(stages + Shape::STAGE_BYTES - read, head, j + 1);
        const uint32_t y_tile = stages + read, w_tile = y_tile + COLS * ROW;
        [[maybe_unused]] const float *column_lse = reinterpret_cast<const float *>(shared + (y_tile - x_tile) + 2 * COLS * ROW);
        read = Shape::STAGE_BYTES - read;
        [[maybe_unused]] float probs[2][COL_TILES][4] = {}, grads[2][SCORES ? COL_TILES : 1][4] = {};
        multiply_rows<T, D>(probs, x_from, y_tile + second_offset<D>(lane));
        if constexpr (SCORES) multiply_rows<T, D>(grads, u_from, w_tile + second_offset<D>(lane));
        // Of the masked rounds alone; read anew, so that the others need no registers for it.
        const int masked_thread = MASKED ? thread_x() : 0, masked_row = MASKED ? block_x() * ROWS + masked_thread / 32 * 32 + masked_thread % 32 / 4 : 0;
        uint32_t padded = 0; // bit r: whether the key mask hides this lane's row r, if rows are keys
        if (MASKED && KEY_ROWS) {
            for (int r = 0; r < 4; ++r) padded |= static_cast<uint32_t>(masked_row + r * 8 < s && is_padded(p, block_z(), masked_row + r * 8)) << r;
        }
#pragma unroll
        for (int tile = 0; tile < COL_TILES; ++tile) {
            const int pair = tile * 8 + lane % 4 * 2;
            float2 pair_lse = {}, pair_delta = {};
            if constexpr (KEY_ROWS) {
                pair_lse = *reinterpret_cast<const float2 *>(column_lse + pair);
                if constexpr (SCORES) pair_delta = *reinterpret_cast<const float2 *>(column_lse + COLS + pair);
            }
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int column = j * COLS + pair + e;
                const bool column_padded = MASKED && !KEY_ROWS && column < s && is_padded(p, block_z(), column);
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    const float l = !KEY_ROWS ? lse[r] : e == 0 ? pair_lse.x : pair_lse.y;
                    [[maybe_unused]] const float d = !KEY_ROWS ? delta[r] : e == 0 ? pair_delta.x : pair_delta.y;
                    float &prob = probs[r / 2][tile][r % 2 * 2 + e];
                    prob = exp2_approximate(fmaf(prob, factor, -l * LOG2_E));
                    float share = 1.f;
                    if constexpr (MASKED) {
                        const int row = masked_row + r * 8, key = KEY_ROWS ? row : column, query = KEY_ROWS ? column : row;
                        const bool later = causal >= 0 && key - causal > query, hidden = KEY_ROWS ? (padded >> r & 1) != 0 : column_padded;
                        if (p.keys && l == LOWEST) { // see src/ops/attention.rs
                            prob = 1.f / static_cast<float>(s);
                            share = later && hidden ? 0.f : 0.5f;
                        } else if (later || hidden) {
                            prob = 0.f;
                        }
                        if (key >= s) prob = 0.f;
                    }
                    if constexpr (SCORES) {
                        float &grad = grads[r / 2][tile][r % 2 * 2 + e];
                        grad = prob * (grad - d);
                        if constexpr (MASKED) grad *= share;
                    }
                }
            }
        }
        if constexpr (PROBS) multiply_weights<T, D>(probs_sum, probs, w_tile + second_transposed_offset<D>(lane));
        if constexpr (SCORES) multiply_weights<T, D>(scores_sum, grads, y_tile + second_transposed_offset<D>(lane));
    };
#pragma unroll 1
    for (int head = 0; head < heads; ++head) {
        if constexpr (KEY_ROWS) {
#pragma unroll 1
            for (int j = bounds[0]; j < bounds[1]; ++j) round(True{}, head, j);
#pragma unroll 1
            for (int j = bounds[1]; j < bounds[2]; ++j) round(False{}, head, j);
        } else {
#pragma unroll 1
            for (int j = begin; j < masked_begin; ++j) round(False{}, head, j);
#pragma unroll 1
            for (int j = masked_begin; j < masked_end; ++j) round(True{}, head, j);
        }
    }

    copy_wait<0>();
    __syncthreads();
    const int first = block_x() * ROWS + warp * 32, stored = static_cast<int>(KEY_ROWS ? p.capacity : p.t) - first;
    const int64_t at = KEY_ROWS ? key_at(p, block_z(), first, block_y()) : query_at(p, block_z(), first, block_y());
    uint8_t *space = shared + warp * 32 * ROW;
    // Rows behind the last key have read zeros; what they summed is not theirs.
    const bool clear = KEY_ROWS && first + 32 > s;
    if constexpr (KEY_ROWS) {
        if (clear) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                if (first + r * 8 + lane / 4 < s) continue;
#pragma unroll
                for (int tile = 0; tile < D / 8; ++tile)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        if constexpr (SCORES) scores_sum[r / 2][tile][r % 2 * 2 + e] = 0.f;
                        if constexpr (PROBS) probs_sum[r / 2][tile][r % 2 * 2 + e] = 0.f;
                    }
            }
        }
    }
    // The only key has weight 1 whatever its score is.
    if constexpr (SCORES) store_rows<T, D>(static_cast<uint16_t *>(KEY_ROWS ? p.dk : p.dq) + at, row_stride, stored, scores_sum, p.s == 1 ? 0.f : p.scale, space);
    if constexpr (PROBS) store_rows<T, D>(static_cast<uint16_t *>(p.dv) + at, row_stride, stored, probs_sum, 1.f, space);
}

} // namespace deem

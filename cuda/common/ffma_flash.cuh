// Attention of f32 by multiply-adds, in tiles of shared memory: forward, and the backward without atomics.
//
// A warp owns 16 rows; a lane has rows g, g + 4, .. of them (g = lane / 8) and every eighth column of a tile, from lane % 8 on. Both products of a round are made of the
// same: rows by rows along the head, four numbers of it at a time, and weights by rows, four rows at a time. The weights pass from one to the other through shared memory,
// since the columns of the one are what the other sums over; a warp reads its own alone. Rows are padded by 16 bytes, which makes their pieces odd in number: eight
// neighbouring rows lie in different banks. Rows of weights are padded by 32 bytes, so that four of them by eight columns fill the banks.
#pragma once

#include <cstdint>

#include "flash.cuh"

namespace deem {

/// Sizes for heads of D numbers: R rows to a lane, COLS columns at a time. Twice the rows would halve the loads of columns, but leave every second multiprocessor idle
/// where heads are few, and too few registers for a second block; more columns for large heads would leave no shared memory for one.
template <int D, int COLS_> struct FfmaTile {
    static constexpr int R = 4, COLS = COLS_;
    static constexpr int LD = D + 4, WEIGHTS_LD = COLS + 8; // numbers between rows
    static constexpr int OF_WARP = 4 * R, ROWS = FLASH_WARPS * OF_WARP;
    static constexpr int EACH = COLS / 8, SUMS = D / 8; // columns and sums of a lane for each of its rows
    static constexpr int VECTOR = SUMS % 4 == 0 ? 4 : SUMS % 2 == 0 ? 2 : 1; // neighbouring sums
    static_assert(COLS % 8 == 0 && D % 8 == 0, "whole sums");
};

template <int D> struct FfmaForward : FfmaTile<D, D <= 80 ? 64 : 32> {
    using Tile = FfmaTile<D, D <= 80 ? 64 : 32>;
    static constexpr int SHARED_BYTES = ((Tile::ROWS + 2 * Tile::COLS) * Tile::LD + Tile::ROWS * Tile::WEIGHTS_LD) * 4;
};

template <int D> struct FfmaBackward : FfmaTile<D, D <= 40 ? 64 : 32> {
    using Tile = FfmaTile<D, D <= 40 ? 64 : 32>;
    static constexpr int SHARED_BYTES = (2 * (Tile::ROWS + Tile::COLS) * Tile::LD + Tile::ROWS * Tile::WEIGHTS_LD + 2 * Tile::COLS) * 4;
};

template <int N> struct FloatVector;
template <> struct FloatVector<1> { using Type = float; };
template <> struct FloatVector<2> { using Type = float2; };
template <> struct FloatVector<4> { using Type = float4; };

/// sums[i][j] = row 4 i of `a` by row 8 j of `b`. Both point at this lane's first row.
template <int D, int R, int EACH> __device__ __forceinline__ void ffma_rows(float (&sums)[R][EACH], const float *a, const float *b) {
    constexpr int LD = D + 4;
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) sums[i][j] = 0.f;
#pragma unroll 2
    for (int d = 0; d < D; d += 4) {
        float4 x[R];
#pragma unroll
        for (int i = 0; i < R; ++i) x[i] = *reinterpret_cast<const float4 *>(a + i * 4 * LD + d);
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const float4 y = *reinterpret_cast<const float4 *>(b + j * 8 * LD + d);
#pragma unroll
            for (int i = 0; i < R; ++i) sums[i][j] = fmaf(x[i].x, y.x, sums[i][j]);
#pragma unroll
            for (int i = 0; i < R; ++i) sums[i][j] = fmaf(x[i].y, y.y, sums[i][j]);
#pragma unroll
            for (int i = 0; i < R; ++i) sums[i][j] = fmaf(x[i].z, y.z, sums[i][j]);
#pragma unroll
            for (int i = 0; i < R; ++i) sums[i][j] = fmaf(x[i].w, y.w, sums[i][j]);
        }
    }
}

/// sums += weights by rows of `b`. `weights` points at this lane's first row, `b` at its first column.
template <class Tile> __device__ __forceinline__ void ffma_weights(float (&sums)[Tile::R][Tile::SUMS], const float *weights, const float *b) {
    constexpr int R = Tile::R;
    using Vector = typename FloatVector<Tile::VECTOR>::Type;
#pragma unroll 1
    for (int col = 0; col < Tile::COLS; col += 4) {
        float x[R][4], y[Tile::SUMS];
#pragma unroll
        for (int i = 0; i < R; ++i) *reinterpret_cast<float4 *>(x[i]) = *reinterpret_cast<const float4 *>(weights + i * 4 * Tile::WEIGHTS_LD + col);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
            for (int n = 0; n < Tile::SUMS; n += Tile::VECTOR)
                *reinterpret_cast<Vector *>(y + n) = *reinterpret_cast<const Vector *>(b + (col + e) * Tile::LD + n * 8);
#pragma unroll
            for (int n = 0; n < Tile::SUMS; ++n)
#pragma unroll
                for (int i = 0; i < R; ++i) sums[i][n] = fmaf(x[i][e], y[n], sums[i][n]);
        }
    }
}

/// A lane's part of the weights for `ffma_weights`, to where its warp reads them.
template <class Tile> __device__ __forceinline__ void put_weights(float *to, const float (&weights)[Tile::R][Tile::EACH]) {
    __syncwarp(); // the last ones have been read
#pragma unroll
    for (int i = 0; i < Tile::R; ++i)
#pragma unroll
        for (int j = 0; j < Tile::EACH; ++j) to[i * 4 * Tile::WEIGHTS_LD + j * 8] = weights[i][j];
    __syncwarp();
}

/// A lane's sums of a row, times `factor`, to its first column of it in global memory.
template <int D> __device__ __forceinline__ void store_sums(float *to, const float (&sums)[D / 8], float factor) {
    constexpr int VECTOR = FfmaTile<D, 32>::VECTOR;
    using Vector = typename FloatVector<VECTOR>::Type;
#pragma unroll
    for (int n = 0; n < D / 8; n += VECTOR) {
        float y[VECTOR];
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) y[k] = sums[n + k] * factor;
        *reinterpret_cast<Vector *>(to + n * 8) = *reinterpret_cast<const Vector *>(y);
    }
}

/// Begins the copies of a tile of ROWS rows of f32, as `RowCopy` of twice as many 16-bit numbers. `to`, `from`: the tile's first row.
template <int D, int ROWS> __device__ __forceinline__ void copy_lines(uint32_t to, const float *from, int64_t stride, int rows) {
    const RowCopy<2 * D> copier(threadIdx.x);
    static_assert(Head<2 * D>::ROW == (D + 4) * 4, "rows lie as their copies say");
    from += copier.row * stride + copier.piece * 4;
    copier.template copy<ROWS>(to + copier.place(), reinterpret_cast<const uint16_t *>(from), stride * 2, rows);
}

// ---------------------------------------------------------------- forward

template <int D> __device__ __forceinline__ void ffma_forward(const DeemAttentionForward &p) {
    using Shape = FfmaForward<D>;
    constexpr int R = Shape::R, KEYS = Shape::COLS, EACH = Shape::EACH, LD = Shape::LD, ROWS = Shape::ROWS;
    extern __shared__ __align__(128) uint8_t shared[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = lane / 8, column = lane % 8, s = static_cast<int>(p.s), t = static_cast<int>(p.t);
    // The last queries see the most keys: they begin first.
    const int t0 = (static_cast<int>(gridDim.x) - 1 - block_x()) * ROWS, t_last = t0 + ROWS < t ? t0 + ROWS - 1 : t - 1, row = t0 + warp * Shape::OF_WARP + group;
    const int n = block_y(), kv = n / (p.heads / p.kv_heads);
    const int64_t b = block_z(), q_stride = static_cast<int64_t>(p.heads) * D, kv_stride = static_cast<int64_t>(p.kv_heads) * D;
    const int rounds = (open_keys(p, t_last) + KEYS - 1) / KEYS, open_rounds = p.keys ? 0 : open_keys(p, t0) / KEYS;
    float *const q_tile = reinterpret_cast<float *>(shared), *const k_tile = q_tile + ROWS * LD, *const v_tile = k_tile + KEYS * LD;
    float *const weights = v_tile + KEYS * LD + (warp * Shape::OF_WARP + group) * Shape::WEIGHTS_LD;
    const float *const k = static_cast<const float *>(p.k) + key_at(p, b, 0, kv), *const v = static_cast<const float *>(p.v) + key_at(p, b, 0, kv);
    copy_lines<D, ROWS>(shared_address(q_tile), static_cast<const float *>(p.q) + query_at(p, b, t0, n), q_stride, t - t0);
    copy_lines<D, KEYS>(shared_address(k_tile), k, kv_stride, s);
    copy_commit();

    const float factor = p.scale * LOG2_E;
    float sums[R][D / 8] = {}, max[R], total[R] = {}; // totals of this lane's columns
    for (float &largest : max) largest = -INFINITY;
#pragma unroll 1
    for (int j = 0; j < rounds; ++j) {
        copy_wait<0>();
        __syncthreads(); // the keys are there, and nobody reads the last values any more
        copy_lines<D, KEYS>(shared_address(v_tile), v + j * KEYS * kv_stride, kv_stride, s - j * KEYS);
        copy_commit();
        float scores[R][EACH];
        ffma_rows<D, R, EACH>(scores, q_tile + (warp * Shape::OF_WARP + group) * LD, k_tile + column * LD);
        if (j >= open_rounds) {
            const int key = j * KEYS + column;
#pragma unroll
            for (int c = 0; c < EACH; ++c) {
                const bool padded = p.keys && key + c * 8 < s && is_padded(p, b, key + c * 8);
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    if (padded || key + c * 8 >= open_keys(p, row + i * 4)) scores[i][c] = -INFINITY;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < R; ++i) {
            float largest = max[i];
#pragma unroll
            for (int c = 0; c < EACH; ++c) largest = fmaxf(largest, scores[i][c]);
#pragma unroll
            for (int step = 1; step < 8; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
            // Nothing seen yet: any finite number will do.
            const float shift = largest == -INFINITY ? 0.f : -largest * factor;
            const float rescale = exp2_approximate(fmaf(max[i], factor, shift));
            max[i] = largest;
            total[i] *= rescale;
#pragma unroll
            for (int c = 0; c < EACH; ++c) {
                scores[i][c] = exp2_approximate(fmaf(scores[i][c], factor, shift));
                total[i] += scores[i][c];
            }
#pragma unroll
            for (float &sum : sums[i]) sum *= rescale;
        }
        put_weights<Shape>(weights + column, scores);
        copy_wait<0>();
        __syncthreads(); // the values are there, and nobody reads the keys any more
        if (j + 1 < rounds) copy_lines<D, KEYS>(shared_address(k_tile), k + (j + 1) * KEYS * kv_stride, kv_stride, s - (j + 1) * KEYS);
        copy_commit();
        ffma_weights<Shape>(sums, weights, v_tile + column * Shape::VECTOR);
    }
    copy_wait<0>();

    uint32_t masked = 0;
#pragma unroll
    for (int i = 0; i < R; ++i) {
        float sum = total[i];
#pragma unroll
        for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (row + i * 4 >= t) continue;
        if (sum == 0.f) masked |= 1u << (group + i * 4);
        if (column == i) static_cast<float *>(p.lse)[(b * p.heads + n) * p.t + row + i * 4] = sum > 0.f ? fmaf(max[i], p.scale, logf(sum)) : LOWEST;
        store_sums<D>(static_cast<float *>(p.out) + query_at(p, b, row + i * 4, n) + column * Shape::VECTOR, sums[i], sum > 0.f ? 1.f / sum : 0.f);
    }
    masked = __reduce_or_sync(0xffffffffu, masked);
    if (masked != 0) {
        __syncwarp();
        mean_rows<F32>(p, b, n, t0 + warp * Shape::OF_WARP, masked);
    }
}

// ---------------------------------------------------------------- backward

/// A block owns rows: keys, whose two gradients it makes (KEY_ROWS), or queries. Products and masks as in flash_backward.cuh.
template <int D, bool KEY_ROWS> __device__ __forceinline__ void ffma_backward(const DeemAttentionBackward &p) {
    using Shape = FfmaBackward<D>;
    constexpr int R = Shape::R, COLS = Shape::COLS, EACH = Shape::EACH, LD = Shape::LD, ROWS = Shape::ROWS;
    extern __shared__ __align__(128) uint8_t shared[];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, lane_group = lane / 8, column = lane % 8;
    const int s = static_cast<int>(p.s), t = static_cast<int>(p.t), causal = static_cast<int>(p.causal), group = p.heads / p.kv_heads;
    const int row0 = block_x() * ROWS, rows = KEY_ROWS ? s : t, columns = KEY_ROWS ? t : s, heads = KEY_ROWS ? group : 1;
    const int n0 = KEY_ROWS ? block_y() * group : block_y(), kv = KEY_ROWS ? block_y() : block_y() / group;
    const int64_t b = block_z(), q_stride = static_cast<int64_t>(p.heads) * D, k_stride = static_cast<int64_t>(p.kv_heads) * D;
    const int64_t row_stride = KEY_ROWS ? k_stride : q_stride, column_stride = KEY_ROWS ? q_stride : k_stride;
    // The rounds of a head, and which of them have no mask. With a key mask all have one, since a query may take the mean of all keys.
    int begin = 0, end = (columns + COLS - 1) / COLS, open_begin = end, open_end = end;
    if (!p.keys && KEY_ROWS) {
        begin = causal >= 0 && row0 > causal ? (row0 - causal) / COLS : 0;
        begin = row0 >= s || begin > end ? end : begin;
        open_begin = causal >= 0 && row0 + ROWS - 1 > causal ? (row0 + ROWS - 1 - causal + COLS - 1) / COLS : 0;
    } else if (!p.keys) {
        end = (open_keys(p, row0 + ROWS < t ? row0 + ROWS - 1 : t - 1) + COLS - 1) / COLS;
        open_begin = 0;
        open_end = open_keys(p, row0) / COLS;
    }

    float *const x_tile = reinterpret_cast<float *>(shared), *const u_tile = x_tile + ROWS * LD, *const y_tile = u_tile + ROWS * LD, *const w_tile = y_tile + COLS * LD;
    float *const column_lse = w_tile + COLS * LD, *const column_delta = column_lse + COLS;
    float *const weights = column_delta + COLS + (warp * Shape::OF_WARP + lane_group) * Shape::WEIGHTS_LD;
    const auto column_at = [&](int head, int j) { return KEY_ROWS ? query_at(p, b, j * COLS, n0 + head) : key_at(p, b, j * COLS, kv); };
    const auto fetch_y = [&](int head, int j) {
        copy_lines<D, COLS>(shared_address(y_tile), static_cast<const float *>(KEY_ROWS ? p.q : p.k) + column_at(head, j), column_stride, columns - j * COLS);
        copy_commit();
    };
    // With the columns' lse and delta, which are read as long.
    const auto fetch_w = [&](int head, int j) {
        const int left = columns - j * COLS;
        copy_lines<D, COLS>(shared_address(w_tile), static_cast<const float *>(KEY_ROWS ? p.d_out : p.v) + column_at(head, j), column_stride, left);
        if (KEY_ROWS && threadIdx.x < 2 * COLS) {
            const int at = threadIdx.x % COLS;
            const float *from = static_cast<const float *>(threadIdx.x < COLS ? p.lse : p.delta) + (b * p.heads + n0 + head) * p.t + j * COLS + at;
            copy_async_4(shared_address(column_lse + threadIdx.x), from, at < left ? 4 : 0);
        }
        copy_commit();
    };
    const int first = row0 + warp * Shape::OF_WARP + lane_group;
    float lse[R], delta[R]; // of this lane's rows, if they are queries
    {
        const int64_t at = KEY_ROWS ? key_at(p, b, row0, kv) : query_at(p, b, row0, n0);
        copy_lines<D, ROWS>(shared_address(x_tile), static_cast<const float *>(KEY_ROWS ? p.k : p.q) + at, row_stride, rows - row0);
        copy_lines<D, ROWS>(shared_address(u_tile), static_cast<const float *>(KEY_ROWS ? p.v : p.d_out) + at, row_stride, rows - row0);
        copy_commit();
        if (begin < end) {
            fetch_w(0, begin);
            fetch_y(0, begin);
        }
        for (int i = 0; i < R; ++i) {
            const int64_t line = (b * p.heads + n0) * p.t + first + i * 4;
            lse[i] = !KEY_ROWS && first + i * 4 < rows ? static_cast<const float *>(p.lse)[line] : 0.f;
            delta[i] = !KEY_ROWS && first + i * 4 < rows ? static_cast<const float *>(p.delta)[line] : 0.f;
        }
    }

    const float factor = p.scale * LOG2_E;
    float scores_sum[R][D / 8] = {}, probs_sum[R][D / 8] = {};
#pragma unroll 1
    for (int head = 0; head < heads; ++head) {
#pragma unroll 1
        for (int j = begin; j < end; ++j) {
            const bool masked = j < open_begin || j >= open_end, more = j + 1 < end || head + 1 < heads;
            const int next_head = j + 1 < end ? head : head + 1, next = j + 1 < end ? j + 1 : begin;
            copy_wait<0>();
            __syncthreads(); // the tiles are there
            float probs[R][EACH], grads[R][EACH];
            ffma_rows<D, R, EACH>(probs, x_tile + (warp * Shape::OF_WARP + lane_group) * LD, y_tile + column * LD);
            ffma_rows<D, R, EACH>(grads, u_tile + (warp * Shape::OF_WARP + lane_group) * LD, w_tile + column * LD);
#pragma unroll
            for (int c = 0; c < EACH; ++c) {
                const int at = j * COLS + column + c * 8;
                const float lse_here = KEY_ROWS ? column_lse[column + c * 8] : 0.f, delta_here = KEY_ROWS ? column_delta[column + c * 8] : 0.f;
#pragma unroll
                for (int i = 0; i < R; ++i) {
                    const float l = KEY_ROWS ? lse_here : lse[i], d = KEY_ROWS ? delta_here : delta[i];
                    float prob = exp2_approximate(fmaf(probs[i][c], factor, -l * LOG2_E)), share = 1.f;
                    if (masked) {
                        const int row = first + i * 4, key = KEY_ROWS ? row : at, query = KEY_ROWS ? at : row;
                        const bool later = causal >= 0 && key - causal > query, hidden = key < s && is_padded(p, b, key);
                        if (p.keys && l == LOWEST) { // see src/ops/attention.rs
                            prob = 1.f / static_cast<float>(s);
                            share = later && hidden ? 0.f : 0.5f;
                        } else if (later || hidden) {
                            prob = 0.f;
                        }
                        if (key >= s) prob = 0.f;
                    }
                    probs[i][c] = prob;
                    grads[i][c] = share * prob * (grads[i][c] - d);
                }
            }
            if constexpr (KEY_ROWS) {
                put_weights<Shape>(weights + column, probs);
                ffma_weights<Shape>(probs_sum, weights, w_tile + column * Shape::VECTOR);
            }
            put_weights<Shape>(weights + column, grads);
            __syncthreads(); // nobody reads the second tile any more
            if (more) fetch_w(next_head, next);
            ffma_weights<Shape>(scores_sum, weights, y_tile + column * Shape::VECTOR);
            __syncthreads(); // nor the first
            if (more) fetch_y(next_head, next);
        }
    }
    copy_wait<0>();

    const int stored = static_cast<int>(KEY_ROWS ? p.capacity : p.t);
#pragma unroll
    for (int i = 0; i < R; ++i) {
        const int row = first + i * 4;
        if (row >= stored) continue;
        const int64_t at = (KEY_ROWS ? key_at(p, b, row, kv) : query_at(p, b, row, n0)) + column * Shape::VECTOR;
        // Rows behind the last key have read zeros; what they summed is not theirs. The only key has weight 1 whatever its score is.
        const float exists = KEY_ROWS && row >= s ? 0.f : 1.f, scale = p.s == 1 ? 0.f : p.scale;
        store_sums<D>(static_cast<float *>(KEY_ROWS ? p.dk : p.dq) + at, scores_sum[i], exists * scale);
        if constexpr (KEY_ROWS) store_sums<D>(static_cast<float *>(p.dv) + at, probs_sum[i], exists);
    }
}

} // namespace deem

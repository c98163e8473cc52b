// Dropout: y = residual + x keep / (1 - rate). Contract: src/ops/dropout.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | dropout_* | any | a thread per four columns of a row: one call of the generator, whose counter is the thread's index |
#include "../ffi/dropout.h"
#include "common/philox.cuh"
#include "common/pointwise.cuh"

template <typename T>
__device__ __forceinline__ void dropout(const DeemDropout &p) {
    const T *x = static_cast<const T *>(p.x), *residual = static_cast<const T *>(p.residual);
    T *y = static_cast<T *>(p.y);
    int64_t fours = (int64_t(p.cols) + 3) / 4;
    bool packs = p.cols % 4 == 0 && aligned(x, residual, y);
    each_index(p.rows * fours, [&](int64_t i) {
        Words words = philox({{uint32_t(i), uint32_t(uint64_t(i) >> 32), p.tensor[0], p.tensor[1]}}, p.key[0], p.key[1]);
        auto one = [&](int k, float x, float residual) { return narrow<T>((words.x[k] < p.threshold ? 0.0f : x * p.factor) + residual); };
        if (packs) {
            Pack<T, 4> in = load_pack<T, 4>(x + i * 4), before, out;
            if (residual) before = load_pack<T, 4>(residual + i * 4);
#pragma unroll
            for (int k = 0; k < 4; k++) out.x[k] = one(k, widen(in.x[k]), residual ? widen(before.x[k]) : 0.0f);
            store_pack(y + i * 4, out);
            return;
        }
        int64_t row = i / fours, column = (i - row * fours) * 4;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (column + k >= p.cols) break;
            int64_t at = row * p.cols + column + k;
            y[at] = one(k, widen(x[at]), residual ? widen(residual[at]) : 0.0f);
        }
    });
}

DEEM_KERNELS(dropout, DeemDropout, dropout)

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
    each_index(p.rows * fours, [&](int64_t i) {
        Words words = philox({{uint32_t(i), uint32_t(uint64_t(i) >> 32), p.tensor[0], p.tensor[1]}}, p.key[0], p.key[1]);
        int64_t row = i / fours, column = (i - row * fours) * 4;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (column + k >= p.cols) break;
            int64_t at = row * p.cols + column + k;
            float kept = words.x[k] < p.threshold ? 0.0f : widen(x[at]) * p.factor;
            y[at] = narrow<T>(residual ? kept + widen(residual[at]) : kept);
        }
    });
}

DEEM_KERNELS(dropout, DeemDropout, dropout)

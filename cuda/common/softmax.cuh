// ln sum exp of a row, for the threads of the row (see reduce.cuh).
#pragma once

#include "rows.cuh"

// ln sum exp(x) = max + ln. Kept apart, so that x - max - ln loses nothing when max is large.
struct LogSumExp {
    float max, ln;
};

template <typename T>
__device__ __forceinline__ LogSumExp log_sum_exp(const T *x, int cols) {
    float max = Max::neutral, sum = 0.0f;
    row_each(x, cols, [&](int, float x) { max = fmaxf(max, x); });
    max = row_max(max);
    // A row of -inf has no finite maximum to subtract.
    if (!isfinite(max)) max = 0.0f;
    row_each(x, cols, [&](int, float x) { sum += expf(x - max); });
    return {max, logf(row_sum(sum))};
}

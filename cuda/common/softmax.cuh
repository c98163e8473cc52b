// ln sum exp of a row, for the threads of the row (see reduce.cuh).
#pragma once

#include "rows.cuh"

// ln sum exp(x) = max + ln. Kept apart, so that x - max - ln loses nothing when max is large.
struct LogSumExp {
    float max, ln;
};

// One pass: a thread's sum is of powers relative to the largest that it has met (Milakov and Gimelshein, arXiv 1805.02867).
template <typename T, int N>
__device__ __forceinline__ LogSumExp log_sum_exp(const Row<T, 1, N> &row) {
    // A row of -inf, or one with inf, has no finite maximum to subtract.
    auto finite = [](float max) { return isfinite(max) ? max : 0.0f; };
    float mine = Max::neutral, sum = 0.0f;
    row.each_pack([&](const auto &x) {
        constexpr int COUNT = sizeof(x) / sizeof(x[0]);
        float max = mine;
#pragma unroll
        for (int k = 0; k < COUNT; k++) max = fmaxf(max, x[k]);
        sum *= expf(finite(mine) - finite(max));
        mine = max;
#pragma unroll
        for (int k = 0; k < COUNT; k++) sum += expf(x[k] - finite(mine));
    });
    float max = finite(row_max(mine));
    // A sum of nothing stays 0, however far the maximum is.
    return {max, logf(row_sum(sum * expf(finite(mine) - max)))};
}

// Layer normalisation of rows: y = (x - mean) rstd weight + bias. Formulas and source: src/ops/layernorm.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | layernorm_* | any rows and columns | a warp per row up to 1024 columns, else a block; a row is read again from the cache for each of its sums |
//
// Statistics are two passes: the variance is a sum of squares of deviations. Gradients of weight and bias are sums over slices of rows, which
// reduce_slices adds up in order: two launches, no atomics.
#include "../ffi/layernorm.h"
#include "common/rows.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemLayernormForward &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.x) + row * p.cols;
    const T *weight = static_cast<const T *>(p.weight), *bias = static_cast<const T *>(p.bias);
    T *y = static_cast<T *>(p.y) + row * p.cols;
    float inverse = 1.0f / p.cols, sum = 0.0f, squares = 0.0f;
    row_each(x, p.cols, [&](int, float x) { sum += x; });
    float mean = row_sum(sum) * inverse;
    row_each(x, p.cols, [&](int, float x) { squares += (x - mean) * (x - mean); });
    float rstd = 1.0f / sqrtf(row_sum(squares) * inverse + p.eps);
    if (threadIdx.x == 0) {
        float *stats = static_cast<float *>(p.stats) + 2 * row;
        stats[0] = mean;
        stats[1] = rstd;
    }
    row_map(x, y, p.cols, [&](int c, float x) {
        float n = (x - mean) * rstd;
        if (weight) n *= widen(weight[c]);
        return bias ? n + widen(bias[c]) : n;
    });
}

template <typename T>
__device__ __forceinline__ void backward_input(const DeemLayernormBackwardInput &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.x) + row * p.cols;
    const T *dy = static_cast<const T *>(p.dy) + row * p.cols;
    const T *weight = static_cast<const T *>(p.weight);
    T *dx = static_cast<T *>(p.dx) + row * p.cols;
    const float *stats = static_cast<const float *>(p.stats) + 2 * row;
    float mean = stats[0], rstd = stats[1], inverse = 1.0f / p.cols, first = 0.0f, second = 0.0f;
    row_each(x, dy, p.cols, [&](int c, float x, float dy) {
        float g = weight ? dy * widen(weight[c]) : dy;
        first += g;
        second += g * ((x - mean) * rstd);
    });
    first = row_sum(first) * inverse;
    second = row_sum(second) * inverse;
    row_map(x, dy, dx, p.cols, [&](int c, float x, float dy) {
        float g = weight ? dy * widen(weight[c]) : dy;
        return rstd * (g - first - (x - mean) * rstd * second);
    });
}

template <typename T>
__device__ __forceinline__ void backward_weight(const DeemLayernormBackwardWeight &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    const float *stats = static_cast<const float *>(p.stats);
    float *const out[2] = {static_cast<float *>(p.partial_dw), static_cast<float *>(p.partial_db)};
    slice_sums(p.rows, p.rows_per_slice, p.cols, out, [&](int64_t row, int column, float(&sums)[2]) {
        float d = widen(dy[row * p.cols + column]);
        sums[0] += d * ((widen(x[row * p.cols + column]) - stats[2 * row]) * stats[2 * row + 1]);
        sums[1] += d;
    });
}

DEEM_KERNELS(layernorm_forward, DeemLayernormForward, forward)
DEEM_KERNELS(layernorm_backward_input, DeemLayernormBackwardInput, backward_input)
DEEM_KERNELS(layernorm_backward_weight, DeemLayernormBackwardWeight, backward_weight)

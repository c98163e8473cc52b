// Layer normalisation of rows: y = (x - mean) rstd weight + bias. Formulas and source: src/ops/layernorm.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | layernorm_* | any rows and columns | a warp per row up to 1024 columns, else a block; a row is read once into registers (up to 8192 columns) for all of its sums |
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
    const T *const parameters[2] = {weight, bias};
    Row<T, 1> values({x}, {weight, bias, y}, p.cols);
    values.each([&](int, const float (&v)[2]) { sum += v[0]; });
    float mean = row_sum(sum) * inverse;
    values.each([&](int, const float (&v)[2]) { squares += (v[0] - mean) * (v[0] - mean); });
    float rstd = 1.0f / sqrtf(row_sum(squares) * inverse + p.eps);
    if (threadIdx.x == 0) {
        float *stats = static_cast<float *>(p.stats) + 2 * row;
        stats[0] = mean;
        stats[1] = rstd;
    }
    values.map(parameters, y, [&](int, const float (&v)[3]) {
        float n = (v[0] - mean) * rstd;
        return (weight ? n * v[1] : n) + v[2];
    });
}

template <typename T>
__device__ __forceinline__ void backward_input(const DeemLayernormBackwardInput &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.x) + row * p.cols;
    const T *dy = static_cast<const T *>(p.dy) + row * p.cols;
    const T *weight = static_cast<const T *>(p.weight);
    const T *residual = p.residual ? static_cast<const T *>(p.residual) + row * p.cols : nullptr;
    T *dx = static_cast<T *>(p.dx) + row * p.cols;
    const float *stats = static_cast<const float *>(p.stats) + 2 * row;
    float mean = stats[0], rstd = stats[1], inverse = 1.0f / p.cols, first = 0.0f, second = 0.0f;
    const T *const parameters[1] = {weight}, *const beside[2] = {weight, residual};
    Row<T, 2> values({x, dy}, {weight, residual, dx}, p.cols);
    values.each(parameters, [&](int, const float (&v)[3]) {
        float g = weight ? v[1] * v[2] : v[1];
        first += g;
        second += g * ((v[0] - mean) * rstd);
    });
    first = row_sum(first) * inverse;
    second = row_sum(second) * inverse;
    values.map(beside, dx, [&](int, const float (&v)[4]) {
        float g = weight ? v[1] * v[2] : v[1];
        return rstd * (g - first - (v[0] - mean) * rstd * second) + v[3];
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

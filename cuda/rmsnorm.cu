// Root-mean-square normalisation of rows: y = x rstd weight. Formulas and source: src/ops/rmsnorm.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | rmsnorm_* | any rows and columns | a warp per row up to 1024 columns, else a block; a row is read once into registers (up to 8192 columns) |
#include "../ffi/rmsnorm.h"
#include "common/rows.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemRmsnormForward &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.x) + row * p.cols, *weight = static_cast<const T *>(p.weight);
    T *y = static_cast<T *>(p.y) + row * p.cols;
    float squares = 0.0f;
    const T *const parameters[1] = {weight};
    Row<T, 1> values({x}, {weight, y}, p.cols);
    values.each([&](int, const float (&v)[2]) { squares += v[0] * v[0]; });
    float rstd = 1.0f / sqrtf(row_sum(squares) * (1.0f / p.cols) + p.eps);
    if (threadIdx.x == 0) static_cast<float *>(p.rstd)[row] = rstd;
    values.map(parameters, y, [&](int, const float (&v)[2]) { return v[0] * rstd * v[1]; });
}

template <typename T>
__device__ __forceinline__ void backward_input(const DeemRmsnormBackwardInput &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.x) + row * p.cols, *dy = static_cast<const T *>(p.dy) + row * p.cols;
    const T *weight = static_cast<const T *>(p.weight);
    const T *residual = p.residual ? static_cast<const T *>(p.residual) + row * p.cols : nullptr;
    T *dx = static_cast<T *>(p.dx) + row * p.cols;
    float rstd = static_cast<const float *>(p.rstd)[row], sum = 0.0f;
    const T *const parameters[1] = {weight}, *const beside[2] = {weight, residual};
    Row<T, 2> values({x, dy}, {weight, residual, dx}, p.cols);
    values.each(parameters, [&](int, const float (&v)[3]) { sum += v[1] * v[2] * (v[0] * rstd); });
    float mean = row_sum(sum) * (1.0f / p.cols);
    values.map(beside, dx, [&](int, const float (&v)[4]) { return rstd * (v[1] * v[2] - v[0] * rstd * mean) + v[3]; });
}

template <typename T>
__device__ __forceinline__ void backward_weight(const DeemRmsnormBackwardWeight &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    const float *rstd = static_cast<const float *>(p.rstd);
    float *const out[1] = {static_cast<float *>(p.partial)};
    slice_sums(p.rows, p.rows_per_slice, p.cols, out, [&](int64_t row, int column, float(&sums)[1]) {
        sums[0] += widen(dy[row * p.cols + column]) * (widen(x[row * p.cols + column]) * rstd[row]);
    });
}

DEEM_KERNELS(rmsnorm_forward, DeemRmsnormForward, forward)
DEEM_KERNELS(rmsnorm_backward_input, DeemRmsnormBackwardInput, backward_input)
DEEM_KERNELS(rmsnorm_backward_weight, DeemRmsnormBackwardWeight, backward_weight)

// Folding a norm into the linear layer that reads it. Formulas: src/ops/fold.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | fold_* | any | forward: a row of threads per output; gradients of the norm: sums over slices of rows |
#include "../ffi/fold.h"
#include "common/rows.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemFoldForward &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *gamma = static_cast<const T *>(p.gamma), *beta = static_cast<const T *>(p.beta);
    float sum = 0.0f;
    T *to_weight = static_cast<T *>(p.to_weight) + row * p.cols;
    const T *const parameters[2] = {gamma, beta};
    Row<T, 1> weights({static_cast<const T *>(p.weight) + row * p.cols}, {gamma, beta, to_weight}, p.cols);
    weights.map(parameters, to_weight, [&](int, const float (&v)[3]) {
        sum += v[0] * v[2];
        return v[0] * v[1];
    });
    sum = row_sum(sum);
    if (threadIdx.x == 0) static_cast<T *>(p.to_bias)[row] = narrow<T>(widen(static_cast<const T *>(p.bias)[row]) + sum);
}

template <typename T>
__device__ __forceinline__ void backward_weight(const DeemFoldBackwardWeight &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *gamma = static_cast<const T *>(p.gamma), *beta = static_cast<const T *>(p.beta);
    const float *d_weight = static_cast<const float *>(p.d_weight) + row * p.cols;
    float d_bias = static_cast<const float *>(p.d_bias)[row];
    if (p.to_weight) {
        float *to = static_cast<float *>(p.to_weight) + row * p.cols;
        const T *const parameters[2] = {gamma, beta};
        Row<float, 2> gradients({d_weight, to}, {gamma, beta}, p.cols, sizeof(T) != sizeof(float));
        gradients.map(parameters, to, [&](int, const float (&v)[4]) { return v[1] + v[0] * v[2] + d_bias * v[3]; });
    }
    if (p.to_bias && threadIdx.x == 0) static_cast<float *>(p.to_bias)[row] += d_bias;
}

template <typename T>
__device__ __forceinline__ void backward_norm(const DeemFoldBackwardNorm &p) {
    const T *weight = static_cast<const T *>(p.weight);
    const float *d_weight = static_cast<const float *>(p.d_weight), *d_bias = static_cast<const float *>(p.d_bias);
    float *const out[2] = {static_cast<float *>(p.partial_gamma), static_cast<float *>(p.partial_beta)};
    slice_sums(p.rows, p.rows_per_slice, p.cols, out, [&](int64_t row, int column, float(&sums)[2]) {
        float w = widen(weight[row * p.cols + column]);
        sums[0] += w * d_weight[row * p.cols + column];
        sums[1] += w * d_bias[row];
    });
}

DEEM_KERNELS(fold_forward, DeemFoldForward, forward)
DEEM_KERNELS(fold_backward_weight, DeemFoldBackwardWeight, backward_weight)
DEEM_KERNELS(fold_backward_norm, DeemFoldBackwardNorm, backward_norm)

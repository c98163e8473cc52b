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
    row_map(static_cast<const T *>(p.weight) + row * p.cols, static_cast<T *>(p.to_weight) + row * p.cols, p.cols, [&](int c, float w) {
        sum += w * widen(beta[c]);
        return w * widen(gamma[c]);
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
        row_map(d_weight, static_cast<const float *>(to), to, p.cols,
                [&](int c, float d, float to) { return to + d * widen(gamma[c]) + d_bias * widen(beta[c]); });
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

// Pointwise sums and scalings. Contract: src/ops/add.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | add_* | any | 16 bytes per thread and array where addresses and row length allow it |
#include "../ffi/add.h"
#include "common/pointwise.cuh"
#include "common/rows.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemAddForward &p) {
    map2(static_cast<const T *>(p.a), static_cast<const T *>(p.b), static_cast<T *>(p.y), p.n, [](float a, float b) { return a + b; });
}

template <typename T>
__device__ __forceinline__ void axpy(const DeemAddAxpy &p) {
    T *y = static_cast<T *>(p.y);
    map2(static_cast<const T *>(p.x), static_cast<const T *>(y), y, p.n, [&](float x, float y) { return y + p.alpha * x; });
}

template <typename T>
__device__ __forceinline__ void scale(const DeemAddScale &p) {
    map1(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, [&](float x) { return p.alpha * x; });
}

template <typename T>
__device__ __forceinline__ void channels(const DeemAddChannels &p) {
    const T *v = static_cast<const T *>(p.v);
    map_matrix(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, p.cols, [&](float x, int64_t column, int64_t) {
        return p.product ? widen(v[column]) * x : widen(v[column]) + x;
    });
}

template <typename T>
__device__ __forceinline__ void mask_rows(const DeemAddMaskRows &p) {
    const float *keep = static_cast<const float *>(p.keep);
    map_matrix(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, p.cols,
               [&](float x, int64_t, int64_t row) { return keep[row] * x; });
}

template <typename T>
__device__ __forceinline__ void gamma_gradient(const DeemAddGammaGradient &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    float *const out[1] = {static_cast<float *>(p.partial)};
    slice_sums(p.rows, p.rows_per_slice, p.cols, out, [&](int64_t row, int column, float(&sums)[1]) {
        sums[0] += widen(x[row * p.cols + column]) * widen(dy[row * p.cols + column]);
    });
}

template <typename T>
__device__ __forceinline__ void dot(const DeemAddDot &p) {
    const T *a = static_cast<const T *>(p.a), *b = static_cast<const T *>(p.b);
    double sum = 0.0;
    each_index(p.n, [&](int64_t i) { sum += double(widen(a[i])) * double(widen(b[i])); });
    sum = block_sum(sum);
    if (threadIdx.x == 0) static_cast<double *>(p.partial)[blockIdx.x] = sum;
}

DEEM_KERNELS(add_forward, DeemAddForward, forward)
DEEM_KERNELS(add_axpy, DeemAddAxpy, axpy)
DEEM_KERNELS(add_scale, DeemAddScale, scale)
DEEM_KERNELS(add_channels, DeemAddChannels, channels)
DEEM_KERNELS(add_mask_rows, DeemAddMaskRows, mask_rows)
DEEM_KERNELS(add_gamma_gradient, DeemAddGammaGradient, gamma_gradient)
DEEM_KERNELS(add_dot, DeemAddDot, dot)

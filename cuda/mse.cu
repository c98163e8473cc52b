// Mean squared error with a factor per pixel. Formulas: src/ops/mse.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | mse_* | any | terms in f32, their sum in f64: by blocks, then in order |
#include "../ffi/mse.h"
#include "common/pointwise.cuh"
#include "common/reduce.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemMseForward &p) {
    const T *pred = static_cast<const T *>(p.pred), *target = static_cast<const T *>(p.target);
    const float *factor = static_cast<const float *>(p.factor);
    T *map = static_cast<T *>(p.map);
    double sum = 0.0;
    each_index(p.n, [&](int64_t i) {
        float d = widen(pred[i]) - widen(target[i]), term = d * d;
        if (factor) term *= factor[i / p.cols];
        if (map) map[i] = narrow<T>(term);
        sum += double(term);
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) static_cast<double *>(p.partial)[blockIdx.x] = sum;
}

template <typename T>
__device__ __forceinline__ void backward(const DeemMseBackward &p) {
    const float *factor = static_cast<const float *>(p.factor);
    map_matrix2(static_cast<const T *>(p.pred), static_cast<const T *>(p.target), static_cast<T *>(p.dpred), p.n, p.cols,
                [&](float pred, float target, int64_t, int64_t row) {
                    return (factor ? p.scale * factor[row] : p.scale) * (pred - target);
                });
}

DEEM_KERNELS(mse_forward, DeemMseForward, forward)
DEEM_KERNELS(mse_backward, DeemMseBackward, backward)

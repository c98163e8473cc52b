// AdamW with decoupled weight decay. Formulas and source: src/ops/adamw.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | adamw_* | any groups that do not overlap | one launch: blocks are parts of a group in x, groups in y; each number is read and written once |
#include "../ffi/adamw.h"
#include "common/numeric.cuh"

// What gradients are multiplied with: the factor, and what brings a norm beyond the largest one down to it. False if the norm is not finite.
__device__ __forceinline__ bool gradient_scale(const DeemAdamw &p, float &scale) {
    __shared__ float of_block;
    __shared__ bool finite;
    if (threadIdx.x == 0) {
        double factor = p.factor;
        finite = true;
        if (p.norm_squared) {
            double norm = sqrt(*static_cast<const double *>(p.norm_squared)) * p.factor;
            finite = isfinite(norm);
            if (p.largest > 0.0 && norm > p.largest) factor *= p.largest / (norm + 1e-6);
        }
        of_block = float(factor);
    }
    __syncthreads();
    scale = of_block;
    return finite;
}

template <typename T>
__device__ __forceinline__ void adamw(const DeemAdamw &p) {
    const DeemAdamwGroup group = static_cast<const DeemAdamwGroup *>(p.groups)[blockIdx.y];
    const float *grads = static_cast<const float *>(p.grads);
    float *m = static_cast<float *>(p.m), *v = static_cast<float *>(p.v);
    float *master = static_cast<float *>(p.master ? p.master : p.params);
    float scale;
    if (!gradient_scale(p, scale)) return;
    int64_t threads = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = group.start + int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < group.end; i += threads) {
        float g = grads[i] * scale;
        float first = p.beta1 * m[i] + p.other1 * g, second = p.beta2 * v[i] + p.other2 * (g * g);
        float next = group.keep * master[i] - group.rate * first / (sqrtf(second * p.second) + p.eps);
        m[i] = first;
        v[i] = second;
        master[i] = next;
        if (p.master) static_cast<T *>(p.params)[i] = narrow<T>(next);
    }
}

DEEM_KERNELS(adamw, DeemAdamw, adamw)

// Cross entropy of class scores, fused with softmax. Formulas: src/ops/cross_entropy.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | cross_entropy_* | any rows and classes | a warp per row up to 1024 classes, else a block; probabilities are computed again in the backward |
#include "../ffi/cross_entropy.h"
#include "common/softmax.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemCrossEntropyForward &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.logits) + row * p.cols;
    int target = static_cast<const int32_t *>(p.targets)[row];
    float lse = 0.0f, loss = 0.0f;
    if (target >= 0) {
        LogSumExp parts = log_sum_exp(Row<T, 1>({x}, {nullptr}, p.cols));
        lse = parts.max + parts.ln;
        loss = parts.max - widen(x[target]) + parts.ln;
    }
    if (threadIdx.x == 0) {
        static_cast<float *>(p.lse)[row] = lse;
        static_cast<double *>(p.losses)[row] = loss;
    }
}

template <typename T>
__device__ __forceinline__ void backward(const DeemCrossEntropyBackward &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    int target = static_cast<const int32_t *>(p.targets)[row];
    float lse = static_cast<const float *>(p.lse)[row];
    T *d = static_cast<T *>(p.d_logits) + row * p.cols;
    if (target < 0) {
        // Logits of ignored rows are not looked at: they may be anything.
        for (int c = threadIdx.x; c < p.cols; c += blockDim.x) d[c] = narrow<T>(0.0f);
        return;
    }
    Row<T, 1> logits({static_cast<const T *>(p.logits) + row * p.cols}, {d}, p.cols);
    logits.map(d, [&](int c, const float (&v)[2]) { return (expf(v[0] - lse) - (c == target ? 1.0f : 0.0f)) * p.scale; });
}

DEEM_KERNELS(cross_entropy_forward, DeemCrossEntropyForward, forward)
DEEM_KERNELS(cross_entropy_backward, DeemCrossEntropyBackward, backward)

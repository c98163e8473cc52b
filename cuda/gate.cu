// A learned gate: y = tanh(g) x. Formulas and source: src/ops/gate.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | gate_forward | any | the gate is read by every thread, from the cache; also the gradient of x |
// | gate_backward_gate | any | one block adds up the partial sums of add_dot in order |
#include "../ffi/gate.h"
#include "common/pointwise.cuh"
#include "common/reduce.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemGateForward &p) {
    float opening = tanhf(widen(*static_cast<const T *>(p.gate)));
    map1(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, [&](float x) { return opening * x; });
}

template <typename T>
__device__ __forceinline__ void backward_gate(const DeemGateBackwardGate &p) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) sum += static_cast<const double *>(p.partial)[i];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    float opening = tanhf(widen(*static_cast<const T *>(p.gate)));
    *static_cast<float *>(p.d_gate) += float(sum) * (1.0f - opening * opening);
}

DEEM_KERNELS(gate_forward, DeemGateForward, forward)
DEEM_KERNELS(gate_backward_gate, DeemGateBackwardGate, backward_gate)

// Activation functions, pointwise: y = act(x), dx = act'(x) dy. Formulas and sources: src/ops/activation.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | activation_* | any length | 16 bytes per thread and array where the addresses allow it; each kind has a loop of its own |
#include "common/activation.cuh"
#include "common/pointwise.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemActivationForward &p) {
    by_kind(p.kind, [&](auto kind) {
        map1(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, [](float x) { return activate<decltype(kind)::value>(x); });
    });
}

template <typename T>
__device__ __forceinline__ void backward(const DeemActivationBackward &p) {
    by_kind(p.kind, [&](auto kind) {
        map2(static_cast<const T *>(p.x), static_cast<const T *>(p.dy), static_cast<T *>(p.dx), p.n,
             [](float x, float dy) { return derivative<decltype(kind)::value>(x) * dy; });
    });
}

DEEM_KERNELS(activation_forward, DeemActivationForward, forward)
DEEM_KERNELS(activation_backward, DeemActivationBackward, backward)

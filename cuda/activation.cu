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

extern "C" __global__ void __launch_bounds__(256, 1) activation_forward_f32(const __grid_constant__ DeemActivationForward p) {
    forward<float>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) activation_forward_bf16(const __grid_constant__ DeemActivationForward p) {
    forward<bf16>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) activation_backward_f32(const __grid_constant__ DeemActivationBackward p) {
    backward<float>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) activation_backward_bf16(const __grid_constant__ DeemActivationBackward p) {
    backward<bf16>(p);
}

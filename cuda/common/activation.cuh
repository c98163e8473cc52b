// Activation functions and their derivatives, as in src/ops/activation.rs.
#pragma once

#include "../../ffi/activation.h"

template <int KIND>
__device__ __forceinline__ float activate(float x) {
    if constexpr (KIND == DEEM_ACTIVATION_RELU) return x < 0.0f ? 0.0f : x;
    if constexpr (KIND == DEEM_ACTIVATION_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    if constexpr (KIND == DEEM_ACTIVATION_QUICK_GELU) return x * (1.0f / (1.0f + expf(-1.702f * x)));
    if constexpr (KIND == DEEM_ACTIVATION_SILU) return x * (1.0f / (1.0f + expf(-x)));
    return x;
}

template <int KIND>
__device__ __forceinline__ float derivative(float x) {
    if constexpr (KIND == DEEM_ACTIVATION_RELU) return x > 0.0f ? 1.0f : 0.0f;
    if constexpr (KIND == DEEM_ACTIVATION_GELU) {
        float phi = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
        return phi + x * expf(-0.5f * x * x) * 0.39894228040143268f;
    }
    if constexpr (KIND == DEEM_ACTIVATION_QUICK_GELU) {
        float s = 1.0f / (1.0f + expf(-1.702f * x));
        return s + 1.702f * x * s * (1.0f - s);
    }
    if constexpr (KIND == DEEM_ACTIVATION_SILU) {
        float s = 1.0f / (1.0f + expf(-x));
        return s * (1.0f + x * (1.0f - s));
    }
    return 1.0f;
}

template <int KIND>
struct Kind {
    static constexpr int value = KIND;
};

// Calls f(Kind<..>()) for the kind of this launch: a loop of its own for each.
template <typename F>
__device__ __forceinline__ void by_kind(int kind, F f) {
    switch (kind) {
    case DEEM_ACTIVATION_RELU: return f(Kind<DEEM_ACTIVATION_RELU>());
    case DEEM_ACTIVATION_GELU: return f(Kind<DEEM_ACTIVATION_GELU>());
    case DEEM_ACTIVATION_QUICK_GELU: return f(Kind<DEEM_ACTIVATION_QUICK_GELU>());
    case DEEM_ACTIVATION_SILU: return f(Kind<DEEM_ACTIVATION_SILU>());
    default: return f(Kind<DEEM_ACTIVATION_NONE>());
    }
}

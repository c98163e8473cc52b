// The rotation of rotary position embeddings, in one place, so that every kernel that makes it has the same bits.
#pragma once

namespace deem {

struct Angle {
    float cos, sin;
};

__device__ __forceinline__ Angle angle_of(int position, float frequency) {
    Angle angle;
    sincosf(static_cast<float>(position) * frequency, &angle.sin, &angle.cos);
    return angle;
}

/// Turns x_k and x_{k + half}.
__device__ __forceinline__ void turn(float &low, float &high, Angle angle) {
    const float a = low, b = high;
    low = fmaf(a, angle.cos, -__fmul_rn(b, angle.sin));
    high = fmaf(b, angle.cos, __fmul_rn(a, angle.sin));
}

} // namespace deem

// Arithmetic that has an instruction of its own (sm_80).
#pragma once

#include <cstdint>

namespace deem {

/// 2^x, relative error below 2^-22; subnormal results are 0.
__device__ __forceinline__ float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Two numbers rounded to bf16, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/// Two numbers rounded to f16, the first in the low half.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/// A number of f16, widened.
__device__ __forceinline__ float widen_f16(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

/// The same address, as one whose origin the compiler does not know: it then steps the pointer itself, instead of an index that it scales and adds anew each time.
template <class T> __device__ __forceinline__ const T *opaque(const T *pointer) {
    asm volatile("" : "+l"(pointer));
    return pointer;
}

/// Index of the thread, or of the block along an axis, read anew each time: a value that is cheap to read again need not hold a register through a loop.
__device__ __forceinline__ int thread_x() {
    int i;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(i));
    return i;
}
__device__ __forceinline__ int block_x() {
    int i;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(i));
    return i;
}
__device__ __forceinline__ int block_y() {
    int i;
    asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(i));
    return i;
}
__device__ __forceinline__ int block_z() {
    int i;
    asm volatile("mov.u32 %0, %%ctaid.z;" : "=r"(i));
    return i;
}

} // namespace deem

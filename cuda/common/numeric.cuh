// Numbers as they are stored and as they are computed with, and loads and stores of 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }

// Rounds to storage type T, to nearest even.
template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

// What one thread moves at once: 16 bytes, 4 float or 8 bf16, unless it says how many.
template <typename T, int COUNT = 16 / sizeof(T)>
struct alignas(COUNT * sizeof(T)) Pack {
    static constexpr int N = COUNT;
    T x[N];
};

template <typename T, int COUNT = 16 / sizeof(T)>
__device__ __forceinline__ Pack<T, COUNT> load_pack(const T *from) {
    return *reinterpret_cast<const Pack<T, COUNT> *>(from);
}

template <typename T, int COUNT>
__device__ __forceinline__ void store_pack(T *to, const Pack<T, COUNT> &pack) {
    *reinterpret_cast<Pack<T, COUNT> *>(to) = pack;
}

// Whether packs may begin at all of these addresses (null among them).
template <typename... P>
__device__ __forceinline__ bool aligned(const P *...pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) | ...) & 15) == 0;
}

// The two kernels NAME_f32 and NAME_bf16 that run BODY<T>(params), in blocks of at most 256 threads.
#define DEEM_KERNELS(NAME, PARAMS, BODY)                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME##_f32(const __grid_constant__ PARAMS p) {         \
        BODY<float>(p);                                                                                         \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME##_bf16(const __grid_constant__ PARAMS p) {        \
        BODY<bf16>(p);                                                                                          \
    }

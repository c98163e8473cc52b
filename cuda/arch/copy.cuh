// Asynchronous copies from global to shared memory (sm_80), and stores that stay whole: the compiler splits those of structs now and then.
#pragma once

#include <cstdint>

namespace deem {

/// 16 bytes past the first-level cache; the last `16 - bytes` become 0. With `bytes` 0 nothing is read, whatever `from` is.
__device__ __forceinline__ void copy_async_16(uint32_t to, const void *from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
}

/// The same so many bytes behind both, from an address of global memory as a number: where many are made of one, that one is converted once.
template <int TO, int FROM> __device__ __forceinline__ void copy_async_16_at(uint32_t to, uint64_t from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0+%3], [%1+%4], 16, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(TO), "n"(FROM) : "memory");
}

/// 4 bytes; 0 with `bytes` 0, and then nothing is read.
__device__ __forceinline__ void copy_async_4(uint32_t to, const void *from, uint32_t bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes) : "memory");
}

/// Closes the group of copies that this thread has begun.
__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most `PENDING` of this thread's groups are under way.
template <int PENDING> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/// 8 bytes to global memory.
__device__ __forceinline__ void store_global_8(void *to, uint32_t low, uint32_t high) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(low), "r"(high) : "memory");
}

/// Two numbers to shared memory.
__device__ __forceinline__ void store_shared_8(uint32_t to, float low, float high) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(low), "f"(high) : "memory");
}

} // namespace deem

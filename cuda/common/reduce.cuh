// Sums and maxima over the threads of a warp or of a row, in an order that depends on nothing but their number. Every thread gets the result.
//
// A row is what the threads of one value of threadIdx.y share: blockDim.x of them, a multiple of 32, at most 1024. Where that is one warp no barrier is
// needed, so that warps may come and go; otherwise the block is one row, and all of its threads call together.
#pragma once

#include <stdint.h>

struct Sum {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
    static constexpr float neutral = 0.0f;
};
struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
    static constexpr float neutral = -__builtin_huge_valf();
};

template <typename Op>
__device__ __forceinline__ float warp_reduce(float x, Op op) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

template <typename Op>
__device__ __forceinline__ float row_reduce(float x, Op op) {
    x = warp_reduce(x, op);
    if (blockDim.x > 32) {
        __shared__ float of_warp[32];
        // What a reduction before left there has been read by everybody.
        __syncthreads();
        if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
        __syncthreads();
        x = warp_reduce(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : Op::neutral, op);
    }
    return x;
}

__device__ __forceinline__ float row_sum(float x) { return row_reduce(x, Sum()); }
__device__ __forceinline__ float row_max(float x) { return row_reduce(x, Max()); }

// The row of this thread.
__device__ __forceinline__ int64_t row_index() { return int64_t(blockIdx.x) * blockDim.y + threadIdx.y; }

// Sum over all threads of a block of 256 (in x), in f64. Thread 0 gets the result.
__device__ __forceinline__ double block_sum(double x) {
    __shared__ double of_warp[8];
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.0;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int warp = 0; warp < 8; warp++) x += of_warp[warp];
    }
    return x;
}

// Moving data. Contract: src/ops/copy.rs. Everything is exact but sums and casts to a narrower type.
//
// | variant | domain | idea |
// |---|---|---|
// | copy_blocks_* | any | entries in blocks.y, 16 bytes per thread where addresses, strides and lengths allow it |
// | copy_transpose_* | any | tiles of 32 x 32 through shared memory, read and written by rows |
#include "../ffi/copy.h"
#include "common/pointwise.cuh"

template <typename T>
__device__ __forceinline__ void copy_blocks(const DeemCopyBlocks &p) {
    for (int64_t entry = blockIdx.y; entry < p.entries; entry += gridDim.y) {
        const T *x = static_cast<const T *>(p.x) + entry * p.x_stride + p.x_start;
        T *y = static_cast<T *>(p.y) + entry * p.y_stride + p.y_start;
        if (p.add) {
            map2(x, static_cast<const T *>(y), y, p.len, [](float x, float y) { return y + x; });
            continue;
        }
        int64_t done = 0;
        if (aligned(x, y)) {
            done = p.len / Pack<T>::N * Pack<T>::N;
            for (int64_t i = grid_thread() * Pack<T>::N; i < done; i += grid_threads() * Pack<T>::N) store_pack(y + i, load_pack(x + i));
        }
        for (int64_t i = done + grid_thread(); i < p.len; i += grid_threads()) y[i] = x[i];
    }
}

template <typename T>
__device__ __forceinline__ void sum_batch(const DeemCopySumBatch &p) {
    const T *dy = static_cast<const T *>(p.dy);
    T *dx = static_cast<T *>(p.dx);
    each_index(p.n, [&](int64_t i) {
        float sum = 0.0f;
        for (int64_t entry = 0; entry < p.entries; entry++) sum += widen(dy[entry * p.n + i]);
        dx[i] = narrow<T>(sum);
    });
}

template <typename From, typename To>
__device__ __forceinline__ void cast(const DeemCopyCast &p) {
    const From *x = static_cast<const From *>(p.x);
    To *y = static_cast<To *>(p.y);
    int64_t done = 0;
    if (aligned(x, y)) {
        // Eight elements: one pack of the narrow type, two of the wide one.
        constexpr int X = Pack<From>::N, Y = Pack<To>::N;
        done = p.n / 8 * 8;
        for (int64_t i = grid_thread() * 8; i < done; i += grid_threads() * 8) {
            Pack<From> in[8 / X];
            Pack<To> out[8 / Y];
#pragma unroll
            for (int k = 0; k < 8 / X; k++) in[k] = load_pack(x + i + k * X);
#pragma unroll
            for (int k = 0; k < 8; k++) out[k / Y].x[k % Y] = narrow<To>(widen(in[k / X].x[k % X]));
#pragma unroll
            for (int k = 0; k < 8 / Y; k++) store_pack(y + i + k * Y, out[k]);
        }
    }
    for (int64_t i = done + grid_thread(); i < p.n; i += grid_threads()) y[i] = narrow<To>(widen(x[i]));
}

// Threads are 32 x 8; blocks are tiles of columns, tiles of rows, matrices.
template <typename From, typename To>
__device__ __forceinline__ void transpose(const DeemCopyTranspose &p) {
    __shared__ From tile[32][33];
    int left = blockIdx.x * 32;
    for (int64_t matrix = blockIdx.z; matrix < p.matrices; matrix += gridDim.z) {
        const From *x = static_cast<const From *>(p.x) + matrix * p.rows * p.cols;
        To *y = static_cast<To *>(p.y) + matrix * p.rows * p.cols;
        for (int64_t top = blockIdx.y * 32; top < p.rows; top += int64_t(gridDim.y) * 32) {
            __syncthreads();
            for (int r = threadIdx.y; r < 32; r += 8) {
                if (top + r < p.rows && left + threadIdx.x < p.cols) tile[r][threadIdx.x] = x[(top + r) * p.cols + left + threadIdx.x];
            }
            __syncthreads();
            for (int c = threadIdx.y; c < 32; c += 8) {
                if (left + c < p.cols && top + threadIdx.x < p.rows) {
                    y[int64_t(left + c) * p.rows + top + threadIdx.x] = narrow<To>(widen(tile[threadIdx.x][c]));
                }
            }
        }
    }
}

DEEM_KERNELS(copy_blocks, DeemCopyBlocks, copy_blocks)
DEEM_KERNELS(copy_sum_batch, DeemCopySumBatch, sum_batch)

extern "C" __global__ void __launch_bounds__(256, 1) copy_cast_f32_bf16(const __grid_constant__ DeemCopyCast p) { cast<float, bf16>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) copy_cast_bf16_f32(const __grid_constant__ DeemCopyCast p) { cast<bf16, float>(p); }
extern "C" __global__ void __launch_bounds__(256, 1) copy_transpose_f32_f32(const __grid_constant__ DeemCopyTranspose p) {
    transpose<float, float>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) copy_transpose_f32_bf16(const __grid_constant__ DeemCopyTranspose p) {
    transpose<float, bf16>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) copy_transpose_bf16_f32(const __grid_constant__ DeemCopyTranspose p) {
    transpose<bf16, float>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) copy_transpose_bf16_bf16(const __grid_constant__ DeemCopyTranspose p) {
    transpose<bf16, bf16>(p);
}

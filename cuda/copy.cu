// Moving data. Contract: src/ops/copy.rs. Everything is exact but sums and casts to a narrower type.
//
// | variant | domain | idea |
// |---|---|---|
// | copy_blocks_* | any | the elements of all entries in a row, 16 bytes per thread where addresses, strides and lengths allow it |
// | copy_transpose_* | any | tiles of 32 x 32 through shared memory, read and written by rows |
#include "../ffi/copy.h"
#include "common/pointwise.cuh"

// f(first element in x, first element in y) for the steps of N elements of all entries.
template <int N, typename F>
__device__ __forceinline__ void each_step(const DeemCopyBlocks &p, F f) {
    int64_t steps = p.len / N, n = p.entries * steps;
    each_index(n, [&](int64_t i) {
        int64_t entry = n <= 0x7fffffff ? uint32_t(i) / uint32_t(steps) : i / steps, at = (i - entry * steps) * N;
        f(entry * p.x_stride + p.x_start + at, entry * p.y_stride + p.y_start + at);
    });
}

template <typename T>
__device__ __forceinline__ void copy_blocks(const DeemCopyBlocks &p) {
    constexpr int N = Pack<T>::N;
    const T *x = static_cast<const T *>(p.x);
    T *y = static_cast<T *>(p.y);
    bool packs = aligned(x, y) && (p.len | p.x_stride | p.x_start | p.y_stride | p.y_start) % N == 0;
    if (packs && p.add) {
        each_step<N>(p, [&](int64_t from, int64_t to) {
            Pack<T> a = load_pack(x + from), b = load_pack(y + to);
#pragma unroll
            for (int k = 0; k < N; k++) b.x[k] = narrow<T>(widen(b.x[k]) + widen(a.x[k]));
            store_pack(y + to, b);
        });
    } else if (packs) {
        // Of a built-in type: the compiler divides the store of a Pack whose elements it does not see computed.
        each_step<N>(p, [&](int64_t from, int64_t to) { *reinterpret_cast<uint4 *>(y + to) = *reinterpret_cast<const uint4 *>(x + from); });
    } else {
        each_step<1>(p, [&](int64_t from, int64_t to) { y[to] = p.add ? narrow<T>(widen(y[to]) + widen(x[from])) : x[from]; });
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
        // Four elements: 16 bytes of the wide type, 8 of the narrow one, so that the accesses of neighbours leave no gaps.
        done = p.n / 4 * 4;
        for (int64_t i = grid_thread() * 4; i < done; i += grid_threads() * 4) {
            Pack<From, 4> in = load_pack<From, 4>(x + i);
            Pack<To, 4> out;
#pragma unroll
            for (int k = 0; k < 4; k++) out.x[k] = narrow<To>(widen(in.x[k]));
            store_pack(y + i, out);
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

// Loops over one row of some arrays, for the threads of a row (see reduce.cuh). In packs of 16 bytes where all of the row's arrays allow it.
#pragma once

#include "numeric.cuh"
#include "reduce.cuh"

// f(column, x)
template <typename T, typename F>
__device__ __forceinline__ void row_each(const T *x, int cols, F f) {
    if (aligned(x) && cols % Pack<T>::N == 0) {
        for (int c = threadIdx.x * Pack<T>::N; c < cols; c += blockDim.x * Pack<T>::N) {
            Pack<T> a = load_pack(x + c);
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) f(c + k, widen(a.x[k]));
        }
    } else {
        for (int c = threadIdx.x; c < cols; c += blockDim.x) f(c, widen(x[c]));
    }
}

// f(column, x, y)
template <typename T, typename F>
__device__ __forceinline__ void row_each(const T *x, const T *y, int cols, F f) {
    if (aligned(x, y) && cols % Pack<T>::N == 0) {
        for (int c = threadIdx.x * Pack<T>::N; c < cols; c += blockDim.x * Pack<T>::N) {
            Pack<T> a = load_pack(x + c), b = load_pack(y + c);
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) f(c + k, widen(a.x[k]), widen(b.x[k]));
        }
    } else {
        for (int c = threadIdx.x; c < cols; c += blockDim.x) f(c, widen(x[c]), widen(y[c]));
    }
}

// out = f(column, x)
template <typename T, typename F>
__device__ __forceinline__ void row_map(const T *x, T *out, int cols, F f) {
    if (aligned(x, out) && cols % Pack<T>::N == 0) {
        for (int c = threadIdx.x * Pack<T>::N; c < cols; c += blockDim.x * Pack<T>::N) {
            Pack<T> a = load_pack(x + c), y;
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) y.x[k] = narrow<T>(f(c + k, widen(a.x[k])));
            store_pack(out + c, y);
        }
    } else {
        for (int c = threadIdx.x; c < cols; c += blockDim.x) out[c] = narrow<T>(f(c, widen(x[c])));
    }
}

// out = f(column, x, y)
template <typename T, typename F>
__device__ __forceinline__ void row_map(const T *x, const T *y, T *out, int cols, F f) {
    if (aligned(x, y, out) && cols % Pack<T>::N == 0) {
        for (int c = threadIdx.x * Pack<T>::N; c < cols; c += blockDim.x * Pack<T>::N) {
            Pack<T> a = load_pack(x + c), b = load_pack(y + c), z;
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) z.x[k] = narrow<T>(f(c + k, widen(a.x[k]), widen(b.x[k])));
            store_pack(out + c, z);
        }
    } else {
        for (int c = threadIdx.x; c < cols; c += blockDim.x) out[c] = narrow<T>(f(c, widen(x[c]), widen(y[c])));
    }
}

// Sums over the rows of a slice, by column: the threads of a block are 32 columns x 8 rows, blocks are columns in x and slices in y.
// f(row, column, sums) adds to the sums of its column; the block writes each into out[k][slice, column].
template <int K, typename F>
__device__ __forceinline__ void slice_sums(int64_t rows, int64_t rows_per_slice, int cols, float *const (&out)[K], F f) {
    __shared__ float of_row[K][8][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    int64_t begin = blockIdx.y * rows_per_slice;
    int64_t end = begin + rows_per_slice < rows ? begin + rows_per_slice : rows;
    float sums[K] = {};
    if (column < cols) {
        for (int64_t row = begin + threadIdx.y; row < end; row += 8) f(row, column, sums);
    }
#pragma unroll
    for (int k = 0; k < K; k++) of_row[k][threadIdx.y][threadIdx.x] = sums[k];
    __syncthreads();
    if (threadIdx.y < K && column < cols) {
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < 8; r++) sum += of_row[threadIdx.y][r][threadIdx.x];
        if (out[threadIdx.y]) out[threadIdx.y][int64_t(blockIdx.y) * cols + column] = sum;
    }
}

// Loops over the elements of arrays of equal length, for a grid of blocks in x. Elements are taken in packs of 16 bytes where all arrays allow it.
#pragma once

#include "numeric.cuh"

__device__ __forceinline__ int64_t grid_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t grid_threads() { return int64_t(gridDim.x) * blockDim.x; }

// y[i] = f(x[i])
template <typename T, typename F>
__device__ __forceinline__ void map1(const T *x, T *y, int64_t n, F f) {
    int64_t done = 0;
    if (aligned(x, y)) {
        done = n / Pack<T>::N * Pack<T>::N;
        for (int64_t i = grid_thread() * Pack<T>::N; i < done; i += grid_threads() * Pack<T>::N) {
            Pack<T> a = load_pack(x + i), out;
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) out.x[k] = narrow<T>(f(widen(a.x[k])));
            store_pack(y + i, out);
        }
    }
    for (int64_t i = done + grid_thread(); i < n; i += grid_threads()) y[i] = narrow<T>(f(widen(x[i])));
}

// y[i] = f(a[i], b[i])
template <typename T, typename F>
__device__ __forceinline__ void map2(const T *a, const T *b, T *y, int64_t n, F f) {
    int64_t done = 0;
    if (aligned(a, b, y)) {
        done = n / Pack<T>::N * Pack<T>::N;
        for (int64_t i = grid_thread() * Pack<T>::N; i < done; i += grid_threads() * Pack<T>::N) {
            Pack<T> u = load_pack(a + i), v = load_pack(b + i), out;
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) out.x[k] = narrow<T>(f(widen(u.x[k]), widen(v.x[k])));
            store_pack(y + i, out);
        }
    }
    for (int64_t i = done + grid_thread(); i < n; i += grid_threads()) y[i] = narrow<T>(f(widen(a[i]), widen(b[i])));
}

// f(i) for each index, one after the other: for loops whose arrays are not walked alike.
template <typename F>
__device__ __forceinline__ void each_index(int64_t n, F f) {
    for (int64_t i = grid_thread(); i < n; i += grid_threads()) f(i);
}

// y[i] = f(x[i], i % cols, i / cols); packs never cross the end of a row.
template <typename T, typename F>
__device__ __forceinline__ void map_matrix(const T *x, T *y, int64_t n, int64_t cols, F f) {
    if (aligned(x, y) && cols % Pack<T>::N == 0) {
        for (int64_t i = grid_thread() * Pack<T>::N; i < n; i += grid_threads() * Pack<T>::N) {
            Pack<T> a = load_pack(x + i), out;
            int64_t row = n <= 0x7fffffff ? uint32_t(i) / uint32_t(cols) : i / cols, column = i - row * cols;
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) out.x[k] = narrow<T>(f(widen(a.x[k]), column + k, row));
            store_pack(y + i, out);
        }
    } else {
        each_index(n, [&](int64_t i) { y[i] = narrow<T>(f(widen(x[i]), i % cols, i / cols)); });
    }
}

// y[i] = f(a[i], b[i], i % cols, i / cols); packs never cross the end of a row.
template <typename T, typename F>
__device__ __forceinline__ void map_matrix2(const T *a, const T *b, T *y, int64_t n, int64_t cols, F f) {
    if (aligned(a, b, y) && cols % Pack<T>::N == 0) {
        for (int64_t i = grid_thread() * Pack<T>::N; i < n; i += grid_threads() * Pack<T>::N) {
            Pack<T> u = load_pack(a + i), v = load_pack(b + i), out;
            int64_t row = n <= 0x7fffffff ? uint32_t(i) / uint32_t(cols) : i / cols, column = i - row * cols;
#pragma unroll
            for (int k = 0; k < Pack<T>::N; k++) out.x[k] = narrow<T>(f(widen(u.x[k]), widen(v.x[k]), column + k, row));
            store_pack(y + i, out);
        }
    } else {
        each_index(n, [&](int64_t i) { y[i] = narrow<T>(f(widen(a[i]), widen(b[i]), i % cols, i / cols)); });
    }
}

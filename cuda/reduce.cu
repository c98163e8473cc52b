// Reductions. Contract: src/ops/reduce.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | reduce_slices_f32 | any | a thread per column adds the slices up in order: the second launch of every sum over rows |
// | reduce_sum_* | any | sums in f64 by blocks, whose number depends on the length alone; reduce_total adds them up |
// | reduce_sum_rows_* | any rows and columns | slices of rows, 32 columns x 8 rows at a time, into partial sums |
#include "../ffi/reduce.h"
#include "common/pointwise.cuh"
#include "common/softmax.cuh"

extern "C" __global__ void __launch_bounds__(256, 1) reduce_slices_f32(const __grid_constant__ DeemReduceSlices p) {
    const float *partial = static_cast<const float *>(p.partial);
    float *out = static_cast<float *>(p.out);
    int64_t column = grid_thread();
    if (column >= p.cols) return;
    float sum = 0.0f;
    for (int64_t slice = 0; slice < p.slices; slice++) sum += partial[slice * p.cols + column];
    out[column] = p.add ? out[column] + sum : sum;
}

template <typename T>
__device__ __forceinline__ void sum_rows(const DeemReduceSumRows &p) {
    const T *x = static_cast<const T *>(p.x);
    float *const out[1] = {static_cast<float *>(p.partial)};
    slice_sums(p.rows, p.rows_per_slice, p.cols, out,
               [&](int64_t row, int column, float(&sums)[1]) { sums[0] += widen(x[row * p.cols + column]); });
}

DEEM_KERNELS(reduce_sum_rows, DeemReduceSumRows, sum_rows)

extern "C" __global__ void __launch_bounds__(256, 1) reduce_total_f64(const __grid_constant__ DeemReduceTotal p) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < p.n; i += 256) sum += static_cast<const double *>(p.partial)[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *static_cast<double *>(p.out) = sum;
}

template <typename T>
__device__ __forceinline__ void sum(const DeemReduceSum &p) {
    const T *x = static_cast<const T *>(p.x);
    double sum = 0.0;
    each_index(p.n, [&](int64_t i) {
        float value = widen(x[i]);
        sum += p.what == DEEM_REDUCE_SUM ? double(value) : p.what == DEEM_REDUCE_SQUARES ? double(value) * double(value) : isfinite(value) ? 0.0 : 1.0;
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) static_cast<double *>(p.partial)[blockIdx.x] = sum;
}

// Whether (x, i) comes before (y, j): NaN before all numbers, then the larger, then the first.
__device__ __forceinline__ bool before(float x, int i, float y, int j) {
    bool nan_x = isnan(x), nan_y = isnan(y);
    if (nan_x != nan_y) return nan_x;
    if (!nan_x && x != y) return x > y;
    return i < j;
}

template <typename T>
__device__ __forceinline__ void argmax(const DeemReduceArgmax &p) {
    __shared__ float values[8];
    __shared__ int columns[8];
    int64_t row = row_index();
    if (row >= p.rows) return;
    // No column is worse than any.
    float best = Max::neutral;
    int at = 0x7fffffff;
    Row<T, 1> candidates({static_cast<const T *>(p.x) + row * p.cols}, {nullptr}, p.cols);
    candidates.each([&](int c, const float (&v)[2]) {
        if (before(v[0], c, best, at)) best = v[0], at = c;
    });
    auto meet = [&]() {
#pragma unroll
        for (int lane = 16; lane > 0; lane /= 2) {
            float other = __shfl_xor_sync(0xffffffffu, best, lane);
            int other_at = __shfl_xor_sync(0xffffffffu, at, lane);
            if (before(other, other_at, best, at)) best = other, at = other_at;
        }
    };
    meet();
    if (blockDim.x > 32) {
        if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, columns[threadIdx.x / 32] = at;
        __syncthreads();
        bool mine = threadIdx.x % 32 < blockDim.x / 32;
        best = mine ? values[threadIdx.x % 32] : Max::neutral;
        at = mine ? columns[threadIdx.x % 32] : 0x7fffffff;
        meet();
    }
    if (threadIdx.x == 0) static_cast<int32_t *>(p.found)[row] = at;
}

extern "C" __global__ void __launch_bounds__(256, 1) reduce_hits_s32(const __grid_constant__ DeemReduceHits p) {
    const int32_t *found = static_cast<const int32_t *>(p.found), *wanted = static_cast<const int32_t *>(p.wanted);
    double sum = 0.0;
    each_index(p.n, [&](int64_t i) { sum += found[i] == wanted[i] ? 1.0 : 0.0; });
    sum = block_sum(sum);
    if (threadIdx.x == 0) static_cast<double *>(p.partial)[blockIdx.x] = sum;
}

template <typename T>
__device__ __forceinline__ void log_softmax(const DeemReduceLogSoftmax &p) {
    int64_t row = row_index();
    if (row >= p.rows) return;
    const T *x = static_cast<const T *>(p.x) + row * p.cols;
    float *y = static_cast<float *>(p.y) + row * p.cols;
    Row<T, 1, 4> values({x}, {y}, p.cols, true);
    LogSumExp lse = log_sum_exp(values);
    values.map(y, [&](int, const float (&v)[2]) { return v[0] - lse.max - lse.ln; });
}

// A block of 32 columns x 8 rows of threads per 32 columns of an image.
template <typename T>
__device__ __forceinline__ void sum_pixels(const DeemReduceSumPixels &p) {
    __shared__ float of_row[8][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    for (int64_t image = blockIdx.y; image < p.images; image += gridDim.y) {
        const T *x = static_cast<const T *>(p.x) + image * p.pixels * p.cols;
        float sum = 0.0f;
        if (column < p.cols) {
            for (int64_t pixel = threadIdx.y; pixel < p.pixels; pixel += 8) sum += widen(x[pixel * p.cols + column]);
        }
        __syncthreads();
        of_row[threadIdx.y][threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.y == 0 && column < p.cols) {
            sum = 0.0f;
#pragma unroll
            for (int r = 0; r < 8; r++) sum += of_row[r][threadIdx.x];
            static_cast<T *>(p.y)[image * p.cols + column] = narrow<T>(sum * p.factor);
        }
    }
}

template <typename T>
__device__ __forceinline__ void spread_pixels(const DeemReduceSpreadPixels &p) {
    const T *dy = static_cast<const T *>(p.dy);
    T *dx = static_cast<T *>(p.dx);
    each_index(p.n, [&](int64_t i) {
        int64_t row = i / p.cols, column = i - row * p.cols;
        dx[i] = narrow<T>(widen(dy[row / p.pixels * p.cols + column]) * p.factor);
    });
}

DEEM_KERNELS(reduce_sum, DeemReduceSum, sum)
DEEM_KERNELS(reduce_argmax, DeemReduceArgmax, argmax)
DEEM_KERNELS(reduce_log_softmax, DeemReduceLogSoftmax, log_softmax)
DEEM_KERNELS(reduce_sum_pixels, DeemReduceSumPixels, sum_pixels)
DEEM_KERNELS(reduce_spread_pixels, DeemReduceSpreadPixels, spread_pixels)

// Reductions. Contract: src/ops/reduce.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | reduce_slices_f32 | any | a thread per column adds the slices up in order: the second launch of every sum over rows |
// | reduce_sum_rows_* | any rows and columns | slices of rows, 32 columns x 8 rows at a time, into partial sums |
#include "../ffi/reduce.h"
#include "common/pointwise.cuh"
#include "common/rows.cuh"

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

extern "C" __global__ void __launch_bounds__(256, 1) reduce_sum_rows_f32(const __grid_constant__ DeemReduceSumRows p) {
    sum_rows<float>(p);
}
extern "C" __global__ void __launch_bounds__(256, 1) reduce_sum_rows_bf16(const __grid_constant__ DeemReduceSumRows p) {
    sum_rows<bf16>(p);
}

// Rows by index. Contract: src/ops/embedding.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | embedding_gather_* | any | a row of threads per copied row |
// | embedding_scatter_* | any | the host has sorted the sources by target: a row of threads owns a target and adds its sources up in order, so that no atomics are needed |
#include "../ffi/embedding.h"
#include "common/rows.cuh"

template <typename T>
__device__ __forceinline__ void gather(const DeemEmbeddingGather &p) {
    int64_t i = row_index();
    if (i >= p.count) return;
    int64_t from = static_cast<const int32_t *>(p.rows)[i];
    T *y = static_cast<T *>(p.y) + i * p.cols;
    Row<T, 1> values({static_cast<const T *>(p.table) + from * p.cols}, {y}, p.cols);
    values.map(y, [](int, const float (&v)[2]) { return v[0]; });
}

// From storage T into To, which is T or float.
template <typename T, typename To>
__device__ __forceinline__ void scatter(const DeemEmbeddingScatter &p) {
    int64_t segment = row_index();
    if (segment >= p.count) return;
    const int32_t *bounds = static_cast<const int32_t *>(p.segments) + segment, *sources = static_cast<const int32_t *>(p.sources);
    const T *src = static_cast<const T *>(p.src);
    int64_t target = static_cast<const int32_t *>(p.targets)[segment];
    To *dst = static_cast<To *>(p.dst) + target * p.cols;
    int first = p.add ? bounds[0] : bounds[1] - 1, end = bounds[1];
    for (int c = threadIdx.x; c < p.cols; c += blockDim.x) {
        float sum = p.add ? widen(dst[c]) : 0.0f;
        for (int i = first; i < end; i++) sum += widen(src[p.one_row ? c : int64_t(sources[i]) * p.cols + c]);
        dst[c] = narrow<To>(sum);
    }
}

template <typename T>
__device__ __forceinline__ void scatter_rows(const DeemEmbeddingScatter &p) {
    scatter<T, T>(p);
}

template <typename T>
__device__ __forceinline__ void scatter_table(const DeemEmbeddingScatter &p) {
    scatter<T, float>(p);
}

template <typename T>
__device__ __forceinline__ void sum_rows_at(const DeemEmbeddingSumRowsAt &p) {
    const T *src = static_cast<const T *>(p.src);
    const int32_t *rows = static_cast<const int32_t *>(p.rows);
    float *const out[1] = {static_cast<float *>(p.partial)};
    slice_sums(p.count, p.rows_per_slice, p.cols, out,
               [&](int64_t i, int column, float(&sums)[1]) { sums[0] += widen(src[int64_t(rows[i]) * p.cols + column]); });
}

DEEM_KERNELS(embedding_gather, DeemEmbeddingGather, gather)
DEEM_KERNELS(embedding_scatter_rows, DeemEmbeddingScatter, scatter_rows)
DEEM_KERNELS(embedding_scatter_table, DeemEmbeddingScatter, scatter_table)
DEEM_KERNELS(embedding_sum_rows_at, DeemEmbeddingSumRowsAt, sum_rows_at)

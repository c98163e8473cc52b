// One row of some arrays, for the threads of a row (see reduce.cuh).
#pragma once

#include "numeric.cuh"
#include "reduce.cuh"

// K arrays' rows of equal length that are looked at several times. Up to 32 elements a thread (1024 columns for a warp, 8192 for a block) stay in registers,
// so that memory is read once; longer rows are read again, from the cache if they are still there. Elements are moved N at a time where the rows begin
// equally far from a multiple of so many; what is before the first such pack and behind the last goes one by one.
template <typename T, int K, int N = 16 / sizeof(T)>
class Row {
    static constexpr int PACKS = 32 / N, BYTES = N * sizeof(T);
    const T *from[K];
    int cols, head, end; // packs are the columns head .. end
    bool held;
    Pack<T, N> packs[K][PACKS];

    template <bool WRITES, typename Q, int P, typename Out, typename F>
    __device__ __forceinline__ void pack(int c, const Pack<T, N> (&x)[K], const Q *const (&parameters)[P], Out *out, F &f) const {
        Pack<Q, N> w[P];
        Pack<Out, N> y;
#pragma unroll
        for (int a = 0; a < P; a++) {
            if (parameters[a]) w[a] = load_pack<Q, N>(parameters[a] + c);
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            float v[K + P];
#pragma unroll
            for (int a = 0; a < K; a++) v[a] = widen(x[a].x[k]);
#pragma unroll
            for (int a = 0; a < P; a++) v[K + a] = parameters[a] ? widen(w[a].x[k]) : 0.0f;
            if constexpr (WRITES) y.x[k] = narrow<Out>(f(c + k, v));
            else f(c + k, v);
        }
        if constexpr (WRITES) store_pack(out + c, y);
    }

    template <bool WRITES, typename Q, int P, typename Out, typename F>
    __device__ __forceinline__ void single(int c, const Q *const (&parameters)[P], Out *out, F &f) const {
        float v[K + P];
#pragma unroll
        for (int a = 0; a < K; a++) v[a] = widen(from[a][c]);
#pragma unroll
        for (int a = 0; a < P; a++) v[K + a] = parameters[a] ? widen(parameters[a][c]) : 0.0f;
        if constexpr (WRITES) out[c] = narrow<Out>(f(c, v));
        else f(c, v);
    }

    template <bool WRITES, typename Q, int P, typename Out, typename F>
    __device__ __forceinline__ void visit(const Q *const (&parameters)[P], Out *out, F &f) const {
        int step = blockDim.x * N, first = head + threadIdx.x * N;
        if (held) {
#pragma unroll
            for (int i = 0; i < PACKS; i++) {
                if (first + i * step >= end) break;
                Pack<T, N> x[K];
#pragma unroll
                for (int a = 0; a < K; a++) x[a] = packs[a][i];
                pack<WRITES>(first + i * step, x, parameters, out, f);
            }
        } else {
            for (int c = first; c < end; c += step) {
                Pack<T, N> x[K];
#pragma unroll
                for (int a = 0; a < K; a++) x[a] = load_pack<T, N>(from[a] + c);
                pack<WRITES>(c, x, parameters, out, f);
            }
        }
        for (int c = threadIdx.x; c < head; c += blockDim.x) single<WRITES>(c, parameters, out, f);
        for (int c = end + threadIdx.x; c < cols; c += blockDim.x) single<WRITES>(c, parameters, out, f);
    }

  public:
    // `others` is what `each` and `map` take beside the rows, and where results go: arrays of rows' length, or null.
    template <int M>
    __device__ __forceinline__ Row(const T *const (&rows)[K], const void *const (&others)[M], int columns, bool other_types = false)
        : cols(columns) {
        uintptr_t begin = reinterpret_cast<uintptr_t>(rows[0]), differences = 0;
#pragma unroll
        for (int a = 0; a < K; a++) {
            from[a] = rows[a];
            differences |= reinterpret_cast<uintptr_t>(rows[a]) ^ begin;
        }
#pragma unroll
        for (int a = 0; a < M; a++) differences |= others[a] ? reinterpret_cast<uintptr_t>(others[a]) ^ begin : 0;
        // Arrays of another type have their packs at other distances: they have to begin with one.
        if (other_types) differences |= begin;
        head = differences & (BYTES - 1) ? cols : min(int(-begin & (BYTES - 1)) / int(sizeof(T)), cols);
        end = head + (cols - head) / N * N;
        held = (end - head) <= int(blockDim.x) * N * PACKS;
        if (!held) return;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            int c = head + (threadIdx.x + i * blockDim.x) * N;
            if (c >= end) break;
#pragma unroll
            for (int a = 0; a < K; a++) packs[a][i] = load_pack<T, N>(from[a] + c);
        }
    }

    // f(elements of a pack), or of an array of one where no pack fits: of the first row
    template <typename F>
    __device__ __forceinline__ void each_pack(F f) const {
        auto widened = [&](const Pack<T, N> &pack) {
            float x[N];
#pragma unroll
            for (int k = 0; k < N; k++) x[k] = widen(pack.x[k]);
            f(x);
        };
        auto alone = [&](int c) {
            const float x[1] = {widen(from[0][c])};
            f(x);
        };
        int step = blockDim.x * N, first = head + threadIdx.x * N;
        if (held) {
#pragma unroll
            for (int i = 0; i < PACKS; i++) {
                if (first + i * step >= end) break;
                widened(packs[0][i]);
            }
        } else {
            for (int c = first; c < end; c += step) widened(load_pack<T, N>(from[0] + c));
        }
        for (int c = threadIdx.x; c < head; c += blockDim.x) alone(c);
        for (int c = end + threadIdx.x; c < cols; c += blockDim.x) alone(c);
    }
    // f(column, values): those of the K rows, then those of the parameters, 0 for null.
    template <typename Q, int P, typename F>
    __device__ __forceinline__ void each(const Q *const (&parameters)[P], F f) const {
        visit<false>(parameters, static_cast<T *>(nullptr), f);
    }
    // out = f(column, values)
    template <typename Q, int P, typename Out, typename F>
    __device__ __forceinline__ void map(const Q *const (&parameters)[P], Out *out, F f) const {
        visit<true>(parameters, out, f);
    }
    template <typename F>
    __device__ __forceinline__ void each(F f) const {
        const T *const none[1] = {nullptr};
        each(none, f);
    }
    template <typename Out, typename F>
    __device__ __forceinline__ void map(Out *out, F f) const {
        const T *const none[1] = {nullptr};
        map(none, out, f);
    }
};

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

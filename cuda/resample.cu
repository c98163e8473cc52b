// Resampling of maps, channels last. Formulas: src/ops/resample.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | resample_gather_* | any resize and its gradient, nearest x2 and its gradient | a thread per output (16 bytes of channels where they allow it) adds up the taps that the host has listed for its row and its column: a gradient gathers too, so no atomics |
// | resample_max_pool_* | any | a thread per element; the gradient looks again for the largest of each window that holds the pixel |
#include "../ffi/resample.h"
#include "common/pointwise.cuh"

// Row and column of an element of a map, and its image and channel.
struct Place {
    int64_t image;
    int row, column, channel;
    __device__ __forceinline__ Place(int64_t i, int height, int width, int channels) {
        if (i <= 0x7fffffff) {
            // Divisions of 32 bits are a quarter of the work.
            uint32_t pixel = uint32_t(i) / channels, line = pixel / width;
            channel = uint32_t(i) - pixel * channels;
            column = pixel - line * width;
            image = line / height;
            row = line - uint32_t(image) * height;
            return;
        }
        int64_t pixel = i / channels, line = pixel / width;
        channel = int(i - pixel * channels);
        column = int(pixel - line * width);
        image = line / height;
        row = int(line - image * height);
    }
};

// N channels at a time: of a pixel, for N that divides the channels.
template <int N, typename T>
__device__ __forceinline__ void gather_by(const DeemResampleGather &p) {
    const T *in = static_cast<const T *>(p.from);
    const int32_t *rows = static_cast<const int32_t *>(p.rows), *columns = static_cast<const int32_t *>(p.columns);
    const int32_t *row_places = rows + p.out_height + 1, *column_places = columns + p.out_width + 1;
    const float *row_weights = reinterpret_cast<const float *>(row_places + p.row_taps);
    const float *column_weights = reinterpret_cast<const float *>(column_places + p.column_taps);
    each_index(p.n / N, [&](int64_t i) {
        Place at(i, p.out_height, p.out_width, p.channels / N);
        float sum[N] = {};
        for (int r = rows[at.row]; r < rows[at.row + 1]; r++) {
            const T *line = in + ((at.image * p.in_height + row_places[r]) * p.in_width) * p.channels + at.channel * N;
            float part[N] = {};
            for (int c = columns[at.column]; c < columns[at.column + 1]; c++) {
                Pack<T, N> x = load_pack<T, N>(line + int64_t(column_places[c]) * p.channels);
#pragma unroll
                for (int k = 0; k < N; k++) part[k] += column_weights[c] * widen(x.x[k]);
            }
#pragma unroll
            for (int k = 0; k < N; k++) sum[k] += row_weights[r] * part[k];
        }
        Pack<T, N> out;
#pragma unroll
        for (int k = 0; k < N; k++) out.x[k] = narrow<T>(sum[k]);
        store_pack(static_cast<T *>(p.out) + i * N, out);
    });
}

template <typename T>
__device__ __forceinline__ void gather(const DeemResampleGather &p) {
    if (p.channels % Pack<T>::N == 0 && aligned(p.from, p.out)) gather_by<Pack<T>::N, T>(p);
    else gather_by<1, T>(p);
}

// Index of the first largest element of the window of output (row, column).
template <typename T>
__device__ __forceinline__ int64_t largest(const T *x, int64_t image, int row, int column, int channel, int height, int width, int channels) {
    int64_t best = -1;
    for (int i = max(2 * row - 1, 0); i < min(2 * row + 2, height); i++) {
        for (int j = max(2 * column - 1, 0); j < min(2 * column + 2, width); j++) {
            int64_t at = ((image * height + i) * width + j) * channels + channel;
            if (best < 0 || widen(x[at]) > widen(x[best])) best = at;
        }
    }
    return best;
}

template <typename T>
__device__ __forceinline__ void max_pool_forward(const DeemResampleMaxPoolForward &p) {
    const T *x = static_cast<const T *>(p.x);
    each_index(p.n, [&](int64_t i) {
        Place at(i, (p.height + 1) / 2, (p.width + 1) / 2, p.channels);
        static_cast<T *>(p.y)[i] = x[largest(x, at.image, at.row, at.column, at.channel, p.height, p.width, p.channels)];
    });
}

template <typename T>
__device__ __forceinline__ void max_pool_backward(const DeemResampleMaxPoolBackward &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    int height = (p.height + 1) / 2, width = (p.width + 1) / 2;
    each_index(p.n, [&](int64_t i) {
        Place at(i, p.height, p.width, p.channels);
        float sum = 0.0f;
        // Windows whose three rows and columns hold this pixel.
        for (int row = at.row / 2; row <= min((at.row + 1) / 2, height - 1); row++) {
            for (int column = at.column / 2; column <= min((at.column + 1) / 2, width - 1); column++) {
                if (largest(x, at.image, row, column, at.channel, p.height, p.width, p.channels) != i) continue;
                sum += widen(dy[((at.image * height + row) * width + column) * p.channels + at.channel]);
            }
        }
        static_cast<T *>(p.dx)[i] = narrow<T>(sum);
    });
}

DEEM_KERNELS(resample_gather, DeemResampleGather, gather)
DEEM_KERNELS(resample_max_pool_forward, DeemResampleMaxPoolForward, max_pool_forward)
DEEM_KERNELS(resample_max_pool_backward, DeemResampleMaxPoolBackward, max_pool_backward)

// Group normalisation, channels last, with SiLU fused if wanted. Formulas and source: src/ops/groupnorm.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | groupnorm_* | any sizes | a block per group and slice of the pixels; slices are combined in order (Chan, Golub and LeVeque) |
//
// A block reads its slice twice, for the mean and for the squares of deviations; the second time it comes from the cache. Sums for the gradients of
// weight and bias are over slices of rows, as in layernorm.
#include "../ffi/groupnorm.h"
#include "common/activation.cuh"
#include "common/pointwise.cuh"
#include "common/rows.cuh"

// f(index of the element) for the elements of a group in a slice of the pixels of an image: block (group, slice, image) of 256 threads.
template <typename P, typename F>
__device__ __forceinline__ int64_t each_of_group(const P &p, int64_t image, F f) {
    int width = p.channels / p.groups, first = blockIdx.y * p.pixels_per_slice;
    int count = min(p.pixels_per_slice, p.pixels - first);
    int64_t base = (image * p.pixels + first) * p.channels + int64_t(blockIdx.x) * width, n = int64_t(count) * width;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        int64_t pixel = i / width;
        f(base + pixel * p.channels + (i - pixel * width));
    }
    return n;
}

template <typename T>
__device__ __forceinline__ void moments(const DeemGroupnormMoments &p) {
    const T *x = static_cast<const T *>(p.x);
    for (int64_t image = blockIdx.z; image < p.images; image += gridDim.z) {
        float sum = 0.0f, squares = 0.0f;
        int64_t n = each_of_group(p, image, [&](int64_t i) { sum += widen(x[i]); });
        float mean = row_sum(sum) / float(n);
        each_of_group(p, image, [&](int64_t i) { squares += (widen(x[i]) - mean) * (widen(x[i]) - mean); });
        squares = row_sum(squares);
        if (threadIdx.x == 0) {
            float *out = static_cast<float *>(p.partial) + ((image * p.slices + blockIdx.y) * p.groups + blockIdx.x) * 2;
            out[0] = mean;
            out[1] = squares;
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 1) groupnorm_statistics_f32(const __grid_constant__ DeemGroupnormStatistics p) {
    int64_t i = grid_thread();
    if (i >= int64_t(p.images) * p.groups) return;
    int64_t image = i / p.groups, group = i % p.groups;
    float width = float(p.channels / p.groups), mean = 0.0f, squares = 0.0f, before = 0.0f;
    for (int slice = 0; slice < p.slices; slice++) {
        const float *part = static_cast<const float *>(p.partial) + ((image * p.slices + slice) * p.groups + group) * 2;
        float count = float(min(p.pixels_per_slice, p.pixels - slice * p.pixels_per_slice)) * width;
        float share = count / (before + count), delta = part[0] - mean;
        mean += delta * share;
        squares += part[1] + delta * delta * share * before;
        before += count;
    }
    float *stats = static_cast<float *>(p.stats) + 2 * i;
    stats[0] = mean;
    stats[1] = 1.0f / sqrtf(squares / before + p.eps);
}

// What a channel of an image is normalised with.
template <typename T>
struct Channel {
    float mean, rstd, weight, bias;
    template <typename P>
    __device__ __forceinline__ Channel(const P &p, int64_t image, int64_t channel) {
        const float *stats = static_cast<const float *>(p.stats) + (image * p.groups + channel / (p.channels / p.groups)) * 2;
        mean = stats[0];
        rstd = stats[1];
        weight = widen(static_cast<const T *>(p.weight)[channel]);
        bias = widen(static_cast<const T *>(p.bias)[channel]);
    }
    // The gradient before the activation.
    __device__ __forceinline__ float before(float n, float dy, int silu) const {
        return silu ? derivative<DEEM_ACTIVATION_SILU>(n * weight + bias) * dy : dy;
    }
};

template <typename T>
__device__ __forceinline__ void forward(const DeemGroupnormForward &p) {
    map_matrix(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, p.channels, [&](float x, int64_t channel, int64_t row) {
        Channel<T> at(p, row / p.pixels, channel);
        float z = (x - at.mean) * at.rstd * at.weight + at.bias;
        return p.silu ? activate<DEEM_ACTIVATION_SILU>(z) : z;
    });
}

template <typename T>
__device__ __forceinline__ void backward_sums(const DeemGroupnormBackwardSums &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    for (int64_t image = blockIdx.z; image < p.images; image += gridDim.z) {
        float first = 0.0f, second = 0.0f;
        each_of_group(p, image, [&](int64_t i) {
            Channel<T> at(p, image, i % p.channels);
            float n = (widen(x[i]) - at.mean) * at.rstd, g = at.weight * at.before(n, widen(dy[i]), p.silu);
            first += g;
            second += g * n;
        });
        first = row_sum(first);
        second = row_sum(second);
        if (threadIdx.x == 0) {
            float *out = static_cast<float *>(p.partial) + ((image * p.slices + blockIdx.y) * p.groups + blockIdx.x) * 2;
            out[0] = first;
            out[1] = second;
        }
    }
}

template <typename T>
__device__ __forceinline__ void backward_input(const DeemGroupnormBackwardInput &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    T *dx = static_cast<T *>(p.dx);
    float inverse = 1.0f / (float(p.pixels) * float(p.channels / p.groups));
    for (int64_t image = blockIdx.z; image < p.images; image += gridDim.z) {
        float first = 0.0f, second = 0.0f;
        for (int slice = 0; slice < p.slices; slice++) {
            const float *part = static_cast<const float *>(p.partial) + ((image * p.slices + slice) * p.groups + blockIdx.x) * 2;
            first += part[0];
            second += part[1];
        }
        first *= inverse;
        second *= inverse;
        each_of_group(p, image, [&](int64_t i) {
            Channel<T> at(p, image, i % p.channels);
            float n = (widen(x[i]) - at.mean) * at.rstd, g = at.weight * at.before(n, widen(dy[i]), p.silu);
            dx[i] = narrow<T>(at.rstd * (g - first - n * second));
        });
    }
}

template <typename T>
__device__ __forceinline__ void backward_weight(const DeemGroupnormBackwardWeight &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    float *const out[2] = {static_cast<float *>(p.partial_dw), static_cast<float *>(p.partial_db)};
    slice_sums(p.rows, p.rows_per_slice, p.channels, out, [&](int64_t row, int column, float(&sums)[2]) {
        Channel<T> at(p, row / p.pixels, column);
        float n = (widen(x[row * p.channels + column]) - at.mean) * at.rstd;
        float d = at.before(n, widen(dy[row * p.channels + column]), p.silu);
        sums[0] += d * n;
        sums[1] += d;
    });
}

DEEM_KERNELS(groupnorm_moments, DeemGroupnormMoments, moments)
DEEM_KERNELS(groupnorm_forward, DeemGroupnormForward, forward)
DEEM_KERNELS(groupnorm_backward_sums, DeemGroupnormBackwardSums, backward_sums)
DEEM_KERNELS(groupnorm_backward_input, DeemGroupnormBackwardInput, backward_input)
DEEM_KERNELS(groupnorm_backward_weight, DeemGroupnormBackwardWeight, backward_weight)

// Group normalisation, channels last, with SiLU fused if wanted. Formulas and source: src/ops/groupnorm.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | groupnorm_* | any sizes | a block per group and slice of the pixels, an element per thread and step |
// | groupnorm_*_tile_* | groups whose channels divide into packs, arrays that begin with one | a block has whole groups of a slice of the pixels, a thread one pack of channels of some pixels: 16 bytes at a time, all bytes of a sector by one warp, what belongs to a channel read once |
//
// Every launch moves its arrays once; forward and backward are three launches, because a mean has to be known before its first use. The tiles keep their
// slice in registers: deviations are taken from each thread's own mean, and combined in order (Chan, Golub and LeVeque). The plain kernel reads its slice twice,
// the second time from the cache. Sums for the gradients of weight and bias are over slices of rows, as in layernorm.
#include "../ffi/groupnorm.h"
#include "common/activation.cuh"
#include "common/pointwise.cuh"
#include "common/rows.cuh"

// f(index of the element) for the elements of a group in a slice of the pixels of an image: block (slice, group, image) of 256 threads.
template <typename P, typename F>
__device__ __forceinline__ int64_t each_of_group(const P &p, int64_t image, F f) {
    int width = p.sizes.channels / p.sizes.groups, first = blockIdx.x * p.sizes.pixels_per_slice;
    int count = min(p.sizes.pixels_per_slice, p.sizes.pixels - first);
    int64_t base = (image * p.sizes.pixels + first) * p.sizes.channels + int64_t(blockIdx.y) * width, n = int64_t(count) * width;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        int64_t pixel = i / width;
        f(base + pixel * p.sizes.channels + (i - pixel * width));
    }
    return n;
}

template <typename T>
__device__ __forceinline__ void moments(const DeemGroupnormMoments &p) {
    const T *x = static_cast<const T *>(p.x);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        float sum = 0.0f, squares = 0.0f;
        int64_t n = each_of_group(p, image, [&](int64_t i) { sum += widen(x[i]); });
        float mean = row_sum(sum) / float(n);
        each_of_group(p, image, [&](int64_t i) { squares += (widen(x[i]) - mean) * (widen(x[i]) - mean); });
        squares = row_sum(squares);
        if (threadIdx.x == 0) {
            float *out = static_cast<float *>(p.partial) + ((image * p.sizes.slices + blockIdx.x) * p.sizes.groups + blockIdx.y) * 2;
            out[0] = mean;
            out[1] = squares;
        }
    }
}

// A warp per group of an image; its lanes share the slices.
extern "C" __global__ void __launch_bounds__(256, 1) groupnorm_statistics_f32(const __grid_constant__ DeemGroupnormStatistics p) {
    int64_t i = row_index();
    if (i >= int64_t(p.sizes.images) * p.sizes.groups) return;
    int64_t image = i / p.sizes.groups, group = i % p.sizes.groups;
    float width = float(p.sizes.channels / p.sizes.groups), all = width * float(p.sizes.pixels), sum = 0.0f, squares = 0.0f;
    auto each_slice = [&](auto f) {
        for (int slice = threadIdx.x; slice < p.sizes.slices; slice += 32) {
            const float *part = static_cast<const float *>(p.partial) + ((image * p.sizes.slices + slice) * p.sizes.groups + group) * 2;
            f(float(min(p.sizes.pixels_per_slice, p.sizes.pixels - slice * p.sizes.pixels_per_slice)) * width, part[0], part[1]);
        }
    };
    each_slice([&](float count, float mean, float) { sum += count * mean; });
    float mean = row_sum(sum) / all;
    each_slice([&](float count, float of_slice, float deviations) { squares += deviations + count * (of_slice - mean) * (of_slice - mean); });
    squares = row_sum(squares);
    if (threadIdx.x != 0) return;
    float *stats = static_cast<float *>(p.stats) + 2 * i;
    stats[0] = mean;
    stats[1] = 1.0f / sqrtf(squares / all + p.eps);
}

// As above.
extern "C" __global__ void __launch_bounds__(256, 1) groupnorm_totals_f32(const __grid_constant__ DeemGroupnormTotals p) {
    int64_t i = row_index();
    if (i >= int64_t(p.sizes.images) * p.sizes.groups) return;
    int64_t image = i / p.sizes.groups, group = i % p.sizes.groups;
    float first = 0.0f, second = 0.0f;
    for (int slice = threadIdx.x; slice < p.sizes.slices; slice += 32) {
        const float *part = static_cast<const float *>(p.partial) + ((image * p.sizes.slices + slice) * p.sizes.groups + group) * 2;
        first += part[0];
        second += part[1];
    }
    first = row_sum(first);
    second = row_sum(second);
    if (threadIdx.x != 0) return;
    float *totals = static_cast<float *>(p.totals) + 2 * i;
    totals[0] = first * p.factor;
    totals[1] = second * p.factor;
}

// What a channel of an image is normalised with.
template <typename T>
struct Channel {
    float mean, rstd, weight, bias;
    template <typename P>
    __device__ __forceinline__ Channel(const P &p, int64_t image, int64_t channel) {
        const float *stats = static_cast<const float *>(p.stats) + (image * p.sizes.groups + channel / (p.sizes.channels / p.sizes.groups)) * 2;
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
    map_matrix(static_cast<const T *>(p.x), static_cast<T *>(p.y), p.n, p.sizes.channels, [&](float x, int64_t channel, int64_t row) {
        Channel<T> at(p, row / p.sizes.pixels, channel);
        float z = (x - at.mean) * at.rstd * at.weight + at.bias;
        return p.silu ? activate<DEEM_ACTIVATION_SILU>(z) : z;
    });
}

template <typename T>
__device__ __forceinline__ void backward_sums(const DeemGroupnormBackwardSums &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        float first = 0.0f, second = 0.0f;
        each_of_group(p, image, [&](int64_t i) {
            Channel<T> at(p, image, i % p.sizes.channels);
            float n = (widen(x[i]) - at.mean) * at.rstd, g = at.weight * at.before(n, widen(dy[i]), p.silu);
            first += g;
            second += g * n;
        });
        first = row_sum(first);
        second = row_sum(second);
        if (threadIdx.x == 0) {
            float *out = static_cast<float *>(p.partial) + ((image * p.sizes.slices + blockIdx.x) * p.sizes.groups + blockIdx.y) * 2;
            out[0] = first;
            out[1] = second;
        }
    }
}

template <typename T>
__device__ __forceinline__ void backward_input(const DeemGroupnormBackwardInput &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy), *residual = static_cast<const T *>(p.residual);
    T *dx = static_cast<T *>(p.dx);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        const float *totals = static_cast<const float *>(p.totals) + (image * p.sizes.groups + blockIdx.y) * 2;
        float first = totals[0], second = totals[1];
        each_of_group(p, image, [&](int64_t i) {
            Channel<T> at(p, image, i % p.sizes.channels);
            float n = (widen(x[i]) - at.mean) * at.rstd, g = at.weight * at.before(n, widen(dy[i]), p.silu);
            dx[i] = narrow<T>(at.rstd * (g - first - n * second) + (residual ? widen(residual[i]) : 0.0f));
        });
    }
}

template <typename T>
__device__ __forceinline__ void backward_weight(const DeemGroupnormBackwardWeight &p) {
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    float *const out[2] = {static_cast<float *>(p.partial_dw), static_cast<float *>(p.partial_db)};
    slice_sums(p.rows, p.rows_per_slice, p.sizes.channels, out, [&](int64_t row, int column, float(&sums)[2]) {
        Channel<T> at(p, row / p.sizes.pixels, column);
        float n = (widen(x[row * p.sizes.channels + column]) - at.mean) * at.rstd;
        float d = at.before(n, widen(dy[row * p.sizes.channels + column]), p.silu);
        sums[0] += d * n;
        sums[1] += d;
    });
}

// The part of a thread in a tile: a pack of channels in pixels `row`, `row + rows`, .. of the slice. Block (slice, groups, image) of 256 threads.
template <typename T>
struct Tile {
    static constexpr int N = Pack<T>::N, HELD = 32 / N;
    int width, first_group, groups, packs, rows, row, channel, pixels;
    int64_t base; // of the thread's first element
    template <typename P>
    __device__ __forceinline__ Tile(const P &p, int64_t image) {
        width = p.sizes.channels / p.sizes.groups;
        first_group = blockIdx.y * p.groups_per_block;
        groups = min(p.groups_per_block, p.sizes.groups - first_group);
        packs = groups * width / N;
        rows = 256 / packs;
        row = threadIdx.x / packs;
        channel = (threadIdx.x - row * packs) * N;
        int first = blockIdx.x * p.sizes.pixels_per_slice;
        pixels = row < rows ? min(p.sizes.pixels_per_slice, p.sizes.pixels - first) : 0;
        base = (image * p.sizes.pixels + first + row) * p.sizes.channels + first_group * width + channel;
    }
    // f(k, index of the first element) for each pixel of the thread; k counts them. As many at a time as the caller has registers for: all of HELD where k has
    // to be known to the compiler.
    template <int UNROLL, typename P, typename F>
    __device__ __forceinline__ void each(const P &p, F f) const {
#pragma unroll UNROLL
        for (int k = 0; k < HELD; k++) {
            if (row + k * rows < pixels) f(k, base + int64_t(k) * rows * p.sizes.channels);
        }
    }
    // Where shared memory has what a thread has for a channel of its pack: no two neighbours in one bank, whether they are threads or channels.
    static constexpr int PLACES = N * 257;
    static __device__ __forceinline__ int place(int thread, int channel) { return channel * 257 + thread; }
    // Number of pixels of row `r`.
    __device__ __forceinline__ int count(int r, int pixels) const { return (pixels - r + rows - 1) / rows; }
};

// f(row, place in shared memory) over what eight threads share of a group; the sums of all eight are in `x` of each of them.
template <typename T, typename F>
__device__ __forceinline__ float sum_of_group(const Tile<T> &tile, int group, F f) {
    float sum = 0.0f;
    for (int i = threadIdx.x % 8; i < tile.rows * tile.width; i += 8) {
        int row = i / tile.width;
        int channel = group * tile.width + (i - row * tile.width);
        sum += f(row, Tile<T>::place(row * tile.packs + channel / Tile<T>::N, channel % Tile<T>::N));
    }
#pragma unroll
    for (int lane = 4; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
    return sum;
}

template <typename T>
__device__ __forceinline__ void moments_tile(const DeemGroupnormMoments &p) {
    constexpr int N = Tile<T>::N;
    __shared__ float sums[Tile<T>::PLACES], squares[Tile<T>::PLACES];
    const T *x = static_cast<const T *>(p.x);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        Tile<T> tile(p, image);
        int pixels = min(p.sizes.pixels_per_slice, p.sizes.pixels - int(blockIdx.x) * p.sizes.pixels_per_slice);
        Pack<T> held[Tile<T>::HELD];
        float sum[N] = {}, square[N] = {};
        tile.template each<Tile<T>::HELD>(p, [&](int k, int64_t i) {
            held[k] = load_pack(x + i);
#pragma unroll
            for (int c = 0; c < N; c++) sum[c] += widen(held[k].x[c]);
        });
        float own = 1.0f / float(max(tile.count(tile.row, tile.pixels), 1));
        tile.template each<Tile<T>::HELD>(p, [&](int k, int64_t) {
#pragma unroll
            for (int c = 0; c < N; c++) {
                float d = widen(held[k].x[c]) - sum[c] * own;
                square[c] += d * d;
            }
        });
        __syncthreads();
        if (tile.row < tile.rows) {
#pragma unroll
            for (int c = 0; c < N; c++) {
                sums[tile.place(threadIdx.x, c)] = sum[c];
                squares[tile.place(threadIdx.x, c)] = square[c];
            }
        }
        __syncthreads();
        // All lanes of a warp come along: they shuffle.
        for (int first = 0; first < tile.groups; first += 32) {
            int group = min(first + int(threadIdx.x) / 8, tile.groups - 1);
            float mean = sum_of_group(tile, group, [&](int, int i) { return sums[i]; }) / float(pixels * tile.width);
            float deviations = sum_of_group(tile, group, [&](int row, int i) {
                int count = tile.count(row, pixels);
                float d = count > 0 ? sums[i] / float(count) - mean : 0.0f;
                return squares[i] + float(count) * (d * d);
            });
            if (threadIdx.x % 8 == 0 && first + int(threadIdx.x) / 8 < tile.groups) {
                float *out = static_cast<float *>(p.partial) + ((image * p.sizes.slices + blockIdx.x) * p.sizes.groups + tile.first_group + group) * 2;
                out[0] = mean;
                out[1] = deviations;
            }
        }
    }
}

// Two numbers of each group of a tile, from memory once a block: every thread of the block calls, and may read them then.
template <typename T>
__device__ __forceinline__ const float2 *of_groups(const Tile<T> &tile, const void *array, int64_t first) {
    __shared__ float2 numbers[256 * Tile<T>::N];
    // What the image before has there has been read.
    __syncthreads();
    for (int group = threadIdx.x; group < tile.groups; group += 256) numbers[group] = static_cast<const float2 *>(array)[first + tile.first_group + group];
    __syncthreads();
    return numbers;
}

// What the channels of a pack are normalised with.
template <typename T>
struct Channels {
    static constexpr int N = Pack<T>::N;
    float mean[N], rstd[N], weight[N], bias[N];
    template <typename P>
    __device__ __forceinline__ Channels(const P &p, const Tile<T> &tile, int64_t image) {
        const float2 *stats = of_groups(tile, p.stats, image * p.sizes.groups);
        int channel = tile.first_group * tile.width + tile.channel;
        if (tile.row >= tile.rows) return;
        const T *weights = static_cast<const T *>(p.weight), *biases = static_cast<const T *>(p.bias);
        Pack<T> w = load_pack(weights + channel), b = load_pack(biases + channel);
#pragma unroll
        for (int c = 0; c < N; c++) {
            float2 of_group = stats[(tile.channel + c) / tile.width];
            mean[c] = of_group.x;
            rstd[c] = of_group.y;
            weight[c] = widen(w.x[c]);
            bias[c] = widen(b.x[c]);
        }
    }
    // n and g of channel c.
    __device__ __forceinline__ float2 gradient(int c, float x, float dy, int silu) const {
        float n = (x - mean[c]) * rstd[c];
        return {n, weight[c] * (silu ? derivative<DEEM_ACTIVATION_SILU>(n * weight[c] + bias[c]) * dy : dy)};
    }
};

template <typename T>
__device__ __forceinline__ void forward_tile(const DeemGroupnormForward &p) {
    const T *x = static_cast<const T *>(p.x);
    T *y = static_cast<T *>(p.y);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        Tile<T> tile(p, image);
        Channels<T> at(p, tile, image);
        tile.template each<2>(p, [&](int, int64_t i) {
            Pack<T> in = load_pack(x + i), out;
#pragma unroll
            for (int c = 0; c < Pack<T>::N; c++) {
                float z = (widen(in.x[c]) - at.mean[c]) * at.rstd[c] * at.weight[c] + at.bias[c];
                out.x[c] = narrow<T>(p.silu ? activate<DEEM_ACTIVATION_SILU>(z) : z);
            }
            store_pack(y + i, out);
        });
    }
}

template <typename T>
__device__ __forceinline__ void backward_sums_tile(const DeemGroupnormBackwardSums &p) {
    constexpr int N = Tile<T>::N;
    __shared__ float firsts[Tile<T>::PLACES], seconds[Tile<T>::PLACES];
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        Tile<T> tile(p, image);
        Channels<T> at(p, tile, image);
        float first[N] = {}, second[N] = {};
        tile.template each<2>(p, [&](int, int64_t i) {
            Pack<T> in = load_pack(x + i), d = load_pack(dy + i);
#pragma unroll
            for (int c = 0; c < N; c++) {
                float2 g = at.gradient(c, widen(in.x[c]), widen(d.x[c]), p.silu);
                first[c] += g.y;
                second[c] += g.y * g.x;
            }
        });
        __syncthreads();
        if (tile.row < tile.rows) {
#pragma unroll
            for (int c = 0; c < N; c++) {
                firsts[tile.place(threadIdx.x, c)] = first[c];
                seconds[tile.place(threadIdx.x, c)] = second[c];
            }
        }
        __syncthreads();
        for (int begin = 0; begin < tile.groups; begin += 32) {
            int group = min(begin + int(threadIdx.x) / 8, tile.groups - 1);
            float one = sum_of_group(tile, group, [&](int, int i) { return firsts[i]; });
            float two = sum_of_group(tile, group, [&](int, int i) { return seconds[i]; });
            if (threadIdx.x % 8 == 0 && begin + int(threadIdx.x) / 8 < tile.groups) {
                float *out = static_cast<float *>(p.partial) + ((image * p.sizes.slices + blockIdx.x) * p.sizes.groups + tile.first_group + group) * 2;
                out[0] = one;
                out[1] = two;
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void backward_input_tile(const DeemGroupnormBackwardInput &p) {
    constexpr int N = Tile<T>::N;
    const T *x = static_cast<const T *>(p.x), *dy = static_cast<const T *>(p.dy), *residual = static_cast<const T *>(p.residual);
    T *dx = static_cast<T *>(p.dx);
    for (int64_t image = blockIdx.z; image < p.sizes.images; image += gridDim.z) {
        Tile<T> tile(p, image);
        Channels<T> at(p, tile, image);
        const float2 *totals = of_groups(tile, p.totals, image * p.sizes.groups);
        float first[N], second[N];
        if (tile.row < tile.rows) {
#pragma unroll
            for (int c = 0; c < N; c++) {
                float2 of_group = totals[(tile.channel + c) / tile.width];
                first[c] = of_group.x;
                second[c] = of_group.y;
            }
        }
        tile.template each<2>(p, [&](int, int64_t i) {
            Pack<T> in = load_pack(x + i), d = load_pack(dy + i), beside = {}, out;
            if (residual) beside = load_pack(residual + i);
#pragma unroll
            for (int c = 0; c < N; c++) {
                float2 g = at.gradient(c, widen(in.x[c]), widen(d.x[c]), p.silu);
                out.x[c] = narrow<T>(at.rstd[c] * (g.y - first[c] - g.x * second[c]) + widen(beside.x[c]));
            }
            store_pack(dx + i, out);
        });
    }
}

DEEM_KERNELS(groupnorm_moments, DeemGroupnormMoments, moments)
DEEM_KERNELS(groupnorm_forward, DeemGroupnormForward, forward)
DEEM_KERNELS(groupnorm_backward_sums, DeemGroupnormBackwardSums, backward_sums)
DEEM_KERNELS(groupnorm_backward_input, DeemGroupnormBackwardInput, backward_input)
DEEM_KERNELS(groupnorm_backward_weight, DeemGroupnormBackwardWeight, backward_weight)
DEEM_KERNELS(groupnorm_moments_tile, DeemGroupnormMoments, moments_tile)
DEEM_KERNELS(groupnorm_forward_tile, DeemGroupnormForward, forward_tile)
DEEM_KERNELS(groupnorm_backward_sums_tile, DeemGroupnormBackwardSums, backward_sums_tile)
DEEM_KERNELS(groupnorm_backward_input_tile, DeemGroupnormBackwardInput, backward_input_tile)

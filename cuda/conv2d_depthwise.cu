// Depthwise convolution, channels last, stride 1. Formulas and source: src/ops/conv2d_depthwise.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | conv2d_depthwise_forward | any odd kernel | a thread has a run of 4 pixels of a line and one channel: each pixel that it reads serves up to 4 taps; neighbouring threads are neighbouring channels |
// | conv2d_depthwise_forward_pack | 7 taps a line, channels in fours, arrays that begin with four | a thread has a run of 4 pixels and four channels; the taps of a line stay in registers |
// | conv2d_depthwise_backward_weight | any odd kernel | a block has 32 channels and a slice of lines; its 8 rows of threads share out the kernel's lines; a thread reads each pixel of a line once |
//
// The gradient of the input is the forward with the kernel turned around. Gradients of weights are sums over slices, which reduce_slices adds in order.
#include "../ffi/conv2d_depthwise.h"
#include "common/numeric.cuh"
#include "common/pointwise.cuh"

// Pixels of a line that a thread computes.
static constexpr int RUN = 4;
// Taps of a kernel's line that a thread keeps sums of at once.
static constexpr int TAPS = 8;

template <typename T>
__device__ __forceinline__ void forward(const DeemConv2dDepthwiseForward &p) {
    const T *x = static_cast<const T *>(p.x), *w = static_cast<const T *>(p.w), *bias = static_cast<const T *>(p.bias);
    T *y = static_cast<T *>(p.y);
    int runs = (p.width + RUN - 1) / RUN, up = p.kernel_height / 2, left = p.kernel_width / 2;
    each_index(int64_t(p.batch) * p.height * runs * p.channels, [&](int64_t index) {
        int c = index % p.channels;
        int64_t rest = index / p.channels;
        int first = rest % runs * RUN;
        int64_t line = rest / runs;
        int row = line % p.height;
        float start = bias ? widen(bias[c]) : 0.0f, sums[RUN];
#pragma unroll
        for (int r = 0; r < RUN; r++) sums[r] = start;
        for (int u = 0; u < p.kernel_height; u++) {
            int from = row + u - up;
            if (from < 0 || from >= p.height) continue;
            const T *pixels = x + (line + u - up) * p.width * p.channels + c;
            const T *taps = w + int64_t(p.turned ? p.kernel_height - 1 - u : u) * p.kernel_width * p.channels + c;
            // The pixel at column `first + v - left` meets tap v - r of output r.
            float window[RUN] = {};
            for (int v = 0; v < p.kernel_width + RUN - 1; v++) {
                int column = first + v - left;
                float pixel = column >= 0 && column < p.width ? widen(pixels[int64_t(column) * p.channels]) : 0.0f;
#pragma unroll
                for (int r = RUN - 1; r > 0; r--) window[r] = window[r - 1];
                window[0] = v < p.kernel_width ? widen(taps[int64_t(p.turned ? p.kernel_width - 1 - v : v) * p.channels]) : 0.0f;
#pragma unroll
                for (int r = 0; r < RUN; r++) sums[r] += pixel * window[r];
            }
        }
#pragma unroll
        for (int r = 0; r < RUN; r++) {
            if (first + r < p.width) y[(line * p.width + first + r) * p.channels + c] = narrow<T>(sums[r]);
        }
    });
}

// Channels of a thread, and taps of a kernel's line.
static constexpr int CHANNELS = 4, WIDE = 7;

template <typename T>
__device__ __forceinline__ void forward_pack(const DeemConv2dDepthwiseForward &p) {
    const T *x = static_cast<const T *>(p.x), *w = static_cast<const T *>(p.w), *bias = static_cast<const T *>(p.bias);
    T *y = static_cast<T *>(p.y);
    int runs = (p.width + RUN - 1) / RUN, up = p.kernel_height / 2, packs = p.channels / CHANNELS;
    each_index(int64_t(p.batch) * p.height * runs * packs, [&](int64_t index) {
        int c = int(index % packs) * CHANNELS;
        int64_t rest = index / packs;
        int first = rest % runs * RUN;
        int64_t line = rest / runs;
        int row = line % p.height;
        float sums[RUN][CHANNELS];
        Pack<T, CHANNELS> start = {};
        if (bias) start = load_pack<T, CHANNELS>(bias + c);
#pragma unroll
        for (int r = 0; r < RUN; r++) {
#pragma unroll
            for (int k = 0; k < CHANNELS; k++) sums[r][k] = bias ? widen(start.x[k]) : 0.0f;
        }
        int begin = max(0, up - row), end = min(p.kernel_height, p.height + up - row);
        for (int u = begin; u < end; u++) {
            const T *pixels = x + ((line + u - up) * p.width + first - WIDE / 2) * p.channels + c;
            const T *line_of_taps = w + int64_t(p.turned ? p.kernel_height - 1 - u : u) * WIDE * p.channels + c;
            Pack<T, CHANNELS> taps[WIDE], pixel[WIDE + RUN - 1];
#pragma unroll
            for (int v = 0; v < WIDE; v++) taps[v] = load_pack<T, CHANNELS>(line_of_taps + (p.turned ? WIDE - 1 - v : v) * p.channels);
#pragma unroll
            for (int v = 0; v < WIDE + RUN - 1; v++) {
                int column = first + v - WIDE / 2;
                pixel[v] = {};
                if (column >= 0 && column < p.width) pixel[v] = load_pack<T, CHANNELS>(pixels + v * p.channels);
            }
            // The pixel at column `first + v - 3` meets tap v - r of output r.
#pragma unroll
            for (int v = 0; v < WIDE + RUN - 1; v++) {
#pragma unroll
                for (int k = 0; k < CHANNELS; k++) {
                    float value = widen(pixel[v].x[k]);
#pragma unroll
                    for (int r = 0; r < RUN; r++) {
                        if (v - r >= 0 && v - r < WIDE) sums[r][k] += value * widen(taps[v - r].x[k]);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < RUN; r++) {
            if (first + r >= p.width) continue;
            Pack<T, CHANNELS> out;
#pragma unroll
            for (int k = 0; k < CHANNELS; k++) out.x[k] = narrow<T>(sums[r][k]);
            store_pack(y + (line * p.width + first + r) * p.channels + c, out);
        }
    });
}

template <typename T>
__device__ __forceinline__ void backward_weight(const DeemConv2dDepthwiseBackwardWeight &p) {
    int c = blockIdx.x * 32 + threadIdx.x;
    if (c >= p.channels) return;
    const T *x = static_cast<const T *>(p.x) + c, *dy = static_cast<const T *>(p.dy) + c;
    float *partial = static_cast<float *>(p.partial) + int64_t(blockIdx.y) * p.kernel_height * p.kernel_width * p.channels + c;
    int64_t lines = int64_t(p.batch) * p.height, begin = blockIdx.y * p.lines_per_slice, end = begin + p.lines_per_slice;
    if (end > lines) end = lines;
    int up = p.kernel_height / 2, left = p.kernel_width / 2;
    for (int u = threadIdx.y; u < p.kernel_height; u += blockDim.y) {
        for (int base = 0; base < p.kernel_width; base += TAPS) {
            float sums[TAPS] = {};
            for (int64_t line = begin; line < end; line++) {
                int from = int(line % p.height) + u - up;
                if (from < 0 || from >= p.height) continue;
                const T *pixels = x + (line + u - up) * p.width * p.channels;
                const T *gradients = dy + line * p.width * p.channels;
                auto pixel = [&](int column) { return column >= 0 && column < p.width ? widen(pixels[int64_t(column) * p.channels]) : 0.0f; };
                // The pixels that meet the taps at column j; each is read once, and moves on by a place.
                float window[TAPS];
#pragma unroll
                for (int t = 1; t < TAPS; t++) window[t] = pixel(base - left + t - 1);
                for (int first = 0; first < p.width; first += TAPS) {
                    float d[TAPS], next[TAPS];
#pragma unroll
                    for (int s = 0; s < TAPS; s++) {
                        d[s] = first + s < p.width ? widen(gradients[int64_t(first + s) * p.channels]) : 0.0f;
                        next[s] = pixel(first + s + base - left + TAPS - 1);
                    }
#pragma unroll
                    for (int s = 0; s < TAPS; s++) {
#pragma unroll
                        for (int t = 0; t < TAPS - 1; t++) window[t] = window[t + 1];
                        window[TAPS - 1] = next[s];
                        if (first + s >= p.width) continue;
#pragma unroll
                        for (int t = 0; t < TAPS; t++) sums[t] += d[s] * window[t];
                    }
                }
            }
#pragma unroll
            for (int t = 0; t < TAPS; t++) {
                if (base + t < p.kernel_width) partial[int64_t(u * p.kernel_width + base + t) * p.channels] = sums[t];
            }
        }
    }
}

DEEM_KERNELS(conv2d_depthwise_forward, DeemConv2dDepthwiseForward, forward)
DEEM_KERNELS(conv2d_depthwise_forward_pack, DeemConv2dDepthwiseForward, forward_pack)
DEEM_KERNELS(conv2d_depthwise_backward_weight, DeemConv2dDepthwiseBackwardWeight, backward_weight)

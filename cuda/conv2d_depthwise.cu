// Depthwise convolution, channels last, stride 1. Formulas and source: src/ops/conv2d_depthwise.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | conv2d_depthwise_forward | any odd kernel | a thread has a run of 4 pixels of a line and one channel: each pixel that it reads serves up to 4 taps; neighbouring threads are neighbouring channels |
// | conv2d_depthwise_backward_weight | any odd kernel | a block has 32 channels and a slice of lines; its 8 rows of threads share out the kernel's lines |
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
                for (int j = 0; j < p.width; j++) {
                    float d = widen(gradients[int64_t(j) * p.channels]);
#pragma unroll
                    for (int t = 0; t < TAPS; t++) {
                        int column = j + base + t - left;
                        if (base + t < p.kernel_width && column >= 0 && column < p.width) {
                            sums[t] += d * widen(pixels[int64_t(column) * p.channels]);
                        }
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
DEEM_KERNELS(conv2d_depthwise_backward_weight, DeemConv2dDepthwiseBackwardWeight, backward_weight)

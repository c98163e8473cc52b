// Two-dimensional convolution, channels last, as a matrix product whose operand is gathered from the image (implicit GEMM).
//
// Shapes: x [B, H, W, I], w [O, Kh, Kw, I], y [B, OH, OW, O]; B, H, W and O, I each below 2^31, and so is Kh Kw I.
//
// | product | C | A | B | K |
// |---|---|---|---|---|
// | forward | y [B OH OW, O] | patches of x | w | Kh Kw I |
// | backward_input | dx [B H W, I] | patches of dy | w | Kh Kw O |
// | backward_weight | dw [O, Kh Kw I], added to | dy | patches of x | B OH OW |
//
// | kernel | legal for | tile | threads | dynamic shared |
// |---|---|---|---|---|
// | conv2d_forward_{f32,bf16} | everything | 64 x 64 x 16 | 256 | 0 |
// | conv2d_backward_input_{f32,bf16} | everything | 64 x 64 x 16 | 256 | 0 |
// | conv2d_backward_weight_{f32,bf16} | everything | 64 x 64 x 16 | 256 | 0 |
//
// Launch: grid.x = tiles of C. A sum is made by one block, in rising k: no atomics.
#include "../ffi/conv2d.h"
#include "common/tile.cuh"

namespace deem {

/// A pixel of a grid of `[B, height, width]`.
struct Pixel {
    int64_t b;
    int32_t i, j;
};

__device__ __forceinline__ Pixel pixel_of(int64_t row, int32_t height, int32_t width) {
    const int64_t line = row / width;
    return {line / height, static_cast<int32_t>(line % height), static_cast<int32_t>(row - line * width)};
}

// ---------------------------------------------------------------- plain

/// Patches of x: line = output pixel, k = (u, v, c). `P`: the struct of the launch.
template <class E, class P> struct PatchLines {
    using Line = Pixel;
    static constexpr bool along_k = true;
    const P &p;

    __device__ Line line(int64_t row) const {
        const Pixel at = pixel_of(row, p.oh, p.ow);
        return {at.b, at.i * p.stride - p.top, at.j * p.stride - p.left};
    }

    __device__ float at(Line line, int64_t k) const {
        const int32_t tap = static_cast<int32_t>(k) / p.i, c = static_cast<int32_t>(k) - tap * p.i;
        const int32_t h = line.i + tap / p.kw, w = line.j + tap % p.kw;
        if (h < 0 || h >= p.h || w < 0 || w >= p.w_pixels) return 0.f;
        return E::load(static_cast<const typename E::Stored *>(p.x) + ((line.b * p.h + h) * p.w_pixels + w) * p.i + c);
    }
};

/// Patches of x the other way: line = (u, v, c), k = output pixel.
template <class E> struct PatchColumns {
    struct Line {
        int32_t u, v, c;
    };
    static constexpr bool along_k = false;
    const DeemConv2dBackwardWeight &p;

    __device__ Line line(int64_t column) const {
        const int32_t tap = static_cast<int32_t>(column) / p.i;
        return {tap / p.kw - p.top, tap % p.kw - p.left, static_cast<int32_t>(column) - tap * p.i};
    }

    __device__ float at(Line line, int64_t k) const {
        const Pixel at = pixel_of(k, p.oh, p.ow);
        const int32_t h = at.i * p.stride + line.u, w = at.j * p.stride + line.v;
        if (h < 0 || h >= p.h || w < 0 || w >= p.w_pixels) return 0.f;
        return E::load(static_cast<const typename E::Stored *>(p.x) + ((at.b * p.h + h) * p.w_pixels + w) * p.i + line.c);
    }
};

/// What of dy reaches a pixel of x: line = pixel of x, k = (u, v, o).
template <class E> struct ReachingLines {
    using Line = Pixel;
    static constexpr bool along_k = true;
    const DeemConv2dBackwardInput &p;

    __device__ Line line(int64_t row) const {
        const Pixel at = pixel_of(row, p.h, p.w_pixels);
        return {at.b, at.i + p.top, at.j + p.left};
    }

    __device__ float at(Line line, int64_t k) const {
        const int32_t tap = static_cast<int32_t>(k) / p.o, o = static_cast<int32_t>(k) - tap * p.o;
        const int32_t y = line.i - tap / p.kw, x = line.j - tap % p.kw;
        if (y < 0 || x < 0 || y % p.stride != 0 || x % p.stride != 0) return 0.f;
        const int32_t i = y / p.stride, j = x / p.stride;
        if (i >= p.oh || j >= p.ow) return 0.f;
        return E::load(static_cast<const typename E::Stored *>(p.dy) + ((line.b * p.oh + i) * p.ow + j) * p.o + o);
    }
};

/// Weights: line = o, k = (u, v, c).
template <class E> struct WeightLines {
    using Line = int64_t;
    static constexpr bool along_k = true;
    const typename E::Stored *w;
    int64_t k;
    __device__ Line line(int64_t o) const { return o * k; }
    __device__ float at(Line line, int64_t k) const { return E::load(w + line + k); }
};

/// Weights the other way: line = c, k = (u, v, o).
template <class E> struct WeightColumns {
    using Line = int64_t;
    static constexpr bool along_k = false;
    const DeemConv2dBackwardInput &p;
    __device__ Line line(int64_t c) const { return c; }
    __device__ float at(Line line, int64_t k) const {
        const int32_t tap = static_cast<int32_t>(k) / p.o, o = static_cast<int32_t>(k) - tap * p.o;
        return E::load(static_cast<const typename E::Stored *>(p.w) + (static_cast<int64_t>(o) * p.kh * p.kw + tap) * p.i + line);
    }
};

/// Pixels of dy: line = o, k = output pixel.
template <class E> struct PixelColumns {
    using Line = int64_t;
    static constexpr bool along_k = false;
    const typename E::Stored *dy;
    int64_t o;
    __device__ Line line(int64_t o) const { return o; }
    __device__ float at(Line line, int64_t k) const { return E::load(dy + k * o + line); }
};

/// Where the sums of the forward go, with the epilogue's terms.
template <class E> struct ForwardSink {
    using Stored = typename E::Stored;
    const DeemConv2dForward &p;

    __device__ void operator()(int64_t row, int64_t o, float sum) const {
        if (p.bias) sum += E::load(static_cast<const Stored *>(p.bias) + o);
        if (p.per_image) sum += E::load(static_cast<const Stored *>(p.per_image) + row / (static_cast<int64_t>(p.oh) * p.ow) * p.o + o);
        if (p.residual) sum += E::load(static_cast<const Stored *>(p.residual) + row * p.o + o);
        E::store(static_cast<Stored *>(p.y) + row * p.o + o, sum);
    }
};

/// Sums stored, or added to f32, in rows of `columns`.
template <class E, bool ADD> struct PlainSink {
    typename E::Stored *c;
    int64_t columns;
    __device__ void operator()(int64_t row, int64_t column, float sum) const {
        typename E::Stored *to = c + row * columns + column;
        E::store(to, ADD ? E::load(to) + sum : sum);
    }
};

/// The first row and column of this block's tile.
template <int TILE> __device__ __forceinline__ void place_of_tile(int64_t n, int64_t &row0, int64_t &col0) {
    const int64_t columns = (n + TILE - 1) / TILE;
    row0 = blockIdx.x / columns * TILE;
    col0 = blockIdx.x % columns * TILE;
}

template <class E> __device__ __forceinline__ void forward_plain(const DeemConv2dForward &p) {
    const int64_t m = p.batch * p.oh * p.ow, k = static_cast<int64_t>(p.kh) * p.kw * p.i;
    int64_t row0, col0;
    place_of_tile<SIMT_TILE>(p.o, row0, col0);
    simt_tile(PatchLines<E, DeemConv2dForward>{p}, WeightLines<E>{static_cast<const typename E::Stored *>(p.w), k}, ForwardSink<E>{p}, m, p.o, k, row0, col0);
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_forward_f32(const __grid_constant__ DeemConv2dForward p) { forward_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_forward_bf16(const __grid_constant__ DeemConv2dForward p) { forward_plain<Bf16>(p); }

template <class E> __device__ __forceinline__ void backward_input_plain(const DeemConv2dBackwardInput &p) {
    const int64_t m = p.batch * p.h * p.w_pixels, k = static_cast<int64_t>(p.kh) * p.kw * p.o;
    int64_t row0, col0;
    place_of_tile<SIMT_TILE>(p.i, row0, col0);
    simt_tile(ReachingLines<E>{p}, WeightColumns<E>{p}, PlainSink<E, false>{static_cast<typename E::Stored *>(p.dx), p.i}, m, p.i, k, row0, col0);
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_input_f32(const __grid_constant__ DeemConv2dBackwardInput p) { backward_input_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_input_bf16(const __grid_constant__ DeemConv2dBackwardInput p) { backward_input_plain<Bf16>(p); }

template <class E> __device__ __forceinline__ void backward_weight_plain(const DeemConv2dBackwardWeight &p) {
    const int64_t n = static_cast<int64_t>(p.kh) * p.kw * p.i, k = p.batch * p.oh * p.ow;
    int64_t row0, col0;
    place_of_tile<SIMT_TILE>(n, row0, col0);
    simt_tile(PixelColumns<E>{static_cast<const typename E::Stored *>(p.dy), p.o}, PatchColumns<E>{p}, PlainSink<F32, true>{static_cast<float *>(p.dw), n}, p.o, n, k,
              row0, col0);
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_weight_f32(const __grid_constant__ DeemConv2dBackwardWeight p) { backward_weight_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_weight_bf16(const __grid_constant__ DeemConv2dBackwardWeight p) { backward_weight_plain<Bf16>(p); }

} // namespace deem

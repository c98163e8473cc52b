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
// | conv2d_{forward,backward_input,backward_weight}_mma_bf16 | below | 128 x 128 x 32 | 128 | 69632 |
// | conv2d_{forward,backward_input,backward_weight}_tile_f32 | below | 128 x 128 x 16 | 256 | 0 |
// | conv2d_backward_weight_reduce_f32 | splits > 1 | 256 numbers | 256 | 0 |
//
// The large tiles want bases 16-byte aligned, at most 31 taps, and channels in multiples of d (32 for mma, 16 for tile) where patches run along k:
// forward I % d = 0 and O % 8 = 0; backward_input O % d = 0 and I % 8 = 0; backward_weight I % 8 = 0, O % 8 = 0, x and dy below 2^31 bytes.
//
// Launch: grid.x = tiles of C; grid.y = phases (stride * stride) of backward_input's large tiles, splits of backward_weight's. No atomics: a sum is made by one block in
// rising k, or in as many parts as the shape alone says, which are added in order.
//
// Quality of the main loops: KERNELS.md.
#include "../ffi/conv2d.h"
#include "common/operands.cuh"

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
        const Pixel at = pixel_of(row, p.sizes.oh, p.sizes.ow);
        return {at.b, at.i * p.sizes.stride - p.sizes.top, at.j * p.sizes.stride - p.sizes.left};
    }

    __device__ float at(Line line, int64_t k) const {
        const int32_t tap = static_cast<int32_t>(k) / p.sizes.i, c = static_cast<int32_t>(k) - tap * p.sizes.i;
        const int32_t h = line.i + tap / p.sizes.kw, w = line.j + tap % p.sizes.kw;
        if (h < 0 || h >= p.sizes.h || w < 0 || w >= p.sizes.w_pixels) return 0.f;
        return E::load(static_cast<const typename E::Stored *>(p.x) + ((line.b * p.sizes.h + h) * p.sizes.w_pixels + w) * p.sizes.i + c);
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
        const int32_t tap = static_cast<int32_t>(column) / p.sizes.i;
        return {tap / p.sizes.kw - p.sizes.top, tap % p.sizes.kw - p.sizes.left, static_cast<int32_t>(column) - tap * p.sizes.i};
    }

    __device__ float at(Line line, int64_t k) const {
        const Pixel at = pixel_of(k, p.sizes.oh, p.sizes.ow);
        const int32_t h = at.i * p.sizes.stride + line.u, w = at.j * p.sizes.stride + line.v;
        if (h < 0 || h >= p.sizes.h || w < 0 || w >= p.sizes.w_pixels) return 0.f;
        return E::load(static_cast<const typename E::Stored *>(p.x) + ((at.b * p.sizes.h + h) * p.sizes.w_pixels + w) * p.sizes.i + line.c);
    }
};

/// What of dy reaches a pixel of x: line = pixel of x, k = (u, v, o).
template <class E> struct ReachingLines {
    using Line = Pixel;
    static constexpr bool along_k = true;
    const DeemConv2dBackwardInput &p;

    __device__ Line line(int64_t row) const {
        const Pixel at = pixel_of(row, p.sizes.h, p.sizes.w_pixels);
        return {at.b, at.i + p.sizes.top, at.j + p.sizes.left};
    }

    __device__ float at(Line line, int64_t k) const {
        const int32_t tap = static_cast<int32_t>(k) / p.sizes.o, o = static_cast<int32_t>(k) - tap * p.sizes.o;
        const int32_t y = line.i - tap / p.sizes.kw, x = line.j - tap % p.sizes.kw;
        if (y < 0 || x < 0 || y % p.sizes.stride != 0 || x % p.sizes.stride != 0) return 0.f;
        const int32_t i = y / p.sizes.stride, j = x / p.sizes.stride;
        if (i >= p.sizes.oh || j >= p.sizes.ow) return 0.f;
        return E::load(static_cast<const typename E::Stored *>(p.dy) + ((line.b * p.sizes.oh + i) * p.sizes.ow + j) * p.sizes.o + o);
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
        const int32_t tap = static_cast<int32_t>(k) / p.sizes.o, o = static_cast<int32_t>(k) - tap * p.sizes.o;
        return E::load(static_cast<const typename E::Stored *>(p.w) + (static_cast<int64_t>(o) * p.sizes.kh * p.sizes.kw + tap) * p.sizes.i + line);
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

    __device__ void operator()(int64_t row, int64_t o, float4 x) const {
        if (row >= p.sizes.batch * p.sizes.oh * p.sizes.ow || o >= p.sizes.o) return;
        const auto add = [&](const void *from, int64_t at) {
            const float4 y = E::load4(static_cast<const Stored *>(from) + at);
            x = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
        };
        if (p.bias) add(p.bias, o);
        if (p.per_image) add(p.per_image, row / (static_cast<int64_t>(p.sizes.oh) * p.sizes.ow) * p.sizes.o + o);
        if (p.residual) add(p.residual, row * p.sizes.o + o);
        E::store4(static_cast<Stored *>(p.y) + row * p.sizes.o + o, x);
    }

    __device__ void operator()(int64_t row, int64_t o, float sum) const {
        if (p.bias) sum += E::load(static_cast<const Stored *>(p.bias) + o);
        if (p.per_image) sum += E::load(static_cast<const Stored *>(p.per_image) + row / (static_cast<int64_t>(p.sizes.oh) * p.sizes.ow) * p.sizes.o + o);
        if (p.residual) sum += E::load(static_cast<const Stored *>(p.residual) + row * p.sizes.o + o);
        E::store(static_cast<Stored *>(p.y) + row * p.sizes.o + o, sum);
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

template <class E> __device__ __forceinline__ void forward_plain(const DeemConv2dForward &p) {
    const int64_t m = p.sizes.batch * p.sizes.oh * p.sizes.ow, k = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i;
    int64_t row0, col0;
    place_of_tile<SIMT_TILE, SIMT_TILE>(m, p.sizes.o, row0, col0);
    simt_tile(PatchLines<E, DeemConv2dForward>{p}, WeightLines<E>{static_cast<const typename E::Stored *>(p.w), k}, ForwardSink<E>{p}, m, p.sizes.o, k, row0, col0);
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_forward_f32(const __grid_constant__ DeemConv2dForward p) { forward_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_forward_bf16(const __grid_constant__ DeemConv2dForward p) { forward_plain<Bf16>(p); }

template <class E> __device__ __forceinline__ void backward_input_plain(const DeemConv2dBackwardInput &p) {
    const int64_t m = p.sizes.batch * p.sizes.h * p.sizes.w_pixels, k = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.o;
    int64_t row0, col0;
    place_of_tile<SIMT_TILE, SIMT_TILE>(m, p.sizes.i, row0, col0);
    simt_tile(ReachingLines<E>{p}, WeightColumns<E>{p}, PlainSink<E, false>{static_cast<typename E::Stored *>(p.dx), p.sizes.i}, m, p.sizes.i, k, row0, col0);
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_input_f32(const __grid_constant__ DeemConv2dBackwardInput p) { backward_input_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_input_bf16(const __grid_constant__ DeemConv2dBackwardInput p) { backward_input_plain<Bf16>(p); }

template <class E> __device__ __forceinline__ void backward_weight_plain(const DeemConv2dBackwardWeight &p) {
    const int64_t n = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i, k = p.sizes.batch * p.sizes.oh * p.sizes.ow;
    int64_t row0, col0;
    place_of_tile<SIMT_TILE, SIMT_TILE>(p.sizes.o, n, row0, col0);
    simt_tile(PixelColumns<E>{static_cast<const typename E::Stored *>(p.dy), p.sizes.o}, PatchColumns<E>{p}, PlainSink<F32, true>{static_cast<float *>(p.dw), n}, p.sizes.o, n, k,
              row0, col0);
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_weight_f32(const __grid_constant__ DeemConv2dBackwardWeight p) { backward_weight_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) conv2d_backward_weight_bf16(const __grid_constant__ DeemConv2dBackwardWeight p) { backward_weight_plain<Bf16>(p); }

// ---------------------------------------------------------------- large tiles
//
// Pieces of an operand lie within one tap of the kernel, since channels are a multiple of the tile's depth. Which taps fall outside the image is a bit mask per
// pixel, made once; a step along k then costs one offset for all rows and a bit test for each.

/// Patches of an image along k, as a source of `mma_tile` (PIECE 8) or `ffma_tile` (PIECE 4): this thread has rows thread / 4 + STEP i.
///
/// Tap (u, v) of pixel (i, j) of a grid reads pixel (i step + i0 + u sign, j step + j0 + v sign) of an image `[B, height, width, channels]`.
template <class E, int COUNT, int STEP, int PIECE> struct PatchPieces {
    using Stored = typename E::Stored;
    static constexpr bool ALONG = true;
    static constexpr int DEPTH = 4 * PIECE; // of a tile
    const Stored *from[COUNT];
    uint32_t inside[COUNT];
    int32_t channels, taps_across, line_jump, tap_jump; // of the walk along k, in numbers
    int32_t tap = 0, across = 0, channel = 0;
    int64_t offset = 0;

    struct Grid {
        int64_t rows;
        int32_t height, width, step, i0, j0;
    };
    struct Image {
        const Stored *data;
        int32_t height, width, channels;
    };

    __device__ __forceinline__ PatchPieces(const Grid &grid, const Image &image, int32_t taps_down, int32_t taps_across, int32_t sign, int64_t row0)
        : channels(image.channels), taps_across(taps_across), line_jump(sign * (image.width - taps_across) * image.channels), tap_jump(sign > 0 ? 0 : -2 * image.channels) {
        for (int n = 0; n < COUNT; ++n) {
            const int64_t row = row0 + threadIdx.x / 4 + n * STEP;
            const Pixel at = pixel_of(row < grid.rows ? row : 0, grid.height, grid.width);
            const int32_t i = at.i * grid.step + grid.i0, j = at.j * grid.step + grid.j0;
            from[n] = opaque(image.data + ((at.b * image.height + i) * image.width + j) * image.channels + threadIdx.x % 4 * PIECE);
            inside[n] = 0;
            for (int32_t u = 0; row < grid.rows && u < taps_down; ++u)
                for (int32_t v = 0; v < taps_across; ++v) {
                    const int32_t h = i + u * sign, w = j + v * sign;
                    if (h >= 0 && h < image.height && w >= 0 && w < image.width) inside[n] |= 1u << (u * taps_across + v);
                }
        }
    }

    __device__ __forceinline__ void advance() {
        channel += DEPTH;
        offset += DEPTH;
        if (channel == channels) { // the next tap's numbers follow, or precede
            channel = 0;
            offset += tap_jump;
            ++tap;
            if (++across == taps_across) {
                across = 0;
                offset += line_jump;
            }
        }
    }

    __device__ __forceinline__ void copy(uint32_t to) {
        const uint32_t bit = tap < 32 ? 1u << tap : 0;
#pragma unroll
        for (int n = 0; n < COUNT; ++n) copy_async_16(to + n * PIECE_STEP<MMA_TILE, ALONG>, from[n] + offset, inside[n] & bit ? 16 : 0);
        advance();
    }

    __device__ __forceinline__ void fetch(float4 (&pieces)[COUNT]) {
        const uint32_t bit = tap < 32 ? 1u << tap : 0;
#pragma unroll
        for (int n = 0; n < COUNT; ++n) pieces[n] = inside[n] & bit ? F32::load4(from[n] + offset) : make_float4(0.f, 0.f, 0.f, 0.f);
        advance();
    }
};
using MmaPatches = PatchPieces<Bf16, Mma<MMA_TILE>::PIECES, 32, 8>;
using FfmaPatches = PatchPieces<F32, FFMA_PIECES, 64, 4>;

/// Patches of a forward's input.
template <class Source, class P> __device__ __forceinline__ Source patches_of(const P &p, int64_t row0) {
    return Source({p.sizes.batch * p.sizes.oh * p.sizes.ow, p.sizes.oh, p.sizes.ow, p.sizes.stride, -p.sizes.top, -p.sizes.left}, {static_cast<const typename Source::Stored *>(p.x), p.sizes.h, p.sizes.w_pixels, p.sizes.i}, p.sizes.kh, p.sizes.kw, 1, row0);
}

extern "C" __global__ void __launch_bounds__(MMA_THREADS, 1) conv2d_forward_mma_bf16(const __grid_constant__ DeemConv2dForward p) {
    extern __shared__ __align__(128) uint8_t shared[];
    const int64_t k = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i;
    int64_t row0, col0;
    place_of_tile<MMA_TILE, MMA_TILE>(p.sizes.batch * p.sizes.oh * p.sizes.ow, p.sizes.o, row0, col0);
    MmaPatches a = patches_of<MmaPatches>(p, row0);
    RowsAlong<MMA_TILE> b(static_cast<const uint16_t *>(p.w), p.sizes.o, k, col0);
    float sums[4][8][4] = {};
    mma_tile<Bf16, MMA_TILE>(a, b, static_cast<int>(k / MMA_K), shared_address(shared), sums);
    mma_store<MMA_TILE>(reinterpret_cast<float *>(shared), sums, row0, col0, ForwardSink<Bf16>{p});
}

extern "C" __global__ void __launch_bounds__(FFMA_THREADS, 1) conv2d_forward_tile_f32(const __grid_constant__ DeemConv2dForward p) {
    const int64_t k = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i;
    int64_t row0, col0;
    place_of_tile<FFMA_TILE, FFMA_TILE>(p.sizes.batch * p.sizes.oh * p.sizes.ow, p.sizes.o, row0, col0);
    FfmaPatches a = patches_of<FfmaPatches>(p, row0);
    LinesAlong b(static_cast<const float *>(p.w), p.sizes.o, k, col0);
    ffma_tile(a, b, static_cast<int>(k / FFMA_K), row0, col0, ForwardSink<F32>{p});
}

// ---------------------------------------------------------------- large tiles, gradient of the input
//
// With stride s the pixels of dx fall into s s phases (grid.y): those of a phase are reached by the same taps, and no work is spent on zeros between pixels.

/// Along one axis: the first tap that reaches phase `at`, the number of taps, of pixels, and the output that the first tap of its first pixel comes from.
struct Phase {
    int32_t first, taps, pixels, output;
    __device__ Phase(int32_t at, int32_t pad, int32_t kernel, int32_t size, int32_t stride) {
        first = (at + pad) % stride;
        taps = first < kernel ? (kernel - first + stride - 1) / stride : 0;
        pixels = at < size ? (size - at + stride - 1) / stride : 0;
        output = (at + pad - first) / stride;
    }
};

/// Weights the other way, as a source: line = c, k = (tap of the phase, o). `COUNT` pieces of `PIECE` numbers, rows thread / THREADS_PER_ROW + STEP n.
template <class E, int COUNT, int STEP, int PIECE, int DEPTH> struct WeightPieces {
    using Stored = typename E::Stored;
    static constexpr bool ALONG = false;
    const Stored *from;
    int64_t row, tap_jump, line_jump;
    int32_t outputs, taps_across, taps, across = 0, channel = 0;
    bool exists;

    __device__ __forceinline__ WeightPieces(const DeemConv2dBackwardInput &p, const Phase &down, const Phase &right, int64_t col0) {
        constexpr int PER_ROW = 128 / PIECE;
        row = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i;
        outputs = p.sizes.o;
        taps_across = right.taps;
        taps = down.taps * right.taps;
        tap_jump = static_cast<int64_t>(p.sizes.stride) * p.sizes.i - p.sizes.o * row;
        line_jump = static_cast<int64_t>(p.sizes.stride) * (p.sizes.kw - right.taps) * p.sizes.i;
        const int64_t c = col0 + threadIdx.x % PER_ROW * PIECE;
        exists = c < p.sizes.i;
        from = static_cast<const Stored *>(p.w) + threadIdx.x / PER_ROW * row + (static_cast<int64_t>(down.first) * p.sizes.kw + right.first) * p.sizes.i + c;
    }

    __device__ __forceinline__ void advance() {
        channel += DEPTH;
        from += DEPTH * row;
        if (channel == outputs) {
            channel = 0;
            from += tap_jump;
            --taps;
            if (++across == taps_across) {
                across = 0;
                from += line_jump;
            }
        }
    }

    __device__ __forceinline__ void copy(uint32_t to) {
        const uint32_t bytes = exists && taps > 0 ? 16 : 0;
#pragma unroll
        for (int n = 0; n < COUNT; ++n) copy_async_16(to + n * PIECE_STEP<MMA_TILE, ALONG>, from + n * STEP * row, bytes);
        advance();
    }

    __device__ __forceinline__ void fetch(float4 (&pieces)[COUNT]) {
        const bool read = exists && taps > 0;
#pragma unroll
        for (int n = 0; n < COUNT; ++n) pieces[n] = read ? F32::load4(from + n * STEP * row) : make_float4(0.f, 0.f, 0.f, 0.f);
        advance();
    }
};

/// Where the sums of a phase go.
template <class E> struct PhaseSink {
    const DeemConv2dBackwardInput &p;
    int32_t at_h, at_w, height, width;

    __device__ void operator()(int64_t row, int64_t c, float4 x) const {
        if (row >= p.sizes.batch * height * width || c >= p.sizes.i) return;
        const Pixel at = pixel_of(row, height, width);
        E::store4(static_cast<typename E::Stored *>(p.dx) + ((at.b * p.sizes.h + at_h + at.i * p.sizes.stride) * p.sizes.w_pixels + at_w + at.j * p.sizes.stride) * p.sizes.i + c, x);
    }
};

/// The phase blockIdx.y of a tile: `product(patches, weights, steps, row0, col0, sink)`.
template <class E, class A, class B, int TILE, int DEPTH, class F> __device__ __forceinline__ void backward_input_phase(const DeemConv2dBackwardInput &p, const F &product) {
    const int32_t at_h = blockIdx.y / p.sizes.stride, at_w = blockIdx.y % p.sizes.stride;
    const Phase down(at_h, p.sizes.top, p.sizes.kh, p.sizes.h, p.sizes.stride), right(at_w, p.sizes.left, p.sizes.kw, p.sizes.w_pixels, p.sizes.stride);
    const int64_t rows = p.sizes.batch * down.pixels * right.pixels;
    int64_t row0, col0;
    place_of_tile<TILE, TILE>(rows, p.sizes.i, row0, col0);
    if (row0 >= rows || col0 >= p.sizes.i) return; // phases differ by a row or column of pixels
    A a({rows, down.pixels, right.pixels, 1, down.output, right.output}, {static_cast<const typename E::Stored *>(p.dy), p.sizes.oh, p.sizes.ow, p.sizes.o}, down.taps, right.taps, -1, row0);
    B b(p, down, right, col0);
    product(a, b, down.taps * right.taps * (p.sizes.o / DEPTH), row0, col0, PhaseSink<E>{p, at_h, at_w, down.pixels, right.pixels});
}

extern "C" __global__ void __launch_bounds__(MMA_THREADS, 1) conv2d_backward_input_mma_bf16(const __grid_constant__ DeemConv2dBackwardInput p) {
    extern __shared__ __align__(128) uint8_t shared[];
    backward_input_phase<Bf16, MmaPatches, WeightPieces<Bf16, Mma<MMA_TILE>::PIECES, 8, 8, MMA_K>, MMA_TILE, MMA_K>(p, [&](auto &a, auto &b, int steps, int64_t row0, int64_t col0, const auto &sink) {
        float sums[4][8][4] = {};
        mma_tile<Bf16, MMA_TILE>(a, b, steps, shared_address(shared), sums);
        mma_store<MMA_TILE>(reinterpret_cast<float *>(shared), sums, row0, col0, sink);
    });
}

extern "C" __global__ void __launch_bounds__(FFMA_THREADS, 1) conv2d_backward_input_tile_f32(const __grid_constant__ DeemConv2dBackwardInput p) {
    backward_input_phase<F32, FfmaPatches, WeightPieces<F32, FFMA_PIECES, 8, 4, FFMA_K>, FFMA_TILE, FFMA_K>(
        p, [](auto &a, auto &b, int steps, int64_t row0, int64_t col0, const auto &sink) { ffma_tile(a, b, steps, row0, col0, sink); });
}

// ---------------------------------------------------------------- large tiles, gradient of the weights

/// Patches the other way, as a source: line = (u, v, c), k = output pixel `first` and on. Each lane of a warp walks with one pixel of the tile and tells it to those that
/// copy from it. Offsets into x are below 2^31 bytes.
template <class E, int COUNT, int STEP, int PIECE, int DEPTH> struct PixelPieces {
    using Stored = typename E::Stored;
    static constexpr bool ALONG = false;
    static constexpr int32_t NOWHERE = 1 << 30;
    const uint8_t *x;             // this thread's tap and channels, of pixel (0, 0) of the grid
    int32_t u, v, height, width;  // this thread's tap, less the padding; size of the image
    int32_t left;                 // pixels to go, less this lane
    int32_t h, w, at;             // this lane's pixel of the grid, in the image, and its offset in x in bytes
    int32_t h_step, w_step, step; // to the next tile
    int32_t w_end, h_end, h_step_up, line_jump, image_jump;

    __device__ __forceinline__ PixelPieces(const DeemConv2dBackwardWeight &p, int64_t first, int64_t count, int64_t col0) {
        const int64_t column = col0 + threadIdx.x % (128 / PIECE) * PIECE, n = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i;
        const int32_t tap = static_cast<int32_t>(column / p.sizes.i), c = static_cast<int32_t>(column % p.sizes.i), lane = threadIdx.x % DEPTH;
        u = column < n ? tap / p.sizes.kw - p.sizes.top : NOWHERE; // a column that does not exist is outside every image
        v = tap % p.sizes.kw - p.sizes.left;
        height = p.sizes.h, width = p.sizes.w_pixels;
        constexpr int32_t SIZE = sizeof(Stored);
        x = opaque(static_cast<const uint8_t *>(p.x) + (column < n ? (static_cast<int64_t>(u) * width + v) * p.sizes.i + c : 0) * SIZE);
        left = static_cast<int32_t>(count) - lane;
        const Pixel pixel = pixel_of(first + lane, p.sizes.oh, p.sizes.ow);
        h = pixel.i * p.sizes.stride, w = pixel.j * p.sizes.stride;
        at = static_cast<int32_t>(((pixel.b * height + h) * width + w) * p.sizes.i * SIZE);
        // DEPTH pixels on are so many columns, lines and images; a carry takes a line or an image more.
        const int32_t lines = DEPTH / p.sizes.ow, images = lines / p.sizes.oh;
        w_step = DEPTH % p.sizes.ow * p.sizes.stride, h_step = lines % p.sizes.oh * p.sizes.stride;
        step = ((images * height + h_step) * width + w_step) * p.sizes.i * SIZE;
        w_end = p.sizes.ow * p.sizes.stride, h_end = p.sizes.oh * p.sizes.stride, h_step_up = p.sizes.stride;
        line_jump = (p.sizes.stride * width - w_end) * p.sizes.i * SIZE;
        image_jump = (height - h_end) * width * p.sizes.i * SIZE;
    }

    /// Calls `f(n, address, whether it is inside the image)` for this thread's pieces, and moves on.
    template <class F> __device__ __forceinline__ void each(const F &f) {
        const int32_t tell_h = left > 0 ? h : NOWHERE;
        const int first_row = threadIdx.x / (128 / PIECE);
#pragma unroll
        for (int n = 0; n < COUNT; ++n) {
            const int32_t ih = __shfl_sync(0xffffffffu, tell_h, first_row + n * STEP) + u, iw = __shfl_sync(0xffffffffu, w, first_row + n * STEP) + v;
            const int32_t offset = __shfl_sync(0xffffffffu, at, first_row + n * STEP);
            f(n, reinterpret_cast<const Stored *>(x + offset), static_cast<uint32_t>(ih) < static_cast<uint32_t>(height) && static_cast<uint32_t>(iw) < static_cast<uint32_t>(width));
        }
        left -= DEPTH;
        w += w_step;
        h += h_step;
        at += step;
        if (w >= w_end) w -= w_end, h += h_step_up, at += line_jump;
        if (h >= h_end) h -= h_end, at += image_jump;
    }

    __device__ __forceinline__ void copy(uint32_t to) {
        each([&](int n, const Stored *from, bool inside) { copy_async_16(to + n * PIECE_STEP<MMA_TILE, ALONG>, from, inside ? 16 : 0); });
    }

    __device__ __forceinline__ void fetch(float4 (&pieces)[COUNT]) {
        each([&](int n, const Stored *from, bool inside) { pieces[n] = inside ? F32::load4(from) : make_float4(0.f, 0.f, 0.f, 0.f); });
    }
};

/// Sums added to dw, or stored where part `split` of the pixels has its own.
struct WeightSink {
    const DeemConv2dBackwardWeight &p;
    int64_t columns;
    int split;

    __device__ void operator()(int64_t row, int64_t column, float4 x) const {
        if (row >= p.sizes.o || column >= columns) return;
        const int64_t at = row * columns + column;
        if (p.splits > 1) {
            F32::store4(static_cast<float *>(p.partial) + split * p.sizes.o * columns + at, x);
        } else {
            float *dw = static_cast<float *>(p.dw) + at;
            const float4 y = F32::load4(dw);
            F32::store4(dw, make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w));
        }
    }
};

/// Part blockIdx.y of the pixels of a tile: `product(dy, patches, steps, row0, col0, sink)`.
template <class E, class A, class B, int TILE, int DEPTH, class F> __device__ __forceinline__ void backward_weight_part(const DeemConv2dBackwardWeight &p, const F &product) {
    const int64_t columns = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i, pixels = p.sizes.batch * p.sizes.oh * p.sizes.ow;
    const int64_t part = (pixels + p.splits - 1) / p.splits + DEPTH - 1, each = part - part % DEPTH;
    const int64_t first = blockIdx.y * each, count = first >= pixels ? 0 : pixels - first < each ? pixels - first : each;
    int64_t row0, col0;
    place_of_tile<TILE, TILE>(p.sizes.o, columns, row0, col0);
    A a(static_cast<const typename E::Stored *>(p.dy) + first * p.sizes.o, p.sizes.o, count, row0);
    B b(p, first, count, col0);
    product(a, b, static_cast<int>((count + DEPTH - 1) / DEPTH), row0, col0, WeightSink{p, columns, static_cast<int>(blockIdx.y)});
}

extern "C" __global__ void __launch_bounds__(MMA_THREADS, 1) conv2d_backward_weight_mma_bf16(const __grid_constant__ DeemConv2dBackwardWeight p) {
    extern __shared__ __align__(128) uint8_t shared[];
    backward_weight_part<Bf16, RowsAcross<MMA_TILE>, PixelPieces<Bf16, Mma<MMA_TILE>::PIECES, 8, 8, MMA_K>, MMA_TILE, MMA_K>(p, [&](auto &a, auto &b, int steps, int64_t row0, int64_t col0, const auto &sink) {
        float sums[4][8][4] = {};
        mma_tile<Bf16, MMA_TILE>(a, b, steps, shared_address(shared), sums);
        mma_store<MMA_TILE>(reinterpret_cast<float *>(shared), sums, row0, col0, sink);
    });
}

extern "C" __global__ void __launch_bounds__(FFMA_THREADS, 1) conv2d_backward_weight_tile_f32(const __grid_constant__ DeemConv2dBackwardWeight p) {
    backward_weight_part<F32, LinesAcross, PixelPieces<F32, FFMA_PIECES, 8, 4, FFMA_K>, FFMA_TILE, FFMA_K>(
        p, [](auto &a, auto &b, int steps, int64_t row0, int64_t col0, const auto &sink) { ffma_tile(a, b, steps, row0, col0, sink); });
}

constexpr int REDUCE_THREADS = 256;

/// dw += the parts, in order.
extern "C" __global__ void __launch_bounds__(REDUCE_THREADS, 1) conv2d_backward_weight_reduce_f32(const __grid_constant__ DeemConv2dBackwardWeight p) {
    const int64_t count = static_cast<int64_t>(p.sizes.kh) * p.sizes.kw * p.sizes.i * p.sizes.o, at = static_cast<int64_t>(blockIdx.x) * REDUCE_THREADS + threadIdx.x;
    if (at >= count) return;
    float sum = 0.f;
    for (int split = 0; split < p.splits; ++split) sum += static_cast<const float *>(p.partial)[split * count + at];
    static_cast<float *>(p.dw)[at] += sum;
}

} // namespace deem

// Matrix products: C = residual + scale * act(A B + bias), or that added to C.
//
// Shapes: A [batch, M, K] (TN: [batch, K, M]), B [batch, N, K] (NT) or [batch, K, N], C and residual [batch, M, N], bias and scale [N].
// Launch: grid.x = tiles of C, grid.y = products (any number, the kernel strides).
//
// | kernel | legal for | tile | threads | dynamic shared |
// |---|---|---|---|---|
// | gemm_forward_f32, _bf16 | everything | 64 x 64 x 16 | 256 | 0 |
// | gemm_forward_tile_{nt,nn,tn}_f32 | bases 16-byte aligned; rows of A, B and C multiples of 4; K < 2^31 | 128 x 128 x 16 | 256 | 0 |
// | gemm_forward_slices_{nt,nn,tn}_f32 | the same; where C has few tiles | 32 x 32, 16 terms to each of 8 warps in turn | 256 | 0 |
// | gemm_forward_ragged_{nt,nn,tn}_f32 | K < 2^31; where C has few tiles | the same, one number at a time | 256 | 0 |
// | gemm_forward_mma_{nt,nn,tn}_bf16 | bases 16-byte aligned; rows of A and B multiples of 8, of C of 4; K < 2^31 | 128 x 128 x 32 | 256 | 69632 |
// | gemm_forward_small_{nt,nn,tn}_bf16 | the same; for products of few tiles, which would leave multiprocessors idle | 64 x 64 x 64 | 128 | 55296 |
// | gemm_forward_sliced_{nt,nn,tn}_bf16 | the same; for the smallest: two pairs of warps take half of K each | 32 x 32 x 64 | 128 | 30720 |
// | gemm_forward_add_splits_bf16 | the same; sums of parts of K, in their order | 8 numbers a thread | 256 | 0 |
// | gemm_forward_wgmma_{128x256,128x128,128x64,64x64}_{nt,nn,tn}_bf16 | as _mma, on compute capability 9.0 alone, K > 0 | as named, x 64 | 384, and 256 for 64 rows | TensorProduct::SHARED_BYTES |
//
// The tensor-core kernels but gemm_forward_mma and _wgmma take parts of K (grid.z) where C has too few tiles; the parts' sums are added by a launch of their own.
//
// f32 stays f32: three tf32 products per product would be faster by the model, but the tensor cores round their sums toward zero, and over a
// thousand terms that is worse than a plain loop.
//
// Modelled microseconds of small f32 products on the virtual GPU, form nt (2 is what a launch takes that does nothing):
//
// | M, N, K | A100 plain | tile | slices | ragged | H100 plain | tile | slices | ragged |
// |---|---|---|---|---|---|---|---|---|
// | 33, 29, 70 | 12.1 | | | 6.9 | 9.8 | | | 5.7 |
// | 80, 144, 256 | 30.9 | 48.5 | 7.1 | 11.9 | 24.2 | 34.1 | 5.9 | 9.6 |
// | 64, 64, 1024 | 113 | 188 | 21.1 | 41.3 | 87.2 | 123 | 16.7 | 32.3 |
// | 512, 512, 512 | 57.9 | 95.0 | 21.8 | 42.2 | 45.1 | 67.8 | 9.6 | 17.5 |
// | 1024, 1024, 512 | 170 | 95.0 | 61.0 | 103 | 88.2 | 67.8 | 32.5 | 64.0 |
// | 2048, 2048, 128 | 151 | 71.7 | 60.6 | 111 | 93.8 | 37.5 | 38.8 | 72.5 |
//
// Quality of the main loops: KERNELS.md.
#include "../ffi/gemm.h"
#include "common/activation.cuh"
#include "common/operands.cuh"
#include "common/product.cuh"
#include "common/sliced.cuh"
#ifdef DEEM_SM90A
#include "common/warpgroup_product.cuh"
#endif

namespace deem {

/// What becomes of the sums of product `z`.
template <class E> struct GemmSink {
    using Stored = typename E::Stored;
    const DeemGemmForward &p;
    int64_t first; // of C and the residual

    __device__ float finish(float sum, int64_t at, int64_t col) const {
        const Stored *bias = static_cast<const Stored *>(p.bias), *scale = static_cast<const Stored *>(p.scale);
        const Stored *residual = static_cast<const Stored *>(p.residual);
        if (bias) sum += E::load(bias + col);
        by_kind(p.activation, [&](auto kind) { sum = activate<kind.value>(sum); });
        if (scale) sum *= E::load(scale + col);
        if (residual) sum += E::load(residual + at);
        return sum;
    }

    __device__ void operator()(int64_t row, int64_t col, float sum) const {
        const int64_t at = first + row * p.n + col;
        sum = finish(sum, at, col);
        if (p.c_is_f32) {
            float *c = static_cast<float *>(p.c) + at;
            *c = p.accumulate ? *c + sum : sum;
        } else {
            Stored *c = static_cast<Stored *>(p.c) + at;
            E::store(c, p.accumulate ? E::load(c) + sum : sum);
        }
    }

    __device__ void operator()(int64_t row, int64_t col, float4 x) const {
        if (row >= p.m || col >= p.n) return;
        const int64_t at = first + row * p.n + col;
        const Stored *bias = static_cast<const Stored *>(p.bias), *scale = static_cast<const Stored *>(p.scale);
        const Stored *residual = static_cast<const Stored *>(p.residual);
        if (bias) x = x + E::load4(bias + col);
        by_kind(p.activation, [&](auto kind) { x = make_float4(activate<kind.value>(x.x), activate<kind.value>(x.y), activate<kind.value>(x.z), activate<kind.value>(x.w)); });
        if (scale) {
            const float4 s = E::load4(scale + col);
            x = make_float4(x.x * s.x, x.y * s.y, x.z * s.z, x.w * s.w);
        }
        if (residual) x = x + E::load4(residual + at);
        if (p.c_is_f32) {
            float *c = static_cast<float *>(p.c) + at;
            F32::store4(c, p.accumulate ? x + F32::load4(c) : x);
        } else {
            Stored *c = static_cast<Stored *>(p.c) + at;
            E::store4(c, p.accumulate ? x + E::load4(c) : x);
        }
    }
};

#ifdef DEEM_SM90A

// ---------------------------------------------------------------- Hopper

template <class E, class P, bool A_ALONG, bool B_ALONG> __device__ __forceinline__ void gemm_wgmma(const DeemGemmTensorForward &p) {
    const int2 place = place_of_product<P>(static_cast<int>(p.gemm.m), static_cast<int>(p.gemm.n));
    warpgroup_products<E, P, A_ALONG, B_ALONG>(p, place.x, place.y, [&](int64_t first) { return GemmSink<E>{p.gemm, first}; });
}

#define DEEM_WGMMA(NAME, CONSUMERS, COLS, DEPTH, STAGES, BLOCKS)                                                                                                         \
    using Product##NAME = TensorProduct<CONSUMERS, COLS, DEPTH, STAGES>;                                                                                                  \
    extern "C" __global__ void __launch_bounds__(Product##NAME::THREADS, BLOCKS) gemm_forward_wgmma_##NAME##_nt_bf16(const __grid_constant__ DeemGemmTensorForward p) { \
        gemm_wgmma<Bf16, Product##NAME, true, true>(p);                                                                                                            \
    }                                                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(Product##NAME::THREADS, BLOCKS) gemm_forward_wgmma_##NAME##_nn_bf16(const __grid_constant__ DeemGemmTensorForward p) { \
        gemm_wgmma<Bf16, Product##NAME, true, false>(p);                                                                                                           \
    }                                                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(Product##NAME::THREADS, BLOCKS) gemm_forward_wgmma_##NAME##_tn_bf16(const __grid_constant__ DeemGemmTensorForward p) { \
        gemm_wgmma<Bf16, Product##NAME, false, false>(p);                                                                                                          \
    }
DEEM_WGMMA(128x256, 2, 256, 1, 4, 1)
DEEM_WGMMA(128x128, 2, 128, 2, 3, 1)
DEEM_WGMMA(128x64, 2, 64, 2, 3, 1)
DEEM_WGMMA(64x64, 1, 64, 2, 3, 2)
#undef DEEM_WGMMA

#else

// ---------------------------------------------------------------- plain

/// Rows or columns of a matrix with any strides, as a source of `simt_tile`.
template <class E> struct Strided {
    using Line = int64_t;
    const typename E::Stored *data;
    int64_t line_stride, k_stride;
    bool along_k;
    __device__ Line line(int64_t r) const { return r * line_stride; }
    __device__ float at(Line line, int64_t k) const { return E::load(data + line + k * k_stride); }
};

template <class E> __device__ __forceinline__ void gemm_plain(const DeemGemmForward &p) {
    using Stored = typename E::Stored;
    const int64_t columns = (p.n + SIMT_TILE - 1) / SIMT_TILE;
    const int64_t row0 = blockIdx.x / columns * SIMT_TILE, col0 = blockIdx.x % columns * SIMT_TILE;
    const bool a_along = p.form != DEEM_GEMM_TN, b_along = p.form == DEEM_GEMM_NT;
    for (int64_t z = blockIdx.y; z < p.batch; z += gridDim.y) {
        const Strided<E> a{static_cast<const Stored *>(p.a) + z * p.m * p.k, a_along ? p.k : 1, a_along ? 1 : p.m, a_along};
        const Strided<E> b{static_cast<const Stored *>(p.b) + z * p.n * p.k, b_along ? p.k : 1, b_along ? 1 : p.n, b_along};
        simt_tile(a, b, GemmSink<E>{p, z * p.m * p.n}, p.m, p.n, p.k, row0, col0);
    }
}

extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) gemm_forward_f32(const __grid_constant__ DeemGemmForward p) { gemm_plain<F32>(p); }
extern "C" __global__ void __launch_bounds__(SIMT_THREADS, 1) gemm_forward_bf16(const __grid_constant__ DeemGemmForward p) { gemm_plain<Bf16>(p); }

// ---------------------------------------------------------------- f32, large tile

template <class A, class B> __device__ __forceinline__ void gemm_tile(const DeemGemmForward &p) {
    int64_t row0, col0;
    place_of_tile<FFMA_TILE, FFMA_TILE>(p.m, p.n, row0, col0);
    const int tiles = static_cast<int>((p.k + FFMA_K - 1) / FFMA_K);
    for (int64_t z = blockIdx.y; z < p.batch; z += gridDim.y) {
        A a(static_cast<const float *>(p.a) + z * p.m * p.k, p.m, p.k, row0);
        B b(static_cast<const float *>(p.b) + z * p.n * p.k, p.n, p.k, col0);
        ffma_tile(a, b, tiles, row0, col0, GemmSink<F32>{p, z * p.m * p.n});
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(FFMA_THREADS, 1) gemm_forward_tile_nt_f32(const __grid_constant__ DeemGemmForward p) {
    gemm_tile<LinesAlong, LinesAlong>(p);
}
extern "C" __global__ void __launch_bounds__(FFMA_THREADS, 1) gemm_forward_tile_nn_f32(const __grid_constant__ DeemGemmForward p) {
    gemm_tile<LinesAlong, LinesAcross>(p);
}
extern "C" __global__ void __launch_bounds__(FFMA_THREADS, 1) gemm_forward_tile_tn_f32(const __grid_constant__ DeemGemmForward p) {
    gemm_tile<LinesAcross, LinesAcross>(p);
}

// ---------------------------------------------------------------- f32, small or ragged

template <bool A_ALONG, bool B_ALONG, bool PACKED> __device__ __forceinline__ void gemm_slices(const DeemGemmForward &p) {
    const int64_t columns = (p.n + SLICED_TILE - 1) / SLICED_TILE;
    const int64_t row0 = blockIdx.x / columns * SLICED_TILE, col0 = blockIdx.x % columns * SLICED_TILE;
    for (int64_t z = blockIdx.y; z < p.batch; z += gridDim.y) {
        const float *a = static_cast<const float *>(p.a) + z * p.m * p.k, *b = static_cast<const float *>(p.b) + z * p.n * p.k;
        sliced_tile<A_ALONG, B_ALONG, PACKED>(a, b, p.m, p.n, p.k, row0, col0, GemmSink<F32>{p, z * p.m * p.n});
        __syncthreads();
    }
}

#define DEEM_SLICES(NAME, PACKED)                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(SLICED_THREADS, 2) gemm_forward_##NAME##_nt_f32(const __grid_constant__ DeemGemmForward p) {                \
        gemm_slices<true, true, PACKED>(p);                                                                                                                  \
    }                                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(SLICED_THREADS, 2) gemm_forward_##NAME##_nn_f32(const __grid_constant__ DeemGemmForward p) {                \
        gemm_slices<true, false, PACKED>(p);                                                                                                                 \
    }                                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(SLICED_THREADS, 2) gemm_forward_##NAME##_tn_f32(const __grid_constant__ DeemGemmForward p) {                \
        gemm_slices<false, false, PACKED>(p);                                                                                                                \
    }
DEEM_SLICES(slices, true)
DEEM_SLICES(ragged, false)
#undef DEEM_SLICES

// ---------------------------------------------------------------- tensor cores

using LargeProduct = Product<128, 128, 32, 2, 4, 1, 4>;
using SmallProduct = Product<64, 64, 64, 2, 2, 1, 3>;
using SlicedProduct = Product<32, 32, 64, 2, 1, 2, 3>;

template <class E, class P, bool A_ALONG, bool B_ALONG> __device__ __forceinline__ void gemm_mma(const DeemGemmForward &p) {
    extern __shared__ __align__(128) uint8_t shared[];
    const int m = static_cast<int>(p.m), n = static_cast<int>(p.n);
    const int2 place = place_of_product<P>(m, n);
    const int64_t begin = static_cast<int64_t>(blockIdx.z) * p.k_of_split;
    const int k = static_cast<int>(p.k), numbers = static_cast<int>(min(p.k - begin, p.k_of_split)), tiles = (numbers + P::K - 1) / P::K;
    for (int64_t z = blockIdx.y; z < p.batch; z += gridDim.y) {
        Lines<P, P::ROWS, A_ALONG> a(static_cast<const uint16_t *>(p.a) + z * p.m * p.k + (A_ALONG ? begin : begin * m), m, k, place.x, numbers);
        Lines<P, P::COLS, B_ALONG> b(static_cast<const uint16_t *>(p.b) + z * p.n * p.k + (B_ALONG ? begin : begin * n), n, k, place.y, numbers);
        Sums<P> sums = {};
        product<E, P>(a, b, tiles, shared_address(shared), sums);
        float *slabs = reinterpret_cast<float *>(shared);
        const int64_t first = z * p.m * p.n;
        if (p.partial) {
            float *partial = static_cast<float *>(p.partial) + blockIdx.z * p.batch * p.m * p.n + first;
            give_sums<P>(slabs, sums, place.x, place.y, [&](int row, int col, float4 sum) {
                if (row < m && col < n) F32::store4(partial + static_cast<int64_t>(row) * n + col, sum);
            });
        } else if (p.is_bare) {
            uint16_t *c = static_cast<uint16_t *>(p.c) + first;
            if constexpr (P::SLICES == 1) {
                store_bare<E, P>(shared, sums, place.x, place.y, c, m, n);
            } else {
                give_sums<P>(slabs, sums, place.x, place.y, [&](int row, int col, float4 sum) {
                    if (row < m && col < n) E::store4(c + static_cast<int64_t>(row) * n + col, sum);
                });
            }
        } else {
            give_sums<P>(slabs, sums, place.x, place.y, GemmSink<E>{p, first});
        }
        __syncthreads();
    }
}

#define DEEM_MMA(NAME, P, BLOCKS, A_ALONG, B_ALONG)                                                                                                                \
    extern "C" __global__ void __launch_bounds__(P::THREADS, BLOCKS) gemm_forward_##NAME##_bf16(const __grid_constant__ DeemGemmForward p) {                       \
        gemm_mma<Bf16, P, A_ALONG, B_ALONG>(p);                                                                                                                    \
    }
DEEM_MMA(mma_nt, LargeProduct, 2, true, true)
DEEM_MMA(mma_nn, LargeProduct, 2, true, false)
DEEM_MMA(mma_tn, LargeProduct, 2, false, false)
DEEM_MMA(small_nt, SmallProduct, 3, true, true)
DEEM_MMA(small_nn, SmallProduct, 3, true, false)
DEEM_MMA(small_tn, SmallProduct, 3, false, false)
DEEM_MMA(sliced_nt, SlicedProduct, 4, true, true)
DEEM_MMA(sliced_nn, SlicedProduct, 4, true, false)
DEEM_MMA(sliced_tn, SlicedProduct, 4, false, false)
#undef DEEM_MMA

/// The parts' sums, added in their order, through the epilogue: four numbers a thread.
extern "C" __global__ void __launch_bounds__(256, 1) gemm_forward_add_splits_bf16(const __grid_constant__ DeemGemmForward p) {
    const int64_t size = p.batch * p.m * p.n;
    for (int64_t at = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * 4; at < size; at += static_cast<int64_t>(gridDim.x) * 1024) {
        const float *partial = static_cast<const float *>(p.partial) + at;
        float4 sum = F32::load4(partial);
        for (int split = 1; split < p.splits; ++split) sum = sum + F32::load4(partial + split * size);
        const int64_t row = at / p.n;
        GemmSink<Bf16>{p, row / p.m * (p.m * p.n)}(row % p.m, at % p.n, sum);
    }
}

#endif

} // namespace deem

// Matrix products: C = residual + scale * act(A B + bias), or that added to C.
//
// Shapes: A [batch, M, K] (TN: [batch, K, M]), B [batch, N, K] (NT) or [batch, K, N], C and residual [batch, M, N], bias and scale [N].
// Launch: grid.x = tiles of C, grid.y = products (any number, the kernel strides).
//
// | kernel | legal for | tile | threads | dynamic shared |
// |---|---|---|---|---|
// | gemm_forward_f32, _bf16 | everything | 64 x 64 x 16 | 256 | 0 |
// | gemm_forward_tile_{nt,nn,tn}_f32 | bases 16-byte aligned; rows of A, B and C multiples of 4; K < 2^31 | 128 x 128 x 16 | 256 | 0 |
// | gemm_forward_mma_{nt,nn,tn}_bf16 | bases 16-byte aligned; rows of A, B and C multiples of 8; K < 2^31 | 128 x 128 x 32 | 128 | 69632 |
// | gemm_forward_small_{nt,nn,tn}_bf16 | the same; for products of few tiles, which would leave multiprocessors idle | 64 x 64 x 32 | 128 | 36864 |
//
// f32 stays f32: three tf32 products per product would be faster by the model, but the tensor cores round their sums toward zero, and over a
// thousand terms that is worse than a plain loop.
//
// Quality of the main loops: KERNELS.md.
#include "../ffi/gemm.h"
#include "common/activation.cuh"
#include "common/operands.cuh"

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
        const auto add = [](float4 x, float4 y) { return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w); };
        if (bias) x = add(x, E::load4(bias + col));
        by_kind(p.activation, [&](auto kind) { x = make_float4(activate<kind.value>(x.x), activate<kind.value>(x.y), activate<kind.value>(x.z), activate<kind.value>(x.w)); });
        if (scale) {
            const float4 s = E::load4(scale + col);
            x = make_float4(x.x * s.x, x.y * s.y, x.z * s.z, x.w * s.w);
        }
        if (residual) x = add(x, E::load4(residual + at));
        if (p.c_is_f32) {
            float *c = static_cast<float *>(p.c) + at;
            F32::store4(c, p.accumulate ? add(x, F32::load4(c)) : x);
        } else {
            Stored *c = static_cast<Stored *>(p.c) + at;
            E::store4(c, p.accumulate ? add(x, E::load4(c)) : x);
        }
    }
};

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
    place_of_tile<FFMA_TILE>(p.m, p.n, row0, col0);
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

// ---------------------------------------------------------------- tensor cores

template <class E, int TILE, class A, class B> __device__ __forceinline__ void gemm_mma(const DeemGemmForward &p) {
    extern __shared__ __align__(128) uint8_t shared[];
    int64_t row0, col0;
    place_of_tile<TILE>(p.m, p.n, row0, col0);
    const int tiles = static_cast<int>((p.k + MMA_K - 1) / MMA_K);
    for (int64_t z = blockIdx.y; z < p.batch; z += gridDim.y) {
        A a(static_cast<const uint16_t *>(p.a) + z * p.m * p.k, p.m, p.k, row0);
        B b(static_cast<const uint16_t *>(p.b) + z * p.n * p.k, p.n, p.k, col0);
        float sums[Mma<TILE>::FRAGMENTS][2 * Mma<TILE>::FRAGMENTS][4] = {};
        mma_tile<E, TILE>(a, b, tiles, shared_address(shared), sums);
        mma_store<TILE>(reinterpret_cast<float *>(shared), sums, row0, col0, GemmSink<E>{p, z * p.m * p.n});
        __syncthreads();
    }
}

#define DEEM_MMA(NAME, TILE, A, B)                                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(MMA_THREADS, 1) gemm_forward_##NAME##_bf16(const __grid_constant__ DeemGemmForward p) { gemm_mma<Bf16, TILE, A<TILE>, B<TILE>>(p); }
DEEM_MMA(mma_nt, MMA_TILE, RowsAlong, RowsAlong)
DEEM_MMA(mma_nn, MMA_TILE, RowsAlong, RowsAcross)
DEEM_MMA(mma_tn, MMA_TILE, RowsAcross, RowsAcross)
DEEM_MMA(small_nt, MMA_SMALL_TILE, RowsAlong, RowsAlong)
DEEM_MMA(small_nn, MMA_SMALL_TILE, RowsAlong, RowsAcross)
DEEM_MMA(small_tn, MMA_SMALL_TILE, RowsAcross, RowsAcross)
#undef DEEM_MMA

} // namespace deem

// Hopper (sm_90a): barriers in shared memory, copies by the tensor memory accelerator, and the products of a warpgroup.
//
// A tile of 16-bit numbers lies in shared memory as rows of 128 bytes whose 16-byte pieces are permuted (the swizzle of 128 bytes of the tensor maps), in chunks of
// 64 numbers of the inner axis, one behind the other. It begins at a multiple of 1024 bytes.
#pragma once

#include <cstdint>

#include "../../ffi/tensor_map.h"

namespace deem {

// ---------------------------------------------------------------- barriers

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// Makes initialised barriers known to the copies.
__device__ __forceinline__ void barrier_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Arrives, and has the barrier wait for so many bytes of copies.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Waits for the end of the phase of this parity.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    do {
        asm volatile("{ .reg .pred done; mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2; selp.u32 %0, 1, 0, done; }" : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
    } while (!done);
}

/// A barrier of some warps of the block: `id` from 1 to 15.
__device__ __forceinline__ void named_barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---------------------------------------------------------------- copies

/// A box of a tensor of rank 3 or 4 to shared memory; its bytes arrive at the barrier. Zeros outside the tensor.
__device__ __forceinline__ void copy_box(uint32_t to, const DeemTensorMap &map, uint32_t barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to), "l"(&map), "r"(barrier), "r"(x),
                 "r"(y), "r"(z)
                 : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t to, const DeemTensorMap &map, uint32_t barrier, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to), "l"(&map), "r"(barrier), "r"(x),
                 "r"(y), "r"(z), "r"(w)
                 : "memory");
}

/// Gives registers of this warpgroup back, or takes more: so many per thread, a multiple of 8.
template <int REGISTERS> __device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> __device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

// ---------------------------------------------------------------- products

/// What a product of a warpgroup is told of an operand in shared memory: the bytes between chunks of 64 of an axis that is not k, and between groups of eight rows.
__device__ __forceinline__ uint64_t describe(uint32_t address, uint32_t chunk_bytes) {
    const uint32_t low = (address & 0x3ffff) >> 4 | chunk_bytes >> 4 << 16, high = 1024 >> 4 | 1u << 30;
    return static_cast<uint64_t>(high) << 32 | low;
}

/// Before the first product that reads registers or shared memory which threads have written.
__device__ __forceinline__ void products_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most `PENDING` groups of products are under way.
template <int PENDING> __device__ __forceinline__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

/// Keeps the compiler from moving what touches these sums across this point, while products are under way.
template <int N> __device__ __forceinline__ void hold(float (&sums)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(sums[i][j])::"memory");
}

/// d (64 x N, in fragments of 8 columns as those of m16n8k16 for each warp's 16 rows) = a b, or that added to d, over 16 along k; bf16 operands, f32 sums.
/// `of_shared`: A and B in shared memory, ACROSS if their rows lie across k. `of_registers`: A in fragments of m16n8k16.
template <int N> struct Warpgroup;

#define DEEM_TILE(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])

template <> struct Warpgroup<40> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[5][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %22, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n40k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, %20, %21, adds, 1, 1, %23, %24; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[5][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %25, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n40k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19}, {%20, %21, %22, %23}, %24, adds, 1, 1, %26; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};

template <> struct Warpgroup<64> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[8][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %34, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, adds, 1, 1, %35, %36; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %37, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, adds, 1, 1, %38; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};

template <> struct Warpgroup<80> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[10][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %42, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, %40, %41, adds, 1, 1, %43, %44; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[10][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %45, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, {%40, %41, %42, %43}, %44, adds, 1, 1, %46; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};

template <> struct Warpgroup<96> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[12][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %50, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, %48, %49, adds, 1, 1, %51, %52; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[12][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %53, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, {%48, %49, %50, %51}, %52, adds, 1, 1, %54; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};

template <> struct Warpgroup<128> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[16][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, adds, 1, 1, %67, %68; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11), DEEM_TILE(12), DEEM_TILE(13), DEEM_TILE(14), DEEM_TILE(15)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %69, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, adds, 1, 1, %70; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11), DEEM_TILE(12), DEEM_TILE(13), DEEM_TILE(14), DEEM_TILE(15)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};

template <> struct Warpgroup<160> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[20][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %82, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79}, %80, %81, adds, 1, 1, %83, %84; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11), DEEM_TILE(12), DEEM_TILE(13), DEEM_TILE(14), DEEM_TILE(15), DEEM_TILE(16), DEEM_TILE(17), DEEM_TILE(18), DEEM_TILE(19)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[20][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %85, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79}, {%80, %81, %82, %83}, %84, adds, 1, 1, %86; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11), DEEM_TILE(12), DEEM_TILE(13), DEEM_TILE(14), DEEM_TILE(15), DEEM_TILE(16), DEEM_TILE(17), DEEM_TILE(18), DEEM_TILE(19)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};

template <> struct Warpgroup<256> {
    template <bool A_ACROSS, bool B_ACROSS> __device__ static __forceinline__ void of_shared(float (&d)[32][4], uint64_t a, uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %130, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, adds, 1, 1, %131, %132; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11), DEEM_TILE(12), DEEM_TILE(13), DEEM_TILE(14), DEEM_TILE(15), DEEM_TILE(16), DEEM_TILE(17), DEEM_TILE(18), DEEM_TILE(19), DEEM_TILE(20), DEEM_TILE(21), DEEM_TILE(22), DEEM_TILE(23), DEEM_TILE(24), DEEM_TILE(25), DEEM_TILE(26), DEEM_TILE(27), DEEM_TILE(28), DEEM_TILE(29), DEEM_TILE(30), DEEM_TILE(31)
                     : "l"(a), "l"(b), "r"(adds), "n"(int(A_ACROSS)), "n"(int(B_ACROSS)));
    }
    template <bool B_ACROSS> __device__ static __forceinline__ void of_registers(float (&d)[32][4], const uint32_t (&a)[4], uint64_t b, int adds) {
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %133, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, {%128, %129, %130, %131}, %132, adds, 1, 1, %134; }"
                     : DEEM_TILE(0), DEEM_TILE(1), DEEM_TILE(2), DEEM_TILE(3), DEEM_TILE(4), DEEM_TILE(5), DEEM_TILE(6), DEEM_TILE(7), DEEM_TILE(8), DEEM_TILE(9), DEEM_TILE(10), DEEM_TILE(11), DEEM_TILE(12), DEEM_TILE(13), DEEM_TILE(14), DEEM_TILE(15), DEEM_TILE(16), DEEM_TILE(17), DEEM_TILE(18), DEEM_TILE(19), DEEM_TILE(20), DEEM_TILE(21), DEEM_TILE(22), DEEM_TILE(23), DEEM_TILE(24), DEEM_TILE(25), DEEM_TILE(26), DEEM_TILE(27), DEEM_TILE(28), DEEM_TILE(29), DEEM_TILE(30), DEEM_TILE(31)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds), "n"(int(B_ACROSS)));
    }
};
#undef DEEM_TILE

} // namespace deem

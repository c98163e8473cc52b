// Attention: out = softmax(scale q k^T + mask) v per head, and its gradients.
//
// Documents (first keys) and dropout are for the plain kernels.
//
// Shapes: q, out [B, T, N*D], k, v [B, S, Nkv*D], lse [B, N, T]. Source: FlashAttention-2 (arXiv 2307.08691). Masks: src/ops/attention.rs.
//
// | kernel | legal for | a block is | threads | dynamic shared |
// |---|---|---|---|---|
// | attention_forward_{f32,bf16} | everything | 4 queries, a warp each | 128 | 4 (2 D + 32) floats |
// | attention_forward_mma_d{40,64,80,96,128,160}_bf16 | that D; bases 16-byte aligned; scale > 0; T, S, causal < 2^30; B, N < 65536 | 128 queries of (x, head y, image z) | 128 | (128 + 2 KEYS) ROW, and 3072 from D = 128 on |
// | attention_forward_small_d{..}_bf16 | the same; where 128 queries to a block leave multiprocessors idle | 64 queries | 128 | (64 + 2 KEYS) ROW |
// | attention_forward_wgmma{,_small}_d{..}_bf16 | the same on compute capability 9.0 alone, S > 0, no key mask | 128 queries, small: 64 | 384, small: 256 | WarpgroupFlash::SHARED_BYTES |
// | attention_backward_delta_{f32,bf16} | everything | 4 queries, a warp each | 128 | 0 |
// | attention_backward_dq_{f32,bf16} | everything | 4 queries, a warp each | 128 | 4 (3 D + 32) floats |
// | attention_backward_dkv_{f32,bf16} | everything | 4 keys, a warp each | 128 | 4 (4 D + 64) floats |
// | attention_forward_tile_d{40,64,80,96,128,160}_f32 | as attention_forward_mma | 64 queries of (x, head y, image z) | 128 | FfmaForward::SHARED_BYTES |
// | attention_backward_{dq,dkv}_tile_d{..}_f32 | the same | 64 queries, or keys of a key head | 128 | FfmaBackward::SHARED_BYTES |
// | attention_backward_{dq,dkv}_mma_d{40,64}_bf16, attention_backward_{dq,dk,dv}_mma_d{80,96,128,160}_bf16 | as the forward's | 128 queries or keys (x), head or key head y, image z | 128 | FlashBackward::SHARED_BYTES |
//
// KEYS: 64, or 32 beyond D = 128. ROW = 32 ceil(D / 16) + 16 bytes. The ladder of the forward at D = 64, modelled tensor utilisation (MTU): 16 queries to a warp would
// be bound by shared memory; 32 queries 0.67; one running offset for keys and values instead of 64-bit addresses per piece 0.68. At D = 128: 0.78 with
// registers spilled; 0.79 without, since what is used once a round waits in shared memory.
//
// Gradients are summed in a fixed order: each is written by one warp, without atomics. The price is that the backward makes 7 products (8 beyond D = 64) where one with
// atomics makes 5. dk and dv in one launch fit the registers up to D = 64: 32 keys to a warp, since 16 would be bound by shared memory.
//
// f32 stays f32, as in gemm.cu: multiply-adds in tiles, since the sums of tf32 products are rounded toward zero. Modelled microseconds of [1, T, T, heads, D], plain kernels and
// tiles, which are faster whatever T is (one query of 512 keys: 213 and 84):
//
// | T, heads, D | A100 forward | dq | dk and dv | H100 forward | dq | dk and dv |
// |---|---|---|---|---|---|---|
// | 64, 16, 64 | 29, 13 | 44, 20 | 106, 24 | 23, 11 | 34, 15 | 42, 19 |
// | 1024, 8, 40 | 1734, 147 | 2451, 195 | 6672, 289 | 1070, 114 | 1511, 150 | 4114, 223 |
// | 1024, 8, 64 | 2110, 195 | 3237, 287 | 8167, 382 | 1301, 129 | 1996, 204 | 5035, 272 |
// | 1024, 8, 80 | 2881, 242 | 4302, 357 | 11158, 475 | 1777, 172 | 2653, 265 | 6878, 363 |
// | 1024, 8, 96 | 3130, 293 | 4825, 757 | 12151, 1001 | 1930, 198 | 2975, 293 | 7490, 387 |
// | 1024, 8, 128 | 4150, 387 | 6412, 987 | 16132, 1298 | 2559, 256 | 3953, 382 | 9945, 501 |
// | 1024, 8, 160 | 5170, 810 | 8000, 1218 | 20114, 1596 | 3187, 313 | 4932, 470 | 12399, 616 |
//
// Kernels for f16: attention_f16.cu.
#include "../ffi/attention.h"
#include "common/attention_kernels.cuh"
#include "common/ffma_flash.cuh"
#ifdef DEEM_SM90A
#include "common/warpgroup_flash.cuh"
#endif

namespace deem {

#ifdef DEEM_SM90A

// ---------------------------------------------------------------- forward, Hopper

#define DEEM_WARPGROUP(D)                                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(384, 1) attention_forward_wgmma_d##D##_bf16(const __grid_constant__ DeemAttentionTensorForward p) {      \
        warpgroup_flash<Bf16, D, 2>(p);                                                                                                                   \
    }                                                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_forward_wgmma_small_d##D##_bf16(const __grid_constant__ DeemAttentionTensorForward p) { \
        warpgroup_flash<Bf16, D, 1>(p);                                                                                                                   \
    }
DEEM_WARPGROUP(40)
DEEM_WARPGROUP(64)
DEEM_WARPGROUP(80)
DEEM_WARPGROUP(96)
DEEM_WARPGROUP(128)
DEEM_WARPGROUP(160)
#undef DEEM_WARPGROUP

#else

DEEM_PLAIN(F32, f32)
DEEM_PLAIN(Bf16, bf16)
DEEM_MMA_KERNELS(Bf16, bf16)

// ---------------------------------------------------------------- f32 in tiles

#define DEEM_TILES(D)                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_forward_tile_d##D##_f32(const __grid_constant__ DeemAttentionForward p) {           \
        ffma_forward<D>(p);                                                                                                                                      \
    }                                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_backward_dq_tile_d##D##_f32(const __grid_constant__ DeemAttentionBackward p) {      \
        ffma_backward<D, false>(p);                                                                                                                              \
    }                                                                                                                                                            \
    extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 1) attention_backward_dkv_tile_d##D##_f32(const __grid_constant__ DeemAttentionBackward p) {     \
        ffma_backward<D, true>(p);                                                                                                                               \
    }
DEEM_TILES(40)
DEEM_TILES(64)
DEEM_TILES(80)
DEEM_TILES(96)
DEEM_TILES(128)
DEEM_TILES(160)
#undef DEEM_TILES

#endif

} // namespace deem

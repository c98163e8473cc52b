// Attention of few queries over many keys, as in decoding: keys in parts, each by a block for all queries of a key head, and a second launch that adds the parts up.
//
// Shapes and masks: attention.cu. The number of parts is a function of the sizes alone, and all sums are in a fixed order. Source: Flash-Decoding (Dao et al., 2023).
//
// | kernel | legal for | a block is | threads | shared |
// |---|---|---|---|---|
// | attention_decode_d{64,128,192}_rows{8,16}_bf16 | D up to that and 160, a multiple of 8; bases 16-byte aligned; no dropout; 0 < S < 2^31 - 64 | part x of the keys of key head y % kv_heads, for rows from 8 or 16 (y / kv_heads) on, image z | 128 | the larger of queries and sums: Decode::SHARED_BYTES |
// | attention_decode_d{32,64,128}_rows{8,16}_f32, attention_decode_d160_rows8_f32 | the same, D a multiple of 4 | the same | 128 | the same |
// | attention_decode_sum_{f32,bf16} | everything | a query of a head | 128 | 0 |
//
// Modelled microseconds of both launches on the virtual GPU, before by attention.cu (bf16: its tensor-core kernel for 64 queries; f32: the plain one), and what the
// bytes of keys and values take at the bandwidth that is on the data sheet; a launch that does nothing takes 2:
//
// | B, T, S, heads, key heads, D | A100 before | A100 | bytes | H100 before | H100 | bytes |
// |---|---|---|---|---|---|---|
// | 1, 1, 2048, 32, 32, 128 bf16 | 62 | 20.0 + 3.4 | 16.5 | 48 | 13.0 + 3.1 | 10.0 |
// | 1, 1, 4096, 32, 8, 128 bf16 | 120 | 11.2 + 3.8 | 8.2 | 93 | 7.6 + 3.4 | 5.0 |
// | 8, 1, 2048, 32, 8, 128 bf16 | 99 | 38.4 + 3.1 | 32.9 | 52 | 24.1 + 2.9 | 20.0 |
// | 1, 16, 1024, 8, 8, 128 bf16 | 33 | 12.0 + 3.1 | 2.1 | 26 | 9.7 + 2.9 | 1.3 |
// | 1, 1, 2048, 32, 32, 128 f32 | 1660 | 40.8 + 3.4 | 32.9 | 1279 | 23.9 + 3.1 | 20.0 |
// | 4, 1, 300, 5, 5, 64 f32 | 131 | 9.3 + 3.0 | 1.5 | 101 | 7.6 + 2.8 | 0.9 |
//
// A key that a mask hides has the lowest finite number as its score, as in the official code: where a query sees none, all weights are 1, and the mean of all
// values comes out without a case of its own. Keys are not skipped: those behind the causal line are fewer than the queries.
#include "../ffi/attention_decode.h"
#include "common/flash_decode.cuh"

namespace deem {

// BLOCKS: how many a multiprocessor shall hold; as many as the registers need not be spilled for.
#define DEEM_DECODE(D, ROWS, BLOCKS, E, NAME)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(DECODE_THREADS, BLOCKS) attention_decode_d##D##_rows##ROWS##_##NAME(const __grid_constant__ DeemAttentionDecode p) { \
        decode_part<E, D, ROWS / 8>(p);                                                                                                             \
    }
DEEM_DECODE(64, 8, 4, Bf16, bf16)
DEEM_DECODE(64, 16, 3, Bf16, bf16)
DEEM_DECODE(128, 8, 3, Bf16, bf16)
DEEM_DECODE(128, 16, 2, Bf16, bf16)
DEEM_DECODE(192, 8, 2, Bf16, bf16)
DEEM_DECODE(192, 16, 2, Bf16, bf16)
DEEM_DECODE(32, 8, 5, F32, f32)
DEEM_DECODE(32, 16, 4, F32, f32)
DEEM_DECODE(64, 8, 4, F32, f32)
DEEM_DECODE(64, 16, 2, F32, f32)
DEEM_DECODE(128, 8, 2, F32, f32)
DEEM_DECODE(128, 16, 2, F32, f32)
DEEM_DECODE(160, 8, 2, F32, f32)
#undef DEEM_DECODE

extern "C" __global__ void __launch_bounds__(DECODE_THREADS, 1) attention_decode_sum_f32(const __grid_constant__ DeemAttentionDecode p) { decode_sum<F32>(p); }
extern "C" __global__ void __launch_bounds__(DECODE_THREADS, 1) attention_decode_sum_bf16(const __grid_constant__ DeemAttentionDecode p) { decode_sum<Bf16>(p); }

} // namespace deem

// Attention of few queries over many keys: the tensor cores take 16 keys by 8 queries, straight from global memory.
//
// Scores are S^T = K Q^T and outputs O^T = V^T P^T, so that queries are the narrow side of m16n8: 8 of them cost what one does. Which numbers of a head make a step of the
// product is free as long as both operands agree, and so are the rows of O^T. Hence a lane loads 16 bytes of a key where they lie, four lanes 64 in a row, and
// has whole operands: nothing of the keys and values goes through shared memory. Layouts of operands: arch/mma.cuh, with g = lane / 4 and t = lane % 4.
#pragma once

#include <cstdint>

#include "attention.cuh"
#include "rope.cuh"

namespace deem {

constexpr int DECODE_WARPS = 4, DECODE_THREADS = 32 * DECODE_WARPS;
/// Keys of a warp at a time.
constexpr int DECODE_KEYS = 16;
/// Parts of the keys, at most.
constexpr int DECODE_MOST_PARTS = 512;

/// 16 bytes of a row, as the registers of operands.
union DecodePiece {
    uint4 whole;
    uint32_t word[4];
};

/// What differs by storage type. A word of an operand is two numbers of bf16, or one of f32.
template <class E> struct DecodeTile;

template <> struct DecodeTile<Bf16> {
    static constexpr int PACK = 8; // numbers in 16 bytes
    struct Sums {
        float of[4];
        __device__ float at(int i) const { return of[i]; }
    };
    template <bool FIRST> __device__ static void product(Sums &sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { Bf16::mma<FIRST>(sums.of, a, b0, b1); }

    /// The operand P^T of 16 keys from their weights, which the lanes of a key have: b[2] is one step.
    struct Weights {
        uint32_t b[2];
    };
    __device__ static Weights transposed(const float (&weight)[4], int lane) {
        const int from = lane % 4 * 8 + lane / 8;
        const uint32_t halves = lane / 4 % 2 ? 0x7632 : 0x5410;
        Weights weights;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t pair = Bf16::pack(weight[2 * i], weight[2 * i + 1]);
            const uint32_t even = __shfl_sync(0xffffffffu, pair, from), odd = __shfl_sync(0xffffffffu, pair, from + 4);
            weights.b[i] = __byte_perm(even, odd, halves);
        }
        return weights;
    }
    /// Products of numbers 2 j and 2 j + 1 of the pieces of values 2 t, 2 t + 1, 2 t + 8, 2 t + 9 with the weights.
    static constexpr int STEPS = 4;
    __device__ static void values(Sums &sums, const DecodePiece (&v)[4], int j, const Weights &weights) {
        const uint32_t a[4] = {__byte_perm(v[0].word[j], v[1].word[j], 0x5410), __byte_perm(v[0].word[j], v[1].word[j], 0x7632),
                               __byte_perm(v[2].word[j], v[3].word[j], 0x5410), __byte_perm(v[2].word[j], v[3].word[j], 0x7632)};
        product<true>(sums, a, weights.b[0], weights.b[1]);
    }
};

/// Each number is the sum of two of 11 bits; the product of the small ones is left out. The tensor cores round sums toward zero, so the sums are short, and those of
/// small products are kept apart.
template <> struct DecodeTile<F32> {
    static constexpr int PACK = 4;
    struct Sums {
        float large[4], small[4];
        __device__ float at(int i) const { return large[i] + small[i]; }
    };
    __device__ static uint32_t large(uint32_t x) { return (x + 0x1000u) & 0xffffe000u; }
    __device__ static uint32_t small(uint32_t x) { return __float_as_uint(__uint_as_float(x) - __uint_as_float(large(x))); }
    template <bool FIRST> __device__ static void product(Sums &sums, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        const uint32_t a_large[4] = {large(a[0]), large(a[1]), large(a[2]), large(a[3])}, a_small[4] = {small(a[0]), small(a[1]), small(a[2]), small(a[3])};
        const uint32_t b_large[2] = {large(b0), large(b1)};
        mma_1688_tf32<FIRST>(sums.small, a_small, b_large[0], b_large[1]);
        mma_1688_tf32<false>(sums.small, a_large, small(b0), small(b1));
        mma_1688_tf32<FIRST>(sums.large, a_large, b_large[0], b_large[1]);
    }

    struct Weights {
        uint32_t b[4];
    };
    __device__ static Weights transposed(const float (&weight)[4], int lane) {
        const int from = lane % 4 * 8 + lane / 8;
        Weights weights;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float even = __shfl_sync(0xffffffffu, weight[i / 2 * 2], from + i % 2 * 4), odd = __shfl_sync(0xffffffffu, weight[i / 2 * 2 + 1], from + i % 2 * 4);
            weights.b[i] = __float_as_uint(lane / 4 % 2 ? odd : even);
        }
        return weights;
    }
    static constexpr int STEPS = 2;
    __device__ static void values(Sums &sums, const DecodePiece (&v)[4], int j, const Weights &weights) {
        const uint32_t first[4] = {v[0].word[2 * j], v[0].word[2 * j + 1], v[1].word[2 * j], v[1].word[2 * j + 1]};
        const uint32_t second[4] = {v[2].word[2 * j], v[2].word[2 * j + 1], v[3].word[2 * j], v[3].word[2 * j + 1]};
        product<true>(sums, first, weights.b[0], weights.b[1]);
        product<false>(sums, second, weights.b[2], weights.b[3]);
    }
};

/// Sizes for heads of up to D numbers, 160 at most, and 8 TILES queries to a block.
template <class E, int D, int TILES> struct Decode {
    using Tile = DecodeTile<E>;
    static constexpr int PACK = Tile::PACK, ROWS = 8 * TILES;
    static constexpr int KEY_CHUNKS = D / (4 * PACK), VALUE_CHUNKS = D / (8 * PACK); // of a row, by four lanes and by eight
    static constexpr int LD = (D < 160 ? D : 160) + 4;                               // floats between the rows of sums
    static constexpr bool EARLY = PACK == 8; // values are loaded before the scores are made, where registers allow it
    static constexpr int EARLY_CHUNKS = EARLY ? VALUE_CHUNKS : 1;
    static_assert(D % (8 * PACK) == 0, "whole chunks");
    static constexpr int QUERY_BYTES = TILES * KEY_CHUNKS * 512, SUM_BYTES = DECODE_WARPS * ROWS * LD * 4;
    static constexpr int SHARED_BYTES = QUERY_BYTES > SUM_BYTES ? QUERY_BYTES : SUM_BYTES;
};

/// The keys of part x of key head y % kv_heads and image z, for queries from ROWS (y / kv_heads) on. A query is row t * group + head of its key head.
template <class E, int D, int TILES> __device__ __forceinline__ void decode_part(const DeemAttentionDecode &p) {
    using Sizes = Decode<E, D, TILES>;
    using Tile = typename Sizes::Tile;
    using Stored = typename E::Stored;
    constexpr int PACK = Sizes::PACK, ROWS = Sizes::ROWS;
    __shared__ __align__(16) uint8_t space[Sizes::SHARED_BYTES];
    __shared__ float max_of[DECODE_WARPS][ROWS], total_of[DECODE_WARPS][ROWS];
    uint4 *const q_space = reinterpret_cast<uint4 *>(space);
    float *const sum_space = reinterpret_cast<float *>(space);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int kv = static_cast<int>(blockIdx.y) % p.kv_heads, group = p.heads / p.kv_heads, first_row = static_cast<int>(blockIdx.y) / p.kv_heads * ROWS;
    const int64_t b = blockIdx.z;
    const int rows = min(ROWS, static_cast<int>(p.t) * group - first_row);

    // Queries, in the order in which lanes read them.
    for (int i = threadIdx.x; i < TILES * Sizes::KEY_CHUNKS * 32; i += DECODE_THREADS) {
        const int chunk = i / 32 % Sizes::KEY_CHUNKS, row = i / 32 / Sizes::KEY_CHUNKS * 8 + i % 32 / 4, at = (chunk * 4 + i % 4) * PACK;
        uint4 piece = make_uint4(0, 0, 0, 0);
        if (row < rows && at < p.d && !p.positions) {
            const int token = (first_row + row) / group, head = kv * group + (first_row + row) % group;
            piece = *reinterpret_cast<const uint4 *>(static_cast<const Stored *>(p.q) + query_at(p, b, token, head) + at);
        }
        q_space[i] = piece;
    }
    __syncthreads();
    if (p.positions) { // rotated, a thread per angle, and rounded as the op of its own does it
        const int half = p.d / 2;
        const auto place = [&](int row, int c) {
            const int chunk = c / (4 * PACK), piece = (row / 8 * Sizes::KEY_CHUNKS + chunk) * 32 + row % 8 * 4 + c / PACK % 4;
            return reinterpret_cast<Stored *>(space) + piece * PACK + c % PACK;
        };
        for (int i = threadIdx.x; i < rows * half; i += DECODE_THREADS) {
            const int row = i / half, c = i % half, token = (first_row + row) / group, head = kv * group + (first_row + row) % group;
            const Stored *x = static_cast<const Stored *>(p.q) + query_at(p, b, token, head) + c;
            float low = E::load(x), high = E::load(x + half);
            turn(low, high, angle_of(static_cast<const int32_t *>(p.positions)[b * p.t + token], static_cast<const float *>(p.frequency)[c]));
            E::store(place(row, c), low);
            E::store(place(row, c + half), high);
        }
        __syncthreads();
    }

    // The rows of this lane's scores: 8 tile + 2 t + i.
    int begin[TILES][2], limit[TILES][2];
    float max[TILES][2], total[TILES][2] = {};
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = tile * 8 + t * 2 + i, token = row < rows ? (first_row + row) / group : 0;
            begin[tile][i] = static_cast<int>(start_of(p, b, token));
            limit[tile][i] = static_cast<int>(limit_of(p, token));
            max[tile][i] = LOWEST;
        }
    float sums[TILES][Sizes::VALUE_CHUNKS][Tile::STEPS][4] = {};
    const float factor = p.scale * LOG2_E;
    const int s = static_cast<int>(p.s), part = blockIdx.x * p.keys_of_part, end = min(s, part + p.keys_of_part);
    const int64_t stride = static_cast<int64_t>(p.kv_heads) * p.d, at = key_at(p, b, part + warp * DECODE_KEYS, kv);
    const Stored *k = static_cast<const Stored *>(p.k) + at + g * stride + t * PACK, *v = static_cast<const Stored *>(p.v) + at + 2 * t * stride + g * PACK;
    const auto load = [&](const Stored *from, bool is_there) {
        DecodePiece piece = {};
        if (is_there) piece.whole = __ldg(reinterpret_cast<const uint4 *>(from));
        return piece;
    };
#pragma unroll 1
    for (int key = part + warp * DECODE_KEYS; key < end; key += DECODE_WARPS * DECODE_KEYS) {
        DecodePiece keys[Sizes::KEY_CHUNKS][2], values[Sizes::EARLY_CHUNKS][4];
#pragma unroll
        for (int chunk = 0; chunk < Sizes::KEY_CHUNKS; ++chunk)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                keys[chunk][i] = load(k + i * 8 * stride + chunk * 4 * PACK, key + g + i * 8 < end && (chunk * 4 + t) * PACK < p.d);
            }
        const auto load_values = [&](DecodePiece (&piece)[4], int chunk) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = i / 2 * 8 + i % 2;
                piece[i] = load(v + row * stride + chunk * 8 * PACK, key + 2 * t + row < end && (chunk * 8 + g) * PACK < p.d);
            }
        };
        if constexpr (Sizes::EARLY) {
#pragma unroll
            for (int chunk = 0; chunk < Sizes::VALUE_CHUNKS; ++chunk) load_values(values[chunk], chunk);
        }
        bool padded[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) padded[i] = key + g + i * 8 < end && is_padded(p, b, key + g + i * 8);
        typename Tile::Sums scores[TILES];
#pragma unroll
        for (int chunk = 0; chunk < Sizes::KEY_CHUNKS; ++chunk) {
            const DecodePiece &x = keys[chunk][0], &y = keys[chunk][1];
            const uint32_t first[4] = {x.word[0], y.word[0], x.word[1], y.word[1]}, second[4] = {x.word[2], y.word[2], x.word[3], y.word[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                DecodePiece q;
                q.whole = q_space[(tile * Sizes::KEY_CHUNKS + chunk) * 32 + lane];
                if (chunk == 0) Tile::template product<true>(scores[tile], first, q.word[0], q.word[1]);
                else Tile::template product<false>(scores[tile], first, q.word[0], q.word[1]);
                Tile::template product<false>(scores[tile], second, q.word[2], q.word[3]);
            }
        }
        float of_old[TILES][2];
        typename Tile::Weights weights[TILES];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            float weight[4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const int which = key + g + j * 8;
                    const bool hidden = padded[j] || which >= limit[tile][i] || which < begin[tile][i];
                    weight[2 * j + i] = which >= end ? -INFINITY : hidden ? LOWEST : scores[tile].at(2 * j + i) * factor;
                }
                float largest = fmaxf(max[tile][i], fmaxf(weight[i], weight[2 + i]));
#pragma unroll
                for (int step = 16; step >= 4; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
                of_old[tile][i] = exp2_approximate(max[tile][i] - largest);
                max[tile][i] = largest;
#pragma unroll
                for (int j = 0; j < 2; ++j) weight[2 * j + i] = exp2_approximate(weight[2 * j + i] - largest);
                total[tile][i] = fmaf(total[tile][i], of_old[tile][i], weight[i] + weight[2 + i]);
            }
            weights[tile] = Tile::transposed(weight, lane);
        }
#pragma unroll
        for (int chunk = 0; chunk < Sizes::VALUE_CHUNKS; ++chunk) {
            DecodePiece(&piece)[4] = values[Sizes::EARLY ? chunk : 0];
            if constexpr (!Sizes::EARLY) load_values(piece, chunk);
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
                for (int j = 0; j < Tile::STEPS; ++j) {
                    typename Tile::Sums more;
                    Tile::values(more, piece, j, weights[tile]);
                    float(&sum)[4] = sums[tile][chunk][j];
#pragma unroll
                    for (int i = 0; i < 4; ++i) sum[i] = fmaf(sum[i], of_old[tile][i % 2], more.at(i));
                }
        }
        k += DECODE_WARPS * DECODE_KEYS * stride;
        v += DECODE_WARPS * DECODE_KEYS * stride;
    }

    // What the warps have, relative to the largest score of all.
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int step = 16; step >= 4; step /= 2) total[tile][i] += __shfl_xor_sync(0xffffffffu, total[tile][i], step);
            if (g == 0) {
                max_of[warp][tile * 8 + t * 2 + i] = max[tile][i];
                total_of[warp][tile * 8 + t * 2 + i] = total[tile][i];
            }
        }
    __syncthreads(); // the queries have been read as well
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int row = tile * 8 + t * 2 + i;
            float largest = max_of[0][row];
#pragma unroll
            for (int other = 1; other < DECODE_WARPS; ++other) largest = fmaxf(largest, max_of[other][row]);
            const float share = exp2_approximate(max[tile][i] - largest);
            float *to = sum_space + (warp * ROWS + row) * Sizes::LD + g * PACK;
#pragma unroll
            for (int chunk = 0; chunk < Sizes::VALUE_CHUNKS; ++chunk) {
                if ((chunk * 8 + g) * PACK >= p.d) continue;
#pragma unroll
                for (int j = 0; j < Tile::STEPS; j += 2) {
                    const float(&low)[4] = sums[tile][chunk][j], (&high)[4] = sums[tile][chunk][j + 1];
                    *reinterpret_cast<float4 *>(to + chunk * 8 * PACK + 2 * j) = make_float4(low[i] * share, low[2 + i] * share, high[i] * share, high[2 + i] * share);
                }
            }
        }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * p.d; i += DECODE_THREADS) {
        const int row = i / p.d, c = i % p.d, token = (first_row + row) / group, head = kv * group + (first_row + row) % group;
        float largest = max_of[0][row];
#pragma unroll
        for (int other = 1; other < DECODE_WARPS; ++other) largest = fmaxf(largest, max_of[other][row]);
        float sum = 0.f, all = 0.f;
#pragma unroll
        for (int other = 0; other < DECODE_WARPS; ++other) {
            sum += sum_space[(other * ROWS + row) * Sizes::LD + c];
            all = fmaf(total_of[other][row], exp2_approximate(max_of[other][row] - largest), all);
        }
        const int64_t line = (b * p.heads + head) * p.t + token;
        if (p.parts == 1) {
            E::store(static_cast<Stored *>(p.out) + query_at(p, b, token, head) + c, sum / all);
            if (c == 0) static_cast<float *>(p.lse)[line] = largest == LOWEST ? LOWEST : (largest + log2f(all)) * LN_2;
        } else {
            const int64_t place = line * p.parts + blockIdx.x;
            static_cast<float *>(p.sums)[place * p.d + c] = sum;
            if (c == 0) static_cast<float2 *>(p.weights)[place] = make_float2(largest, all);
        }
    }
}

/// The query of line x from its parts, which warps add up in turn, and then the warps.
template <class E> __device__ __forceinline__ void decode_sum(const DeemAttentionDecode &p) {
    using Stored = typename E::Stored;
    __shared__ float share[DECODE_MOST_PARTS], of_warp[2][DECODE_WARPS];
    __shared__ __align__(16) float4 sums_of[DECODE_WARPS][40];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t line = blockIdx.x;
    const float2 *weights = static_cast<const float2 *>(p.weights) + line * p.parts;
    float2 mine[DECODE_MOST_PARTS / DECODE_THREADS];
    float largest = LOWEST, all = 0.f;
#pragma unroll
    for (int i = 0; i < DECODE_MOST_PARTS / DECODE_THREADS; ++i) {
        const int part = threadIdx.x + i * DECODE_THREADS;
        mine[i] = part < p.parts ? weights[part] : make_float2(LOWEST, 0.f);
        largest = fmaxf(largest, mine[i].x);
    }
    largest = warp_max(largest);
    if (lane == 0) of_warp[0][warp] = largest;
    __syncthreads();
    for (int i = 0; i < DECODE_WARPS; ++i) largest = fmaxf(largest, of_warp[0][i]);
#pragma unroll
    for (int i = 0; i < DECODE_MOST_PARTS / DECODE_THREADS; ++i) {
        const float x = exp2_approximate(mine[i].x - largest);
        share[threadIdx.x + i * DECODE_THREADS] = x;
        all = fmaf(mine[i].y, x, all);
    }
    all = warp_sum(all);
    if (lane == 0) of_warp[1][warp] = all;
    __syncthreads();
    const float total = (of_warp[1][0] + of_warp[1][1]) + (of_warp[1][2] + of_warp[1][3]);
    for (int c = lane; c < p.d / 4; c += 32) {
        const float4 *sums = static_cast<const float4 *>(p.sums) + line * p.parts * (p.d / 4) + c;
        float4 sum = {};
#pragma unroll 4
        for (int part = warp; part < p.parts; part += DECODE_WARPS) {
            const float4 x = sums[part * (p.d / 4)];
            sum.x = fmaf(x.x, share[part], sum.x);
            sum.y = fmaf(x.y, share[part], sum.y);
            sum.z = fmaf(x.z, share[part], sum.z);
            sum.w = fmaf(x.w, share[part], sum.w);
        }
        sums_of[warp][c] = sum;
    }
    __syncthreads();
    const int64_t token = line % p.t, head = line / p.t % p.heads, b = line / p.t / p.heads;
    for (int c = threadIdx.x; c < p.d; c += DECODE_THREADS) {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < DECODE_WARPS; ++i) sum += reinterpret_cast<const float *>(sums_of[i])[c];
        E::store(static_cast<Stored *>(p.out) + query_at(p, b, token, static_cast<int>(head)) + c, sum / total);
    }
    if (threadIdx.x == 0) static_cast<float *>(p.lse)[line] = largest == LOWEST ? LOWEST : (largest + log2f(total)) * LN_2;
}

} // namespace deem

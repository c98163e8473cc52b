// Philox-4x32 with ten rounds (Salmon et al., SC 2011), as in src/ops/random.rs.
#pragma once

#include <stdint.h>

struct Words {
    uint32_t x[4];
};

__device__ __forceinline__ Words philox(Words c, uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c.x[0]), low0 = 0xD2511F53u * c.x[0];
        uint32_t high1 = __umulhi(0xCD9E8D57u, c.x[2]), low1 = 0xCD9E8D57u * c.x[2];
        c = {{high1 ^ c.x[1] ^ key0, low1, high0 ^ c.x[3] ^ key1, low0}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return c;
}

// Uniform in [0, 1), of 53 bits.
__device__ __forceinline__ double unit(uint32_t low, uint32_t high) {
    return double((uint64_t(high) << 32 | low) >> 11) * (1.0 / 9007199254740992.0);
}

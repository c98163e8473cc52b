// Faults of what reads shared memory asynchronously (sm_90a): bulk stores and matrix products of warpgroups.
#include "pair.h"

__device__ inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ inline void fence_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ inline void bulk_store(int* global, const int* shared, int bytes) {
    // fault: of its caller
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared_address(shared)), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

__device__ inline void wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// The buffer is filled again while the copy still reads it.
template <bool fixed>
__device__ void overwritten_store_source(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    fence_proxy();
    __syncthreads();
    if (t == 0) {
        bulk_store(b, tile, 256);
        if (fixed) {
            wait_read();
        }
    }
    __syncthreads();
    tile[t] = -1;  // fault: overwritten_store_source
    if (t == 0) {
        wait_read();
    }
}
PAIR(overwritten_store_source)

// One group may still be under way, and it is the one whose buffer is used again.
template <bool fixed>
__device__ void weak_bulk_wait(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[2][64];
    int t = threadIdx.x;
    for (int step = 0; step < 3; step++) {
        int* stage = tile[step % 2];
        if (t == 0) {
            if (fixed) {
                asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
            } else {
                asm volatile("cp.async.bulk.wait_group.read 2;" ::: "memory");
            }
        }
        __syncthreads();
        stage[t] = a[64 * step + t];  // fault: weak_bulk_wait
        fence_proxy();
        __syncthreads();
        if (t == 0) {
            bulk_store(b + 64 * step, stage, 256);
        }
    }
    if (t == 0) {
        wait_read();
    }
}
PAIR(weak_bulk_wait)

// The block ends, and with it its shared memory, while the copy reads it.
template <bool fixed>
__device__ void store_never_awaited(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    fence_proxy();
    __syncthreads();
    if (t == 0) {
        bulk_store(b, tile, 256);
        if (fixed) {
            wait_read();
        }
    }
}
PAIR(store_never_awaited)

// A barrier alone does not show ordinary stores to the copy.
template <bool fixed>
__device__ void store_without_proxy_fence(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    if (fixed) {
        fence_proxy();
    }
    __syncthreads();
    if (t == 0) {
        bulk_store(b, tile, 256);  // fault: store_without_proxy_fence
        wait_read();
    }
}
PAIR(store_without_proxy_fence)

// Only the thread that copies has a fence, and before the barrier: it does nothing for the stores of the others.
template <bool fixed>
__device__ void fence_of_one_thread(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    if (fixed || t == 0) {
        fence_proxy();
    }
    __syncthreads();
    if (t == 0) {
        bulk_store(b, tile, 256);  // fault: fence_of_one_thread
        wait_read();
    }
}
PAIR(fence_of_one_thread)

// Tiles of 64 x 16 and 8 x 16 numbers of 16 bits without swizzle: eight rows of 16 bytes lie together.
struct Tiles {
    short a[64 * 16];
    short b[8 * 16];
};

__device__ inline unsigned long long descriptor(const void* tile, int leading, int stride) {
    unsigned long long start = shared_address(tile) >> 4 & 0x3fff;
    return start | static_cast<unsigned long long>(leading >> 4) << 16 | static_cast<unsigned long long>(stride >> 4) << 32;
}

__device__ inline void fill(Tiles& tiles, const int* a) {
    for (int i = threadIdx.x; i < 64 * 16; i += blockDim.x) {
        tiles.a[i] = static_cast<short>(a[i % 128]);
    }
    for (int i = threadIdx.x; i < 8 * 16; i += blockDim.x) {
        tiles.b[i] = static_cast<short>(a[i]);
    }
}

__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

__device__ inline void multiply(float (&d)[4], const Tiles& tiles) {
    unsigned long long left = descriptor(tiles.a, 1024, 128), right = descriptor(tiles.b, 128, 128);
    // fault: of its caller
    asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, 0, 0; }"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(left), "l"(right)
                 : "memory");
}

// The sums pass through it, so that the compiler uses them behind it alone.
template <int pending>
__device__ inline void wait_products(float (&d)[4]) {
    asm volatile("wgmma.wait_group.sync.aligned %4;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "n"(pending) : "memory");
}

// The sums are used before they are there.
template <bool fixed>
__device__ void sums_not_awaited(int* a, int* b, int n) {
    __shared__ __align__(128) Tiles tiles;
    float d[4] = {0, 0, 0, 0};
    fill(tiles, a);
    fence_proxy();
    __syncthreads();
    fence_products();
    multiply(d, tiles);
    commit();
    if (fixed) {
        wait_products<0>(d);
    }
    b[threadIdx.x] = __float_as_int(d[0] + d[3]);  // fault: sums_not_awaited
    wait_products<0>(d);
}
PAIR(sums_not_awaited)

// The wait leaves the last group under way.
template <bool fixed>
__device__ void weak_wait_for_sums(int* a, int* b, int n) {
    __shared__ __align__(128) Tiles tiles;
    float first[4] = {0, 0, 0, 0}, second[4] = {0, 0, 0, 0};
    fill(tiles, a);
    fence_proxy();
    __syncthreads();
    fence_products();
    multiply(first, tiles);
    commit();
    multiply(second, tiles);
    commit();
    if (fixed) {
        wait_products<0>(first);
        wait_products<0>(second);
    } else {
        wait_products<1>(first);
        wait_products<1>(second);
    }
    b[threadIdx.x] = __float_as_int(first[0]) + __float_as_int(second[1]);  // fault: weak_wait_for_sums
    wait_products<0>(second);
}
PAIR(weak_wait_for_sums)

// A wait waits for groups, and this product is in none.
template <bool fixed>
__device__ void sums_not_committed(int* a, int* b, int n) {
    __shared__ __align__(128) Tiles tiles;
    float d[4] = {0, 0, 0, 0};
    fill(tiles, a);
    fence_proxy();
    __syncthreads();
    fence_products();
    multiply(d, tiles);
    if (fixed) {
        commit();
    }
    wait_products<0>(d);
    b[threadIdx.x] = __float_as_int(d[0]);  // fault: sums_not_committed
}
PAIR(sums_not_committed)

// A tile is filled again while the product reads it.
template <bool fixed>
__device__ void overwritten_operand(int* a, int* b, int n) {
    __shared__ __align__(128) Tiles tiles;
    float d[4] = {0, 0, 0, 0};
    fill(tiles, a);
    fence_proxy();
    __syncthreads();
    fence_products();
    multiply(d, tiles);
    commit();
    if (fixed) {
        wait_products<0>(d);
    }
    __syncthreads();
    tiles.b[threadIdx.x] = 0;  // fault: overwritten_operand
    wait_products<0>(d);
    b[threadIdx.x] = __float_as_int(d[0]);
}
PAIR(overwritten_operand)

// The tiles were stored by the threads, and no fence shows them to the product.
template <bool fixed>
__device__ void operand_without_proxy_fence(int* a, int* b, int n) {
    __shared__ __align__(128) Tiles tiles;
    float d[4] = {0, 0, 0, 0};
    fill(tiles, a);
    if (fixed) {
        fence_proxy();
    }
    __syncthreads();
    fence_products();
    multiply(d, tiles);  // fault: operand_without_proxy_fence
    commit();
    wait_products<0>(d);
    b[threadIdx.x] = __float_as_int(d[0]);
}
PAIR(operand_without_proxy_fence)

// The sums were set to zero, and no fence orders that before the product.
template <bool fixed>
__device__ void product_without_fence(int* a, int* b, int n) {
    __shared__ __align__(128) Tiles tiles;
    float d[4] = {0, 0, 0, 0};
    fill(tiles, a);
    fence_proxy();
    __syncthreads();
    if (fixed) {
        fence_products();
    }
    multiply(d, tiles);  // fault: product_without_fence
    commit();
    wait_products<0>(d);
    b[threadIdx.x] = __float_as_int(d[0]);
}
PAIR(product_without_fence)

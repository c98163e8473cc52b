// Faults of mbarriers and of bulk copies (sm_90).
#include "pair.h"

__device__ inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ inline void initialise(unsigned long long* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive(unsigned long long* barrier) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(shared_address(barrier)) : "memory");  // fault: of its caller
}

__device__ inline void expect(unsigned long long* barrier, int bytes) {
    asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

__device__ inline bool done(unsigned long long* barrier, int parity) {
    int result;
    // fault: of its caller
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
                 : "=r"(result)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return result;
}

__device__ inline void bulk_copy(int* shared, const int* global, int bytes, unsigned long long* barrier) {
    // fault: of its caller
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// One arrival fewer than the barrier waits for.
template <bool fixed>
__device__ void missing_arrival(int* a, int* b, int n) {
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    if (t == 0) {
        initialise(&barrier, 64);
    }
    __syncthreads();
    if (fixed || t != 7) {
        arrive(&barrier);
    }
    while (!done(&barrier, 0)) {  // fault: missing_arrival
    }
    b[t] = a[t];
}
PAIR(missing_arrival)

// The barrier expects more bytes than the copy brings.
template <bool fixed>
__device__ void too_many_bytes_expected(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    if (t == 0) {
        initialise(&barrier, 1);
    }
    __syncthreads();
    if (t == 0) {
        expect(&barrier, fixed ? 512 : 1024);
        bulk_copy(tile, a, 512, &barrier);
    }
    while (!done(&barrier, 0)) {  // fault: too_many_bytes_expected
    }
    b[t] = tile[t];
}
PAIR(too_many_bytes_expected)

// The tile is read without a look at the barrier.
template <bool fixed>
__device__ void bulk_copy_not_awaited(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    if (t == 0) {
        initialise(&barrier, 1);
        expect(&barrier, 512);
        bulk_copy(tile, a, 512, &barrier);
    }
    __syncthreads();
    if (fixed) {
        while (!done(&barrier, 0)) {
        }
    }
    b[t] = tile[t];  // fault: bulk_copy_not_awaited
    while (!done(&barrier, 0)) {
    }
}
PAIR(bulk_copy_not_awaited)

// The wait asks for the phase before the current one, which is always over.
template <bool fixed>
__device__ void wrong_parity(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    if (t == 0) {
        initialise(&barrier, 1);
        expect(&barrier, 512);
        bulk_copy(tile, a, 512, &barrier);
    }
    __syncthreads();
    while (!done(&barrier, fixed ? 0 : 1)) {
    }
    b[t] = tile[t];  // fault: wrong_parity
    while (!done(&barrier, 0)) {
    }
}
PAIR(wrong_parity)

// A barrier that nobody initialised.
template <bool fixed>
__device__ void uninitialised_barrier(int* a, int* b, int n) {
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    if (fixed && t == 0) {
        initialise(&barrier, 32);
    }
    __syncthreads();
    arrive(&barrier);  // fault: uninitialised_barrier
    b[t] = a[t];
}
PAIR(uninitialised_barrier)

// Bulk copies move multiples of 16 bytes.
template <bool fixed>
__device__ void bulk_copy_of_20_bytes(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[32];
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    int bytes = fixed ? 32 : 20;
    if (t == 0) {
        initialise(&barrier, 1);
        expect(&barrier, bytes);
        bulk_copy(tile, a, bytes, &barrier);  // fault: bulk_copy_of_20_bytes
    }
    __syncthreads();
    while (!done(&barrier, 0)) {
    }
    b[t] = tile[t % 4];
}
PAIR(bulk_copy_of_20_bytes)

// The second round copies into the tile that the first round's readers may not have left.
template <bool fixed>
__device__ void tile_not_released(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    __shared__ unsigned long long barrier;
    int t = threadIdx.x;
    if (t == 0) {
        initialise(&barrier, 1);
    }
    __syncthreads();
    int sum = 0;
    for (int round = 0; round < 2; ++round) {
        if (t == 0) {
            expect(&barrier, 512);
            bulk_copy(tile, a, 512, &barrier);  // fault: tile_not_released
        }
        while (!done(&barrier, round & 1)) {
        }
        sum += tile[t];  // fault: tile_not_released
        if (fixed) {
            __syncthreads();
        }
    }
    b[t] = sum;
}
PAIR(tile_not_released)

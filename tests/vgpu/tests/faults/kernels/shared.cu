// Faults of shared memory and of barriers.
#include "pair.h"

extern __shared__ int dynamic[];

// Reversal through shared memory without a barrier between the store and the load.
template <bool fixed>
__device__ void missing_barrier(int* a, int* b, int n) {
    __shared__ int tile[256];
    int t = threadIdx.x;
    tile[t] = a[t];
    if (fixed) {
        __syncthreads();
    }
    b[t] = tile[255 - t];  // fault: missing_barrier
}
PAIR(missing_barrier)

// The tile is filled again while other warps may still read it.
template <bool fixed>
__device__ void refilled_too_early(int* a, int* b, int n) {
    __shared__ int tile[128];
    int t = threadIdx.x;
    int sum = 0;
    for (int round = 0; round < 3; ++round) {
        tile[t] = a[t] + round;  // fault: refilled_too_early
        __syncthreads();
        sum += tile[127 - t];
        if (fixed) {
            __syncthreads();
        }
    }
    b[t] = sum;
}
PAIR(refilled_too_early)

// A tree reduction whose barrier is left out of the loop.
template <bool fixed>
__device__ void tree_without_barrier(int* a, int* b, int n) {
    __shared__ int tile[256];
    int t = threadIdx.x;
    tile[t] = a[t];
    __syncthreads();
    for (int half = 128; half >= 32; half /= 2) {
        if (t < half) {
            tile[t] += tile[t + half];  // fault: tree_without_barrier
        }
        if (fixed) {
            __syncthreads();
        }
    }
    if (t < 32) {
        b[t] = tile[t];
    }
}
PAIR(tree_without_barrier)

// Two buffers, but the wrong one is filled.
template <bool fixed>
__device__ void wrong_buffer(int* a, int* b, int n) {
    __shared__ int tile[2][64];
    int t = threadIdx.x;
    int sum = 0;
    tile[0][t] = a[t];
    __syncthreads();
    for (int round = 0; round < 4; ++round) {
        int now = round & 1;
        tile[fixed ? now ^ 1 : now][t] = a[t] + round;  // fault: wrong_buffer
        sum += tile[now][63 - t];                       // fault: wrong_buffer
        __syncthreads();
    }
    b[t] = sum;
}
PAIR(wrong_buffer)

// Every thread keeps the largest value in one word without an atomic operation.
template <bool fixed>
__device__ void shared_maximum(int* a, int* b, int n) {
    __shared__ int largest;
    int t = threadIdx.x;
    if (t == 0) {
        largest = 0;
    }
    __syncthreads();
    if (fixed) {
        atomicMax(&largest, a[t]);
    } else if (a[t] > largest) {  // fault: shared_maximum
        largest = a[t];           // fault: shared_maximum
    }
    __syncthreads();
    b[t] = largest;
}
PAIR(shared_maximum)

// Half of the tile is never filled.
template <bool fixed>
__device__ void uninitialised_tile(int* a, int* b, int n) {
    __shared__ int tile[128];
    int t = threadIdx.x;
    if (fixed || t < 64) {
        tile[t] = a[t];
    }
    __syncthreads();
    b[t] = tile[127 - t];  // fault: uninitialised_tile
}
PAIR(uninitialised_tile)

// A stencil's halo: one element at each end, of which the right one is forgotten.
template <bool fixed>
__device__ void forgotten_halo(int* a, int* b, int n) {
    __shared__ int tile[66];
    int t = threadIdx.x;
    tile[t + 1] = a[t];
    if (t == 0) {
        tile[0] = 0;
    }
    if (fixed && t == 63) {
        tile[65] = 0;
    }
    __syncthreads();
    b[t] = tile[t] + tile[t + 2];  // fault: forgotten_halo
}
PAIR(forgotten_halo)

// One element too few.
template <bool fixed>
__device__ void tile_too_small(int* a, int* b, int n) {
    int t = threadIdx.x;
    dynamic[fixed ? t : t + 1] = a[t];  // fault: tile_too_small
    __syncthreads();
    b[t] = dynamic[fixed ? t : t + 1];
}
PAIR(tile_too_small)

// A launch that asks for less dynamic shared memory than the kernel uses: see the test.
template <bool fixed>
__device__ void too_little_asked(int* a, int* b, int n) {
    int t = threadIdx.x;
    dynamic[t] = a[t];  // fault: too_little_asked
    __syncthreads();
    b[t] = dynamic[t ^ 1];
}
PAIR(too_little_asked)

// Vectors of 16 bytes in rows of 20.
template <bool fixed>
__device__ void vector_in_a_padded_row(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[32 * 8];
    int t = threadIdx.x;
    for (int i = t; i < 256; i += 32) {
        tile[i] = a[i];
    }
    __syncthreads();
    int4 four = *reinterpret_cast<int4*>(tile + t * (fixed ? 8 : 5));  // fault: vector_in_a_padded_row
    b[t] = four.x + four.y;
}
PAIR(vector_in_a_padded_row)

// A barrier in a branch that only some threads of a warp take.
template <bool fixed>
__device__ void barrier_in_a_branch(int* a, int* b, int n) {
    __shared__ int tile[64];
    int t = threadIdx.x;
    if (t < 50) {
        tile[t] = a[t];
        if (!fixed) {
            __syncthreads();  // fault: barrier_in_a_branch
        }
    } else {
        tile[t] = 0;
    }
    if (fixed) {
        __syncthreads();
    }
    b[t] = tile[t];
    __syncthreads();  // fault: barrier_in_a_branch
    a[t] = tile[63 - t];
}
PAIR(barrier_in_a_branch)

// Two barriers in the two arms of a branch are not one barrier.
template <bool fixed>
__device__ void barrier_in_both_arms(int* a, int* b, int n) {
    __shared__ int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    if (fixed) {
        __syncthreads();
    }
    if (t & 1) {
        if (!fixed) {
            asm volatile("bar.sync 0;" ::: "memory");  // fault: barrier_in_both_arms
        }
        b[t] = tile[t ^ 1] + 1;
    } else {
        if (!fixed) {
            asm volatile("bar.sync 0; // even" ::: "memory");  // fault: barrier_in_both_arms
        }
        b[t] = tile[t ^ 1] - 1;
    }
}
PAIR(barrier_in_both_arms)

// Each thread runs the loop, with its barrier, as often as its own number says.
template <bool fixed>
__device__ void uneven_loop(int* a, int* b, int n) {
    int sum = 0;
    int rounds = fixed ? 4 : a[threadIdx.x] % 4 + 1;
    for (int round = 0; round < rounds; ++round) {
        sum += a[threadIdx.x] + round;
        __syncthreads();  // fault: uneven_loop
    }
    __syncthreads();  // fault: uneven_loop
    b[threadIdx.x] = sum;
}
PAIR(uneven_loop)

// Producers and consumers disagree about how many threads a named barrier has.
template <bool fixed>
__device__ void named_barrier_counts(int* a, int* b, int n) {
    __shared__ int tile[64];
    int t = threadIdx.x;
    if (t < 64) {
        tile[t] = a[t];
        asm volatile("bar.arrive 1, 128;" ::: "memory");  // fault: named_barrier_counts
    } else if (fixed) {
        asm volatile("bar.sync 1, 128;" ::: "memory");
        b[t] = tile[t - 64];
    } else {
        asm volatile("bar.sync 1, 96;" ::: "memory");  // fault: named_barrier_counts
        b[t] = tile[t - 64];
    }
}
PAIR(named_barrier_counts)

// A thread count that is no multiple of the warp.
template <bool fixed>
__device__ void barrier_of_48_threads(int* a, int* b, int n) {
    int count = fixed ? 64 : 48;
    asm volatile("bar.sync 1, %0;" ::"r"(count) : "memory");  // fault: barrier_of_48_threads
    b[threadIdx.x] = a[threadIdx.x];
}
PAIR(barrier_of_48_threads)

// A barrier number beyond the sixteen that there are.
template <bool fixed>
__device__ void barrier_sixteen(int* a, int* b, int n) {
    int number = fixed ? 15 : 16;
    asm volatile("bar.sync %0, 64;" ::"r"(number) : "memory");  // fault: barrier_sixteen
    b[threadIdx.x] = a[threadIdx.x];
}
PAIR(barrier_sixteen)

// A named barrier at which one warp never arrives.
template <bool fixed>
__device__ void absent_warp(int* a, int* b, int n) {
    int t = threadIdx.x;
    if (fixed || t < 64) {
        asm volatile("bar.sync 2, 96;" ::: "memory");  // fault: absent_warp
    }
    b[t] = a[t];
}
PAIR(absent_warp)

// Columns of a tile without padding: 32 threads in one bank. Not a finding, but the counters say it.
template <bool fixed>
__device__ void transposed_in_one_bank(int* a, int* b, int n) {
    __shared__ int tile[32][fixed ? 33 : 32];
    int t = threadIdx.x;
    for (int row = 0; row < 32; ++row) {
        tile[row][t] = a[row * 32 + t];
    }
    __syncthreads();
    for (int row = 0; row < 32; ++row) {
        b[row * 32 + t] = tile[t][row];
    }
}
PAIR(transposed_in_one_bank)

// Rows of 128 bytes for `ldmatrix`, swizzled by the wrong bits of the row.
template <bool fixed>
__device__ void wrong_swizzle(int* a, int* b, int n) {
    __shared__ __align__(128) int tile[8 * 32];
    int t = threadIdx.x;
    for (int i = t; i < 64; i += 32) {
        int row = i / 8, chunk = i % 8;
        int place = chunk ^ (fixed ? row : row / 8);
        reinterpret_cast<int4*>(tile)[row * 8 + place] = reinterpret_cast<int4*>(a)[i];
    }
    __syncthreads();
    int row = t % 8;
    int chunk = t / 8 ^ (fixed ? row : row / 8);
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(tile + row * 32 + chunk * 4));
    int r0, r1, r2, r3;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
                 : "r"(address));
    b[t] = r0 + r1 + r2 + r3;
}
PAIR(wrong_swizzle)

// More shared memory than a block may have: see the test.
extern "C" __global__ void uses_dynamic_shared(int* a, int* b, int n) {
    dynamic[threadIdx.x] = a[threadIdx.x];
    __syncthreads();
    b[threadIdx.x] = dynamic[threadIdx.x];
}

// A block of more threads than it was compiled for: see the test.
extern "C" __global__ void __launch_bounds__(128, 1) at_most_128_threads(int* a, int* b, int n) {
    b[threadIdx.x] = a[threadIdx.x];
}

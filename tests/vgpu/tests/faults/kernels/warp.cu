// Faults between the lanes of a warp, and between blocks.
#include "pair.h"

// Where all lanes meet again. Lanes that wait here and lanes that wait for them elsewhere are two sides of one fault.
__device__ inline void whole_warp() {
    asm volatile("bar.warp.sync 0xffffffff;" ::: "memory");  // fault: of its caller
}

// Neighbours exchange through shared memory and trust lock step.
template <bool fixed>
__device__ void missing_warp_sync(int* a, int* b, int n) {
    __shared__ int tile[32];
    int t = threadIdx.x;
    tile[t] = a[t];
    if (fixed) {
        __syncwarp();
    }
    b[t] = tile[t ^ 1];  // fault: missing_warp_sync
}
PAIR(missing_warp_sync)

// The reduction of old, within one warp, without synchronisation.
template <bool fixed>
__device__ void warp_tree(int* a, int* b, int n) {
    __shared__ volatile int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    tile[t + 32] = 0;
    if (fixed) {
        __syncwarp();
    }
    for (int half = 16; half > 0; half /= 2) {
        int other = tile[t + half];  // fault: warp_tree
        if (fixed) {
            __syncwarp();
        }
        tile[t] = tile[t] + other;  // fault: warp_tree
        if (fixed) {
            __syncwarp();
        }
    }
    b[t] = tile[0];  // fault: warp_tree
}
PAIR(warp_tree)

// A shuffle in a branch, with the mask of the whole warp, of which the rest goes on.
template <bool fixed>
__device__ void shuffle_in_a_branch(int* a, int* b, int n) {
    int t = threadIdx.x;
    int value = a[t];
    if (t < 16) {
        unsigned mask = fixed ? 0xffff : 0xffffffff;
        asm volatile("shfl.sync.bfly.b32 %0, %0, 1, 31, %1;" : "+r"(value) : "r"(mask));  // fault: shuffle_in_a_branch
    }
    whole_warp();
    b[t] = value;
}
PAIR(shuffle_in_a_branch)

// A vote that counts on lanes which do not take part.
template <bool fixed>
__device__ void vote_without_some(int* a, int* b, int n) {
    int t = threadIdx.x;
    unsigned votes = 0;
    if (t < 20) {
        unsigned mask = fixed ? (1u << 20) - 1 : 0xffffffff;
        asm volatile("{ .reg .pred p; setp.gt.s32 p, %1, 4; vote.sync.ballot.b32 %0, p, %2; }"  // fault: vote_without_some
                     : "=r"(votes)
                     : "r"(a[t]), "r"(mask));
    }
    whole_warp();
    b[t] = votes;
}
PAIR(vote_without_some)

// A lane that is not in its own mask.
template <bool fixed>
__device__ void lane_outside_its_mask(int* a, int* b, int n) {
    int t = threadIdx.x;
    unsigned mask = fixed ? 0xffffffff : 0x7fffffff;
    int sum;
    asm volatile("redux.sync.add.s32 %0, %1, %2;" : "=r"(sum) : "r"(a[t]), "r"(mask));  // fault: lane_outside_its_mask
    b[t] = sum;
}
PAIR(lane_outside_its_mask)

// A synchronisation with a lane that is somewhere else.
template <bool fixed>
__device__ void partial_warp_barrier(int* a, int* b, int n) {
    int t = threadIdx.x;
    if (t < 8) {
        unsigned mask = fixed ? 0xff : 0x1ff;
        asm volatile("bar.warp.sync %0;" ::"r"(mask) : "memory");  // fault: partial_warp_barrier
    }
    b[t] = __shfl_xor_sync(0xffffffff, a[t], 1);
}
PAIR(partial_warp_barrier)

// `ldmatrix` needs the whole warp.
template <bool fixed>
__device__ void half_a_warp_of_rows(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[32];
    int t = threadIdx.x;
    tile[t] = a[t];
    __syncwarp();
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(tile + t % 8 * 4));
    int value = 0;
    if (fixed || a[t] < 16) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(value) : "r"(address));  // fault: half_a_warp_of_rows
    }
    whole_warp();
    b[t] = value;
}
PAIR(half_a_warp_of_rows)

// Rows for `ldmatrix` begin at multiples of 16 bytes.
template <bool fixed>
__device__ void row_off_its_alignment(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[64];
    int t = threadIdx.x;
    tile[t] = a[t];
    tile[t + 32] = a[t + 32];
    __syncwarp();
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(tile + t % 8 * (fixed ? 4 : 5)));
    int value;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(value) : "r"(address));  // fault: row_off_its_alignment
    b[t] = value;
}
PAIR(row_off_its_alignment)

// Blocks add to one word without atomics.
template <bool fixed>
__device__ void sum_across_blocks(int* a, int* b, int n) {
    if (threadIdx.x == 0) {
        if (fixed) {
            atomicAdd(a, 1);
        } else {
            *a += 1;  // fault: sum_across_blocks
        }
    }
}
PAIR(sum_across_blocks)

// A block reads what its neighbour writes in the same launch.
template <bool fixed>
__device__ void neighbour_block(int* a, int* b, int n) {
    int i = global_index();
    a[i] = i;  // fault: neighbour_block
    if (!fixed) {
        b[i] = a[(i + blockDim.x) % n];  // fault: neighbour_block
    }
}
PAIR(neighbour_block)

// Blocks overlap by one element.
template <bool fixed>
__device__ void overlapping_blocks(int* a, int* b, int n) {
    int first = blockIdx.x * blockDim.x;
    int i = first + threadIdx.x;
    if (i < n) {
        b[i] = a[i];  // fault: overlapping_blocks
    }
    if (!fixed && threadIdx.x == 0 && first > 0) {
        b[first - 1] = 7;  // fault: overlapping_blocks
    }
}
PAIR(overlapping_blocks)

// How many blocks have finished, and whether a message is there: for the faulty kernels and for the others.
__device__ unsigned finished[2], arrived[2];

// The last block sums what the others wrote; without a fence that may come after the word that says so.
template <bool fixed>
__device__ void last_block_without_fence(int* a, int* b, int n) {
    if (threadIdx.x == 0) {
        b[blockIdx.x] = a[blockIdx.x];
        if (fixed) {
            __threadfence();
        }
        if (atomicInc(&finished[fixed], gridDim.x - 1) == gridDim.x - 1) {
            int sum = 0;
            for (unsigned i = 0; i < gridDim.x; i++) {
                sum += static_cast<volatile int*>(b)[i];  // fault: last_block_without_fence
            }
            b[gridDim.x] = sum;
        }
    }
}
PAIR(last_block_without_fence)

// A block writes a message and then a flag, another one waits for the flag and reads the message.
template <bool fixed>
__device__ void message_without_fence(int* a, int* b, int n) {
    int t = threadIdx.x;
    if (blockIdx.x == 0) {
        a[t] = 2 * t;
        __syncthreads();
        if (t == 0) {
            if (fixed) {
                __threadfence();
            }
            atomicExch(&arrived[fixed], 1);
        }
    } else {
        if (t == 0) {
            while (static_cast<volatile unsigned*>(arrived)[fixed] == 0) {
            }
            __threadfence();
        }
        __syncthreads();
        b[t] = a[t];  // fault: message_without_fence
    }
}
PAIR(message_without_fence)

// Blocks have 31 bytes each, side by side within words; the faulty ones take one more.
template <bool fixed>
__device__ void byte_of_a_neighbour(int* a, int* b, int n) {
    int t = threadIdx.x;
    if (t < (fixed ? 31 : 32)) {
        reinterpret_cast<signed char*>(b)[31 * blockIdx.x + t] = 1;  // fault: byte_of_a_neighbour
    }
}
PAIR(byte_of_a_neighbour)

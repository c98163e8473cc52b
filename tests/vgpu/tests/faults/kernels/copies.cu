// Faults of asynchronous copies (cp.async) into shared memory.
#include "pair.h"

__device__ inline unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ inline void copy_16(int* shared, const int* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");  // fault: of its caller
}

__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int pending>
__device__ inline void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// The copy is never waited for before the tile is read.
template <bool fixed>
__device__ void missing_wait(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, a + 4 * t);
    commit();
    if (fixed) {
        wait<0>();
    }
    __syncthreads();
    b[t] = tile[t];  // fault: missing_wait
    wait<0>();
}
PAIR(missing_wait)

// Two groups are in flight, and the wait lets one of them stay so.
template <bool fixed>
__device__ void weak_wait(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[2][128];
    int t = threadIdx.x;
    copy_16(tile[0] + 4 * t, a + 4 * t);
    commit();
    copy_16(tile[1] + 4 * t, a + 4 * t);
    commit();
    wait<fixed ? 0 : 1>();
    __syncthreads();
    b[t] = tile[0][t] + tile[1][t];  // fault: weak_wait
    wait<0>();
}
PAIR(weak_wait)

// Each thread waits for its own copies, but reads those of others without a barrier.
template <bool fixed>
__device__ void wait_without_barrier(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[512];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, a + 4 * t);
    commit();
    wait<0>();
    if (fixed) {
        __syncthreads();
    }
    b[t] = tile[511 - 4 * t];  // fault: wait_without_barrier
}
PAIR(wait_without_barrier)

// The wait stands before the commit: the group that it should wait for is not closed yet.
template <bool fixed>
__device__ void wait_before_commit(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, a + 4 * t);
    if (fixed) {
        commit();
    }
    wait<0>();
    if (!fixed) {
        commit();
    }
    __syncthreads();
    b[t] = tile[t];  // fault: wait_before_commit
    wait<0>();
}
PAIR(wait_before_commit)

// The target of a pending copy is written by a plain store.
template <bool fixed>
__device__ void overwritten_copy(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, a + 4 * t);
    commit();
    if (fixed) {
        wait<0>();
    }
    tile[4 * t] = 0;  // fault: overwritten_copy
    wait<0>();
    __syncthreads();
    b[t] = tile[4 * t];
}
PAIR(overwritten_copy)

// The next stage is copied into the buffer that others still read.
template <bool fixed>
__device__ void pipeline_without_barrier(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[256];
    int t = threadIdx.x;
    int sum = 0;
    for (int stage = 0; stage < 3; ++stage) {
        copy_16(tile + 4 * t, a + 4 * t);  // fault: pipeline_without_barrier
        commit();
        wait<0>();
        __syncthreads();
        sum += tile[255 - 4 * t];
        if (fixed) {
            __syncthreads();
        }
    }
    b[t] = sum;
}
PAIR(pipeline_without_barrier)

// Two stages; the buffer that is read is the one that is still being filled.
template <bool fixed>
__device__ void stale_stage(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[2][128];
    int t = threadIdx.x;
    int sum = 0;
    copy_16(tile[0] + 4 * t, a + 4 * t);
    commit();
    for (int stage = 0; stage < 4; ++stage) {
        copy_16(tile[(stage + 1) & 1] + 4 * t, a + 4 * t);
        commit();
        wait<1>();
        __syncthreads();
        sum += tile[fixed ? stage & 1 : (stage + 1) & 1][127 - t];  // fault: stale_stage
        __syncthreads();
    }
    wait<0>();
    b[t] = sum;
}
PAIR(stale_stage)

// The thread ends with copies in flight.
template <bool fixed>
__device__ void never_waited(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, a + 4 * t);
    commit();
    if (fixed) {
        wait<0>();
    }
    b[t] = a[t];
}
PAIR(never_waited)

// A source that is no multiple of 16 bytes.
template <bool fixed>
__device__ void source_off_its_alignment(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, a + 4 * t + (fixed ? 4 : 1));  // fault: source_off_its_alignment
    commit();
    wait<0>();
    __syncthreads();
    b[t] = tile[t];
}
PAIR(source_off_its_alignment)

// A source that ends inside the copy.
template <bool fixed>
__device__ void source_past_the_end(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    tile[t] = tile[t + 32] = tile[t + 64] = tile[t + 96] = 0;
    __syncwarp();
    if (!fixed || 4 * t + 3 < n) {
        copy_16(tile + 4 * t, a + 4 * t);  // fault: source_past_the_end
    }
    commit();
    wait<0>();
    __syncthreads();
    b[t] = tile[t];
}
PAIR(source_past_the_end)

// A source that nobody has written.
template <bool fixed>
__device__ void uninitialised_source(int* a, int* b, int n) {
    __shared__ __align__(16) int tile[128];
    int t = threadIdx.x;
    copy_16(tile + 4 * t, (fixed ? a : b) + 4 * t);
    commit();
    wait<0>();
    __syncthreads();
    a[t] = tile[t];  // fault: uninitialised_source
}
PAIR(uninitialised_source)

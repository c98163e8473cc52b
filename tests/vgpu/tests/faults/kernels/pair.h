// Each fault is a device function that is wrong unless `fixed`: two kernels are made of it, NAME_faulty and NAME_fixed.
//
// All kernels have the same parameters: `a` is a buffer that the host has filled with 0, 1, 2, ..., `b` one that nobody
// has written, both of `n` elements unless the test says otherwise. The line to which the finding must point carries the
// comment `fault: NAME`; in a helper that is inlined, `fault: of its caller`.
#pragma once

#define PAIR(name)                                                                                   \
    extern "C" __global__ void name##_faulty(int* a, int* b, int n) { name<false>(a, b, n); }        \
    extern "C" __global__ void name##_fixed(int* a, int* b, int n) { name<true>(a, b, n); }

// The thread's number in the grid.
__device__ inline int global_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

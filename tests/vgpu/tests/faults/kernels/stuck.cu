// Kernels that do not end, or end early.
#include "pair.h"

// A loop whose condition never changes.
template <bool fixed>
__device__ void endless_loop(int* a, int* b, int n) {
    volatile int* flag = a;
    int rounds = 0;
    while (*flag == 0 && !(fixed && rounds >= 10)) {  // fault: endless_loop
        ++rounds;
    }
    b[threadIdx.x] = rounds;
}
PAIR(endless_loop)

// Waiting for a flag that another block would set, had it the chance to.
template <bool fixed>
__device__ void flag_never_set(int* a, int* b, int n) {
    volatile int* flag = a;
    if (blockIdx.x == 1 && fixed) {
        *flag = 1;
        __threadfence();
    }
    if (blockIdx.x == 0) {
        while (*flag != 1) {  // fault: flag_never_set
        }
    }
    if (threadIdx.x == 0) {
        b[blockIdx.x] = *flag;
    }
}
PAIR(flag_never_set)

// A condition of the kernel's own.
template <bool fixed>
__device__ void trapped(int* a, int* b, int n) {
    if (!fixed && a[threadIdx.x] == 17) {
        __trap();  // fault: trapped
    }
    b[threadIdx.x] = a[threadIdx.x];
}
PAIR(trapped)

// A failed assertion.
#include <cassert>
template <bool fixed>
__device__ void assertion(int* a, int* b, int n) {
    assert(a[threadIdx.x] < (fixed ? 32 : 31));  // fault: assertion
    b[threadIdx.x] = a[threadIdx.x];
}
PAIR(assertion)

typedef int (*Function)(int);
__device__ __noinline__ int twice(int value) { return 2 * value; }
__device__ __noinline__ int thrice(int value) { return 3 * value; }
__device__ Function functions[2] = {twice, thrice};

// A table of functions with an entry too few.
template <bool fixed>
__device__ void call_of_nothing(int* a, int* b, int n) {
    Function function = functions[threadIdx.x & 1];
    if (!fixed && threadIdx.x == 5) {
        function = reinterpret_cast<Function>(static_cast<long long>(a[0]));
    }
    b[threadIdx.x] = function(a[threadIdx.x]);  // fault: call_of_nothing
}
PAIR(call_of_nothing)

// Recursion without an end.
__device__ __noinline__ int descend(int depth, volatile int* flag) {
    int here[16];
    for (int i = 0; i < 16; ++i) {
        here[i] = *flag + depth;
    }
    if (depth == 0) {
        return here[3];
    }
    int below = descend(depth - 1, flag);  // fault: endless_recursion
    return below + here[below & 15];
}
template <bool fixed>
__device__ void endless_recursion(int* a, int* b, int n) {
    b[threadIdx.x] = descend(fixed ? 2 : 1 << 20, a);
}
PAIR(endless_recursion)

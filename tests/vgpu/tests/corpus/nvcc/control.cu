// Calls through pointers, switches, recursion, local arrays, printf, asserts.
#include <cstdio>

typedef int (*Operation)(int, int);
__device__ __noinline__ int plus_(int a, int b) { return a + b; }
__device__ __noinline__ int minus_(int a, int b) { return a - b; }
__device__ __noinline__ int times_(int a, int b) { return a * b; }
__device__ __noinline__ int larger(int a, int b) { return a > b ? a : b; }
__device__ Operation operations[4] = {plus_, minus_, times_, larger};

extern "C" __global__ void through_pointers(const int *which, const int *a, const int *b, int *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = operations[which[i] & 3](a[i], b[i]);
}

extern "C" __global__ void switches(const int *code, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int v = i;
    switch (code[i]) {
    case 0: v = v * 3 + 1; break;
    case 1: v = v ^ 0x55; break;
    case 2: v = v << 3; // and on
    case 3: v = v - 7; break;
    case 4: v = v / 5; break;
    case 5: v = v % 11; break;
    case 6: v = __brev(v); break;
    case 7: v = -v; break;
    case 8: v = v * v; break;
    case 9: v = __popc(v); break;
    default: v = -1;
    }
    out[i] = v;
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void recursion(int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = fibonacci(i % 13);
}

extern "C" __global__ void sort_local(const int *x, int *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int own[16];
    for (int k = 0; k < 16; ++k) own[k] = x[i * 16 + k];
    for (int k = 1; k < 16; ++k) {
        int v = own[k], j = k - 1;
        while (j >= 0 && own[j] > v) {
            own[j + 1] = own[j];
            --j;
        }
        own[j + 1] = v;
    }
    for (int k = 0; k < 16; ++k) y[i * 16 + k] = own[k];
}

extern "C" __global__ void say(int n) {
    if (threadIdx.x < n) printf("thread %d of block %d: %5.2f %s 0x%llx\n", threadIdx.x, blockIdx.x, threadIdx.x * 0.5, "text", 0x123456789abull);
}

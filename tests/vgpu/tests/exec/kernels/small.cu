// Small kernels for the tests of the executor: one idea each.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdio>

extern "C" __global__ void saxpy(int n, float a, const float *x, float *y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}

// Sum with shared memory, then shuffles, then an atomic.
extern "C" __global__ void reduce_sum(const float *x, float *out, int n) {
    __shared__ float part[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    for (int o = 16; o > 0; o >>= 1) sum += __shfl_down_sync(0xffffffff, sum, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
        for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, o);
        if (threadIdx.x == 0) atomicAdd(out, sum);
    }
}

// Each lane leaves the loop at another time.
extern "C" __global__ void collatz(const unsigned *x, unsigned *steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned v = x[i], s = 0;
    while (v != 1) {
        v = v % 2 ? 3 * v + 1 : v / 2;
        s++;
        if (s > 1000) break;
    }
    steps[i] = s;
}

// Nested switches and early exits.
extern "C" __global__ void paths(const int *x, int *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int v = x[i], r = 0;
    switch (v & 7) {
    case 0: r = v * 3; break;
    case 1: r = v - 7; if (v & 8) { y[i] = -1; return; } break;
    case 2: for (int k = 0; k < (v & 31); k++) { if (k * k > v) break; r += k; } break;
    case 3: r = v ^ 0x55; break;
    case 4: r = v / 3; break;
    case 5: r = v % 11; break;
    case 6: r = -v; break;
    default: r = v << 2;
    }
    y[i] = r + __popc(__activemask() | 1) * 0;
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
extern "C" __global__ void recursion(int *y) { y[threadIdx.x] = fibonacci(threadIdx.x % 12); }

__device__ __noinline__ float twice(float x) { return 2 * x; }
__device__ __noinline__ float square(float x) { return x * x; }
__device__ float (*const table[2])(float) = {twice, square};
extern "C" __global__ void pointers(const float *x, float *y) {
    int i = threadIdx.x;
    y[i] = table[(i / 3) & 1](x[i]);
}

extern "C" __global__ void hello() {
    if (threadIdx.x == 3) printf("block %d thread %d: %s %5.2f\n", blockIdx.x, threadIdx.x, "hello", 3.14159);
}

// A lock that lanes of one warp fight for: needs independent thread scheduling.
extern "C" __global__ void lock(int *mutex, int *count) {
    bool done = false;
    while (!done) {
        if (atomicCAS(mutex, 0, 1) == 0) {
            *(volatile int *)count = *(volatile int *)count + 1;
            __threadfence();
            atomicExch(mutex, 0);
            done = true;
        }
    }
}

__constant__ float weights[16];
extern "C" __global__ void stencil(const float *x, float *y, int n) {
    extern __shared__ float tile[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = i < n ? x[i] : 0.f;
    __syncthreads();
    float s = 0;
    for (int k = 0; k < 16; k++) s += weights[k] * tile[(threadIdx.x + k) % blockDim.x];
    if (i < n) y[i] = s;
}

extern "C" __global__ void votes(const int *x, unsigned *y) {
    int v = x[threadIdx.x];
    unsigned b = __ballot_sync(0xffffffff, v > 0);
    unsigned m = __match_any_sync(0xffffffff, v);
    unsigned r = __reduce_add_sync(0xffffffff, (unsigned)v);
    int all = __all_sync(0xffffffff, v > -100), any = __any_sync(0xffffffff, v > 100);
    if (threadIdx.x % 2) {
        b ^= __shfl_sync(0xaaaaaaaa, b, 1);
        __syncwarp(0xaaaaaaaa);
    }
    y[threadIdx.x] = b + m * 3 + r * 5 + all * 7 + any * 11 + __syncthreads_count(v > 3) * 13;
}

// 64-bit and double arithmetic, conversions, division.
extern "C" __global__ void mixture(const double *x, const long long *a, double *y, long long *b) {
    int i = threadIdx.x;
    double v = x[i];
    long long w = a[i];
    y[i] = sqrt(fabs(v)) / (1.0 + v * v) + (double)w + (double)(float)v + exp(-fabs(v));
    b[i] = w / 7 + w % 13 + (w >> 3) * (long long)(v * 100) + __clzll(w) + __popcll(w) + (long long)(unsigned char)w;
}

extern "C" __global__ void special(const float *x, float *y) {
    int i = threadIdx.x;
    float v = x[i];
    y[4 * i] = __expf(v) + sinf(v);
    y[4 * i + 1] = logf(fabsf(v) + 1) + rsqrtf(fabsf(v) + 0.5f);
    y[4 * i + 2] = tanhf(v) + powf(fabsf(v) + .1f, 1.7f);
    y[4 * i + 3] = __half2float(__float2half(v)) + __bfloat162float(__float2bfloat16(v)) + v / (v * v + 1.f);
}

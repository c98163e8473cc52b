// Variables of the module: constant, global, with first values, with pointers to each other.

__constant__ float coefficients[8] = {1, -2, 3, -4, 5, -6, 7, -8};
__device__ unsigned counter = 5;
__device__ int table[64];
__device__ int *pointer = &table[3];

extern "C" __global__ void polynomial(const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = 0;
    for (int k = 7; k >= 0; --k) v = v * x[i] + coefficients[k];
    y[i] = v;
}

extern "C" __global__ void count(int n) {
    if (blockIdx.x * blockDim.x + threadIdx.x < n) atomicAdd(&counter, 1u);
    if (threadIdx.x < 4 && blockIdx.x == 0) pointer[threadIdx.x] = threadIdx.x + 100;
}

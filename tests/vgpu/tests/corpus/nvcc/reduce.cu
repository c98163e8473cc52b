// Reductions: shared memory with barriers, shuffles, votes, atomics at the end.

extern "C" __global__ void sum_shared(const float *x, float *total, int n) {
    __shared__ float partial[256];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(total, partial[0]);
}

__device__ double warp_sum(double v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_down_sync(0xffffffffu, v, offset);
    return v;
}

extern "C" __global__ void sum_shuffle(const double *x, double *total, int n) {
    __shared__ double warps[32];
    double sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    sum = warp_sum(sum);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) warps[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < blockDim.x / 32 ? warps[lane] : 0.0;
        sum = warp_sum(sum);
        if (lane == 0) atomicAdd(total, sum);
    }
}

extern "C" __global__ void extremes(const int *x, int *low, int *high, unsigned *positive, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int v = i < n ? x[i] : 0;
    unsigned ballot = __ballot_sync(0xffffffffu, i < n && v > 0);
    int smallest = __reduce_min_sync(0xffffffffu, v), largest = __reduce_max_sync(0xffffffffu, v);
    if (threadIdx.x % 32 == 0) {
        atomicMin(low, smallest);
        atomicMax(high, largest);
        atomicAdd(positive, __popc(ballot));
    }
}

// An inclusive sum over the block, in dynamic shared memory.
extern "C" __global__ void scan_block(const int *x, int *y, int n) {
    extern __shared__ int buffer[];
    int t = threadIdx.x;
    int *from = buffer, *to = buffer + blockDim.x;
    from[t] = t < n ? x[t] : 0;
    __syncthreads();
    for (int offset = 1; offset < blockDim.x; offset *= 2) {
        to[t] = from[t] + (t >= offset ? from[t - offset] : 0);
        int *swap = from;
        from = to;
        to = swap;
        __syncthreads();
    }
    if (t < n) y[t] = from[t];
}

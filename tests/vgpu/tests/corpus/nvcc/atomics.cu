// Atomics in shared and global memory, 32 and 64 bits, and loops around compare-and-swap.

extern "C" __global__ void histogram(const unsigned char *data, unsigned *bins, int n) {
    __shared__ unsigned local[256];
    local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[data[i]], 1u);
    __syncthreads();
    if (local[threadIdx.x]) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

extern "C" __global__ void wide(unsigned long long *cells, int n) {
    unsigned long long i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    atomicAdd(&cells[0], i * 0x100000001ull);
    atomicMax(&cells[1], i * i * 7919 % 10007);
    atomicMin((long long *)&cells[2], (long long)(5000 - i));
    atomicXor(&cells[3], i << 32 | i);
    atomicOr(&cells[4], 1ull << (i % 64));
    atomicAnd(&cells[5], ~(1ull << (i % 61)));
    atomicExch(&cells[6 + i % 2], i);
}

extern "C" __global__ void multiply_f64(double *product, double factor, int n) {
    if (blockIdx.x * blockDim.x + threadIdx.x >= n) return;
    unsigned long long *bits = (unsigned long long *)product, old = *bits, assumed;
    do {
        assumed = old;
        old = atomicCAS(bits, assumed, __double_as_longlong(__longlong_as_double(assumed) * factor));
    } while (assumed != old);
}

extern "C" __global__ void tickets(unsigned *counter, unsigned *owner, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) owner[atomicInc(counter, 0xffffffffu)] = i;
}

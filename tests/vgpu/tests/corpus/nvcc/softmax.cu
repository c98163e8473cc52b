// A row per warp, exponentials, shuffles; and normalisation with a row per block.

extern "C" __global__ void softmax(const float *x, float *y, int rows, int columns) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const float *from = x + (size_t)row * columns;
    float largest = -__int_as_float(0x7f800000), sum = 0;
    for (int i = lane; i < columns; i += 32) largest = fmaxf(largest, from[i]);
    for (int offset = 16; offset; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
    for (int i = lane; i < columns; i += 32) sum += expf(from[i] - largest);
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    for (int i = lane; i < columns; i += 32) y[(size_t)row * columns + i] = __expf(from[i] - largest) / sum;
}

extern "C" __global__ void layer_norm(const float *x, const float *gain, const float *shift, float *y, int columns, float epsilon) {
    __shared__ float sums[2];
    if (threadIdx.x < 2) sums[threadIdx.x] = 0;
    __syncthreads();
    const float *from = x + (size_t)blockIdx.x * columns;
    float sum = 0, squares = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += from[i], squares += from[i] * from[i];
    for (int offset = 16; offset; offset /= 2) {
        sum += __shfl_down_sync(~0u, sum, offset);
        squares += __shfl_down_sync(~0u, squares, offset);
    }
    if (threadIdx.x % 32 == 0) atomicAdd(&sums[0], sum), atomicAdd(&sums[1], squares);
    __syncthreads();
    float mean = sums[0] / columns, scale = rsqrtf(sums[1] / columns - mean * mean + epsilon);
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        y[(size_t)blockIdx.x * columns + i] = (from[i] - mean) * scale * gain[i] + shift[i];
}

// Matrix products: tiled in f32 and f64, and with the tensor cores.
#include <cuda_bf16.h>

template <typename T, int TILE> __device__ void tiled(const T *a, const T *b, T *c, int m, int n, int k) {
    __shared__ T left[TILE][TILE], right[TILE][TILE];
    int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    T sum = 0;
    for (int start = 0; start < k; start += TILE) {
        int ka = start + threadIdx.x, kb = start + threadIdx.y;
        left[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[row * k + ka] : T(0);
        right[threadIdx.y][threadIdx.x] = kb < k && column < n ? b[kb * n + column] : T(0);
        __syncthreads();
        for (int i = 0; i < TILE; ++i) sum += left[threadIdx.y][i] * right[i][threadIdx.x];
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = sum;
}

extern "C" __global__ void matmul_f32(const float *a, const float *b, float *c, int m, int n, int k) { tiled<float, 16>(a, b, c, m, n, k); }
extern "C" __global__ void matmul_f64(const double *a, const double *b, double *c, int m, int n, int k) { tiled<double, 8>(a, b, c, m, n, k); }

__device__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

// A block of 4 warps makes a tile of 64x64 with mma.m16n8k16; two stages of cp.async; m, n multiples of 64, k of 32.
extern "C" __global__ void __launch_bounds__(128) matmul_mma(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int n, int k) {
    constexpr int K = 32, PITCH = K + 8, WIDE = 64 + 8;
    __shared__ __align__(16) __nv_bfloat16 left[2][64][PITCH], right[2][K][WIDE];
    int t = threadIdx.x, warp = t / 32, lane = t % 32;
    const __nv_bfloat16 *rows = a + blockIdx.y * 64 * k, *columns = b + blockIdx.x * 64;
    float sum[8][4] = {};
    auto fetch = [&](int stage, int start) {
        for (int i = t; i < 64 * K / 8; i += 128) {
            int row = i / (K / 8), column = i % (K / 8) * 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&left[stage][row][column])), "l"(rows + row * k + start + column));
        }
        for (int i = t; i < K * 64 / 8; i += 128) {
            int row = i / 8, column = i % 8 * 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&right[stage][row][column])), "l"(columns + (start + row) * n + column));
        }
        asm volatile("cp.async.commit_group;");
    };
    fetch(0, 0);
    for (int start = 0, stage = 0; start < k; start += K, stage ^= 1) {
        if (start + K < k) {
            fetch(stage ^ 1, start + K);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        for (int inner = 0; inner < K; inner += 16) {
            unsigned x[4], y[2];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                         : "r"(shared_address(&left[stage][warp * 16 + lane % 16][inner + lane / 16 * 8])));
            for (int j = 0; j < 8; ++j) {
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                             : "=r"(y[0]), "=r"(y[1])
                             : "r"(shared_address(&right[stage][inner + lane % 16][j * 8])));
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                             : "+f"(sum[j][0]), "+f"(sum[j][1]), "+f"(sum[j][2]), "+f"(sum[j][3])
                             : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
            }
        }
        __syncthreads();
    }
    int row = blockIdx.y * 64 + warp * 16 + lane / 4, column = blockIdx.x * 64 + lane % 4 * 2;
    for (int j = 0; j < 8; ++j)
        for (int i = 0; i < 4; ++i) c[(row + i / 2 * 8) * n + column + j * 8 + i % 2] = sum[j][i];
}

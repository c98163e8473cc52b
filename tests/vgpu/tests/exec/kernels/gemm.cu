// C[m][n] = A[m][k] B[n][k]: bf16 with f32 sums, cp.async double buffering, ldmatrix, mma.sync. 64 x 64 tiles, 4 warps.
#include <cuda_bf16.h>
__device__ unsigned smem(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ void copy16(void *to, const void *from) { asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem(to)), "l"(from)); }
extern "C" __global__ void __launch_bounds__(128) gemm_bf16(const __nv_bfloat16 *A, const __nv_bfloat16 *B, float *C, int M, int N, int K) {
    __shared__ __align__(128) __nv_bfloat16 As[2][64][40], Bs[2][64][40];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
    float acc[8][4] = {};
    auto load = [&](int s, int k0) {
        for (int c = threadIdx.x; c < 256; c += 128) {
            int r = c / 4, o = c % 4 * 8;
            copy16(&As[s][r][o], &A[(size_t)(m0 + r) * K + k0 + o]);
            copy16(&Bs[s][r][o], &B[(size_t)(n0 + r) * K + k0 + o]);
        }
        asm volatile("cp.async.commit_group;");
    };
    load(0, 0);
    for (int k0 = 0, s = 0; k0 < K; k0 += 32, s ^= 1) {
        if (k0 + 32 < K) { load(s ^ 1, k0 + 32); asm volatile("cp.async.wait_group 1;"); }
        else asm volatile("cp.async.wait_group 0;");
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            unsigned a[4];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                         : "r"(smem(&As[s][warp * 16 + lane % 16][kk + lane / 16 * 8])));
            for (int n = 0; n < 8; n += 2) {
                unsigned b[4];
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                             : "r"(smem(&Bs[s][n * 8 + lane % 8 + lane / 16 * 8][kk + lane / 8 % 2 * 8])));
                for (int h = 0; h < 2; h++) {
                    float *d = acc[n + h];
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * h]), "r"(b[2 * h + 1]));
                }
            }
        }
        __syncthreads();
    }
    for (int n = 0; n < 8; n++)
        for (int h = 0; h < 2; h++) {
            int row = m0 + warp * 16 + lane / 4 + h * 8, col = n0 + n * 8 + lane % 4 * 2;
            *(float2 *)&C[(size_t)row * N + col] = make_float2(acc[n][2 * h], acc[n][2 * h + 1]);
        }
}

// Times products of matrices with cuBLAS, at the sizes of `deem bench`: a line of JSON each. Built by gpu.sh: nvcc -O2 -o cublas beside.cu -lcublas
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

static void check(bool succeeded, const char *what) {
    if (!succeeded) {
        std::fprintf(stderr, "%s failed\n", what);
        std::exit(1);
    }
}

// C [m, n] = A B, rows contiguous, in the three forms of src/ops/gemm.rs. cuBLAS has columns contiguous, so it is given C^T = B^T A^T.
static void time_product(cublasHandle_t handle, const char *form, int m, int n, int k, cudaDataType type, const char *dtype) {
    size_t size = type == CUDA_R_32F ? 4 : 2;
    void *a, *b, *c;
    check(cudaMalloc(&a, size * m * k) == cudaSuccess, "cudaMalloc");
    check(cudaMalloc(&b, size * n * k) == cudaSuccess, "cudaMalloc");
    check(cudaMalloc(&c, size * m * n) == cudaSuccess, "cudaMalloc");
    cudaMemset(a, 0, size * m * k);
    cudaMemset(b, 0, size * n * k);
    bool transpose_b = form[1] == 't', transpose_a = form[0] == 't';
    float one = 1.0f, zero = 0.0f;
    auto product = [&] {
        check(cublasGemmEx(handle, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, n, m, k, &one, b, type,
                           transpose_b ? k : n, a, type, transpose_a ? m : k, &zero, c, type, n, CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS,
              "cublasGemmEx");
    };
    cudaEvent_t start, end;
    cudaEventCreate(&start);
    cudaEventCreate(&end);
    for (int i = 0; i < 5; i++) product();
    std::vector<float> times(50);
    for (float &time : times) {
        cudaEventRecord(start);
        product();
        cudaEventRecord(end);
        check(cudaEventSynchronize(end) == cudaSuccess, "a product");
        cudaEventElapsedTime(&time, start, end);
    }
    std::sort(times.begin(), times.end());
    std::printf("{\"op\": \"gemm %s\", \"shape\": \"[%d, %d, %d]\", \"dtype\": \"%s\", \"us\": %.2f}\n", form, m, n, k, dtype, times[25] * 1e3);
    cudaFree(a);
    cudaFree(b);
    cudaFree(c);
}

int main() {
    cublasHandle_t handle;
    check(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS, "cublasCreate");
    for (auto [type, dtype] : {std::pair(CUDA_R_16BF, "bf16"), std::pair(CUDA_R_32F, "f32")}) {
        for (const char *form : {"nt", "nn", "tn"}) time_product(handle, form, 1024, 1024, 1024, type, dtype);
        time_product(handle, "nt", 8, 4096, 4096, type, dtype);
        time_product(handle, "nt", 308, 3072, 768, type, dtype);
    }
    return 0;
}

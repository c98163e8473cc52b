/* Launches of cuda/gemm.cu. */
#ifndef DEEM_GEMM_H
#define DEEM_GEMM_H

#include <stdint.h>

#include "tensor_map.h"

/* How the operands lie: C[M,N] = A[M,K] B[N,K]^T, A[M,K] B[K,N], or A[K,M]^T B[K,N]. */
#define DEEM_GEMM_NT 0
#define DEEM_GEMM_NN 1
#define DEEM_GEMM_TN 2

/* c = residual + scale * act(a b + bias), or that is added to c. */
struct DeemGemmForward {
    const void *a;        /* [batch, M, K], or [batch, K, M] in form TN */
    const void *b;        /* [batch, K, N], or [batch, N, K] in form NT */
    void *c;              /* [batch, M, N] */
    const void *bias;     /* [N], or null */
    const void *scale;    /* [N], or null */
    const void *residual; /* [batch, M, N], or null */
    int64_t batch;
    int64_t m;
    int64_t n;
    int64_t k;
    int32_t form;       /* DEEM_GEMM_... */
    int32_t activation; /* DEEM_ACTIVATION_... */
    int32_t accumulate; /* 1: added to c */
    int32_t c_is_f32;   /* 1: c is f32 whatever a and b are */
    void *partial;      /* f32 [splits, batch, M, N]: the sums of each part of K instead of C, for gemm_forward_add_splits; or null */
    int64_t k_of_split; /* K of a part, a multiple of 64; K without parts */
    int32_t splits;     /* parts of K */
    int32_t is_bare;    /* 1: c is bf16, N a multiple of 8, and the epilogue has nothing to do */
};

/* The same by the kernels for sm_90a. The maps have the rows in memory of each operand as their inner axis, then its lines, then the products. */
struct DeemGemmTensorForward {
    struct DeemTensorMap a_map; /* boxes of 64 numbers of 64 (across k) or so many rows as a block's tile has */
    struct DeemTensorMap b_map;
    struct DeemGemmForward gemm;
    int64_t padding[1]; /* a multiple of 64 bytes */
};

#endif

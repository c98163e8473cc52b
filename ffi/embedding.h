/* Launches of cuda/embedding.cu. */
#ifndef DEEM_EMBEDDING_H
#define DEEM_EMBEDDING_H

#include <stdint.h>

/* y = the rows of a table */
struct DeemEmbeddingGather {
    const void *table; /* [.., cols] */
    const void *rows;  /* i32 [count] */
    void *y;           /* [count, cols] */
    int64_t count;
    int32_t cols;
    int32_t padding;
};

/* dst[target] = the last of, or += the sum of, src[source] over the sources of a segment, in order: one segment per target.
 * Where src is one row, it is added once per source. */
struct DeemEmbeddingScatter {
    const void *src;      /* [.., cols], or [cols] if it is one row */
    const void *targets;  /* i32 [segments] */
    const void *segments; /* i32 [segments + 1]: first source of each */
    const void *sources;  /* i32 [sources] */
    void *dst;            /* [.., cols] */
    int64_t count;        /* segments */
    int32_t cols;
    int32_t add;     /* 1: added to what is there; 0: the last source replaces it */
    int32_t one_row; /* 1: src is one row */
    int32_t padding;
};

/* Partial sums over slices of a list of rows */
struct DeemEmbeddingSumRowsAt {
    const void *src;  /* [.., cols] */
    const void *rows; /* i32 [count] */
    void *partial;    /* f32 [slices, cols] */
    int64_t count;
    int64_t rows_per_slice;
    int32_t cols;
    int32_t padding;
};

#endif

/* Launches of cuda/deform_attention.cu. "unit": one head of one query; units = batch x queries x heads, heads fastest. */
#ifndef DEEM_DEFORM_ATTENTION_H
#define DEEM_DEFORM_ATTENTION_H

#include <stdint.h>

#define DEEM_MAX_LEVELS 8

/* The maps of one picture, one after the other */
struct DeemLevels {
    int32_t count;
    int32_t positions; /* pixels of all levels */
    int32_t height[DEEM_MAX_LEVELS];
    int32_t width[DEEM_MAX_LEVELS];
    int32_t start[DEEM_MAX_LEVELS]; /* first pixel */
    float ratio[DEEM_MAX_LEVELS];   /* pixels per unit of an offset */
};

/* What MMFS reads, and its sizes; all = images x levels x points */
struct DeemMmfs {
    const void *value;        /* [pictures, positions, heads, size] */
    const void *offsets;      /* [batch, queries, heads, points, 2] */
    const void *logits;       /* [batch, queries, heads, levels, points + 1] */
    const void *offset_table; /* [rows, heads, points, 2] */
    const void *logit_table;  /* [rows, heads, levels, points + 1] */
    const void *ignore_token; /* [heads, size] */
    const void *relative;     /* i32 [batch, queries, images]: 0 for one that is not seen */
    const void *places;       /* i32 [batch, images]: which picture, or -1 */
    const void *reference;    /* f32 [queries, 2] */
    int32_t batch;
    int32_t queries;
    int32_t images;
    int32_t heads;
    int32_t size;
    int32_t points;
    struct DeemLevels levels;
};

/* out = sum of softmax weight x sample, and the mass of the ignore slots x token */
struct DeemDeformAttentionMmfsForward {
    struct DeemMmfs x;
    void *out; /* [batch, queries, heads, size] */
};

/* Gradients of each point's logit and offset, their sums over images, and what the later launches need */
struct DeemDeformAttentionMmfsPoints {
    struct DeemMmfs x;
    const void *d_out; /* [batch, queries, heads, size] */
    void *d_offsets;   /* [batch, queries, heads, points, 2] */
    void *d_logits;    /* [batch, queries, heads, levels, points + 1] */
    void *of_point;    /* f32 [3, units, all]: gradients of logit, x and y offset */
    void *softmax;     /* f32 [units, 3]: largest logit, sum of exponentials, mass of the ignore slots */
};

/* Partial sums of the tables' gradients over slices of queries */
struct DeemDeformAttentionMmfsTables {
    struct DeemMmfs x;
    const void *of_point; /* f32 [3, units, all] */
    void *partial;        /* f32 [slices, rows, heads, points 2 + levels (points + 1)] */
    int64_t queries_per_slice;
    int32_t rows;
    int32_t padding;
};

/* The tables' gradients from their partial sums */
struct DeemDeformAttentionMmfsTablesSum {
    const void *partial;  /* f32 [slices, rows, heads, columns] */
    void *d_offset_table; /* [rows, heads, offset columns] */
    void *d_logit_table;  /* [rows, heads, columns - offset columns] */
    int64_t n;            /* rows x heads */
    int32_t slices;
    int32_t columns;
    int32_t offset_columns;
    int32_t padding;
};

/* Partial sums of the ignore token's gradient over slices of queries */
struct DeemDeformAttentionMmfsIgnore {
    const void *softmax; /* f32 [units, 3] */
    const void *d_out;   /* [rows, heads size] */
    void *partial;       /* f32 [slices, heads size] */
    int64_t rows;        /* batch x queries */
    int64_t rows_per_slice;
    int32_t heads;
    int32_t size;
};

/* Adds factor x d_out to the corners of all points, in fixed point */
struct DeemDeformAttentionMmfsScatter {
    struct DeemMmfs x;
    const void *d_out;   /* [batch, queries, heads, size] */
    const void *softmax; /* f32 [units, 3] */
    const void *scale;   /* f64 [1] */
    void *sums;          /* i64 [pictures, positions, heads, size], zeros before */
};

/* Largest size of a number, as the bits of a float without sign, per block */
struct DeemDeformAttentionLargest {
    const void *x; /* [n] */
    void *largest; /* u32 [blocks] */
    int64_t n;
};

/* The power of two that sums of fixed-point numbers are kept at: the largest that none of them can overflow */
struct DeemDeformAttentionScale {
    const void *first;  /* u32 [blocks]: as bits of floats */
    const void *second; /* u32 [blocks], or null for 1 */
    void *scale;        /* f64 [1]; NaN if a number is not finite */
    double terms;       /* a sum is at most so many times the product of the largest numbers */
    int32_t blocks;
    int32_t second_blocks;
};

/* Numbers from fixed point */
struct DeemDeformAttentionFromFixed {
    const void *sums;  /* i64 [n] */
    const void *scale; /* f64 [1] */
    void *d_value;     /* [n] */
    int64_t n;
};

/* Weighted samples at given places */
struct DeemSample {
    const void *value;    /* [batch, positions, heads, size] */
    const void *location; /* [batch, queries, heads, levels, points, 2] */
    const void *weight;   /* [batch, queries, heads, levels, points] */
    int32_t batch;
    int32_t queries;
    int32_t heads;
    int32_t size;
    int32_t points;
    int32_t padding;
    struct DeemLevels levels; /* ratio is not read */
};

struct DeemDeformAttentionSampleForward {
    struct DeemSample x;
    void *out; /* [batch, queries, heads, size] */
};

/* Gradients of places and weights */
struct DeemDeformAttentionSamplePoints {
    struct DeemSample x;
    const void *d_out; /* [batch, queries, heads, size] */
    void *d_location;  /* [batch, queries, heads, levels, points, 2] */
    void *d_weight;    /* [batch, queries, heads, levels, points] */
};

/* As MmfsScatter */
struct DeemDeformAttentionSampleScatter {
    struct DeemSample x;
    const void *d_out; /* [batch, queries, heads, size] */
    const void *scale; /* f64 [1] */
    void *sums;        /* i64 [batch, positions, heads, size], zeros before */
};

/* location = reference + offset / (width, height); weight = softmax over levels and points */
struct DeemDeformAttentionLocateForward {
    const void *offsets;   /* [batch, queries, heads, levels, points, 2] */
    const void *logits;    /* [batch, queries, heads, levels, points] */
    const void *reference; /* f32 [queries, 2] */
    void *location;        /* as offsets */
    void *weight;          /* as logits */
    int64_t units;
    int32_t queries;
    int32_t heads;
    int32_t points;
    int32_t padding;
    struct DeemLevels levels;
};

struct DeemDeformAttentionLocateBackward {
    const void *weight;     /* [units, levels points] */
    const void *d_location; /* [units, levels points, 2] */
    const void *d_weight;   /* [units, levels points] */
    void *d_offsets;        /* [units, levels points, 2] */
    void *d_logits;         /* [units, levels points] */
    int64_t units;
    int32_t points;
    int32_t padding;
    struct DeemLevels levels;
};

#endif

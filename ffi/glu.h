/* Launches of cuda/glu.cu. */
#ifndef DEEM_GLU_H
#define DEEM_GLU_H

#include <stdint.h>

/* y = act(gate) value, by rows whose beginnings are `stride` apart in gate and value, cols apart in y */
struct DeemGluForward {
    const void *gate;  /* [rows, cols] */
    const void *value; /* [rows, cols] */
    void *y;           /* [rows, cols] */
    int64_t n;         /* rows cols */
    int64_t cols;
    int64_t stride;
    int32_t kind; /* DEEM_ACTIVATION_... */
    int32_t padding;
};

/* dgate = act'(gate) value dy, dvalue = act(gate) dy; rows are `stride` apart but in dy */
struct DeemGluBackward {
    const void *gate;  /* [rows, cols] */
    const void *value; /* [rows, cols] */
    const void *dy;    /* [rows, cols] */
    void *dgate;       /* [rows, cols] */
    void *dvalue;      /* [rows, cols] */
    int64_t n;         /* rows cols */
    int64_t cols;
    int64_t stride;
    int32_t kind; /* DEEM_ACTIVATION_... */
    int32_t padding;
};

#endif

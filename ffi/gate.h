/* Launches of cuda/gate.cu. */
#ifndef DEEM_GATE_H
#define DEEM_GATE_H

#include <stdint.h>

/* y = tanh(gate) x */
struct DeemGateForward {
    const void *gate; /* [1] */
    const void *x;    /* [n] */
    void *y;          /* [n] */
    int64_t n;
};

/* d_gate += (1 - tanh(gate)^2) times the sum of partial sums of dy x, in one block */
struct DeemGateBackwardGate {
    const void *gate;    /* [1] */
    const void *partial; /* f64 [n] */
    void *d_gate;        /* f32 [1] */
    int64_t n;
};

#endif

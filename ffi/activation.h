/* Launches of cuda/activation.cu. */
#ifndef DEEM_ACTIVATION_H
#define DEEM_ACTIVATION_H

#include <stdint.h>

/* Activation functions, as numbers for kernels. */
#define DEEM_ACTIVATION_NONE 0
#define DEEM_ACTIVATION_RELU 1
#define DEEM_ACTIVATION_GELU 2
#define DEEM_ACTIVATION_QUICK_GELU 3
#define DEEM_ACTIVATION_SILU 4

/* y = act(x) */
struct DeemActivationForward {
    const void *x; /* [n] */
    void *y;       /* [n] */
    int64_t n;
    int32_t kind; /* DEEM_ACTIVATION_... */
    int32_t padding;
};

/* dx = act'(x) dy */
struct DeemActivationBackward {
    const void *x;  /* [n] */
    const void *dy; /* [n] */
    void *dx;       /* [n] */
    int64_t n;
    int32_t kind; /* DEEM_ACTIVATION_... */
    int32_t padding;
};

#endif

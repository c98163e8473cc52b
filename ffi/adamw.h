/* Launches of cuda/adamw.cu. */
#ifndef DEEM_ADAMW_H
#define DEEM_ADAMW_H

#include <stdint.h>

/* A range of the parameters, and its coefficients in this step */
struct DeemAdamwGroup {
    int64_t start;
    int64_t end;
    float keep; /* 1 - lr weight decay */
    float rate; /* lr / (1 - beta1^step) */
};

/* One step of AdamW on all groups: a row of blocks each */
struct DeemAdamw {
    void *params;       /* [n] */
    void *master;       /* f32 [n]; null for f32, whose parameters are their own */
    const void *grads;  /* f32 [n] */
    void *m;            /* f32 [n] */
    void *v;            /* f32 [n] */
    const void *groups; /* DeemAdamwGroup [groups] */
    const void *norm_squared; /* f64 [1]: of the gradients; null: they are multiplied with `factor` alone */
    double factor;      /* of the gradients */
    double largest;     /* norm, after the factor; 0: any */
    float beta1;
    float other1; /* 1 - beta1 */
    float beta2;
    float other2; /* 1 - beta2 */
    float second; /* 1 / (1 - beta2^step) */
    float eps;
};

#endif

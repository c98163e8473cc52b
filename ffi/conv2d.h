/* Launches of cuda/conv2d.cu. */
#ifndef DEEM_CONV2D_H
#define DEEM_CONV2D_H

#include <stdint.h>

/* B images of H x W pixels and I channels become OH x OW pixels of O channels; the kernel is Kh x Kw pixels. */
struct DeemConv2dSizes {
    int64_t batch;
    int32_t h;
    int32_t w_pixels; /* W */
    int32_t i;
    int32_t o;
    int32_t kh;
    int32_t kw;
    int32_t oh;
    int32_t ow;
    int32_t stride;
    int32_t top;  /* rows of zeros above the image */
    int32_t left; /* columns of zeros before it */
    int32_t padding; /* of the struct */
};

/* y[b,i,j,o] = sum over u, v, c of x[b, i stride + u - top, j stride + v - left, c] w[o,u,v,c], zero outside the image. */
struct DeemConv2dForward {
    const void *x;         /* [B, H, W, I] */
    const void *w;         /* [O, Kh, Kw, I] */
    void *y;               /* [B, OH, OW, O] */
    const void *bias;      /* [O], or null */
    const void *per_image; /* [B, O], or null */
    const void *residual;  /* [B, OH, OW, O], or null */
    struct DeemConv2dSizes sizes;
};

/* dx[b,h,w,c] = sum over u, v, o with h = i stride + u - top, w = j stride + v - left of dy[b,i,j,o] w[o,u,v,c]. */
struct DeemConv2dBackwardInput {
    const void *dy; /* [B, OH, OW, O] */
    const void *w;  /* [O, Kh, Kw, I] */
    void *dx;       /* [B, H, W, I], overwritten */
    struct DeemConv2dSizes sizes;
};

/* dw[o,u,v,c] += sum over b, i, j of dy[b,i,j,o] x[b, i stride + u - top, j stride + v - left, c]. */
struct DeemConv2dBackwardWeight {
    const void *dy; /* [B, OH, OW, O] */
    const void *x;  /* [B, H, W, I] */
    void *dw;       /* f32 [O, Kh, Kw, I], added to */
    void *partial;  /* scratch, f32 [splits, O, Kh, Kw, I], where splits > 1; or null */
    struct DeemConv2dSizes sizes;
    int64_t splits; /* parts of the sum over pixels that are made beside each other (mma), then added in order */
};

#endif

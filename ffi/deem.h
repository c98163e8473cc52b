/* deem: DEEM (arXiv 2405.15232) as a C library: its ops one by one, and trained models that describe, answer and draw.
 *
 * Link with libdeem.so or libdeem.a; `pkg-config --cflags --libs deem` says how (ffi/deem.pc.in).
 *
 * Conventions
 * - Every function that can fail returns a deem_status. DEEM_OK is 0. After any other status deem_error_message() says, on the same thread, what was wrong:
 *   which argument, what was expected, what was found.
 * - Every argument is checked before anything is computed. A call that fails has written nothing, but for a file or device that failed half-way.
 * - Tensors are contiguous, slowest axis first, channels last. The memory is the caller's: on "host" ordinary memory, on "cuda" device memory of that
 *   device (addresses as cuMemAlloc gives them), while masks, sizes and other plain arrays are always in host memory. Nothing is kept after a call
 *   returns; on CUDA a tensor must stay until the work on it is done. Outputs may not overlap
 *   with each other or with inputs, except where a function says that it works in place.
 * - Letters of shapes: B batch, T query tokens, S key tokens, N heads, Nkv key heads, D head size, C channels, G groups, R rows (all axes but the last), M, K
 *   sizes of products, L levels, P points, I images.
 * - "acc" is the type that sums, statistics and parameter gradients have: f64 for f64, else f32.
 * - Parameter gradients (dw, db) are ADDED to what is there, so set them to zero first; gradients of activations are overwritten.
 * - Options are structs. Fill one with zeros and set what you need: 0 and NULL always mean the usual choice. A NULL pointer to options means zeros.
 * - A context may be used from several threads; its calls run one after the other. The same inputs on the same device give the same bits, whatever the
 *   number of threads.
 */
#ifndef DEEM_H
#define DEEM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a struct or function below changes; compare with deem_abi_version(). */
#define DEEM_ABI_VERSION 1
/* Most axes of a tensor. */
#define DEEM_MAX_RANK 6

/* What became of a call. */
typedef enum deem_status {
    DEEM_OK = 0,
    DEEM_ERROR_ARGUMENT = 1, /* an argument is NULL, out of its domain, or contradicts another */
    DEEM_ERROR_SHAPE = 2,    /* a tensor has another shape or type than the call needs */
    DEEM_ERROR_MEMORY = 3,   /* out of memory */
    DEEM_ERROR_FILE = 4,     /* a file could not be read or written */
    DEEM_ERROR_FORMAT = 5,   /* a file holds something else than it should */
    DEEM_ERROR_CONFIG = 6,   /* a model's configuration or an option makes no sense */
    DEEM_ERROR_DEVICE = 7,   /* the device is not there or failed */
    DEEM_ERROR_STOPPED = 8,  /* a progress function asked to stop */
    DEEM_ERROR_INTERNAL = 9  /* a mistake in this library: please report it */
} deem_status;

/* What a tensor stores. */
typedef enum deem_dtype {
    DEEM_F32 = 0,
    DEEM_BF16 = 1, /* the upper 16 bits of an f32 */
    DEEM_F64 = 2,  /* host only; slow, for checks */
    DEEM_F16 = 3   /* IEEE half precision: attention and cross-attention alone */
} deem_dtype;

/* A tensor: where its elements are, and its sizes. `data` may be NULL if there are no elements. */
typedef struct deem_tensor {
    void *data;
    int64_t shape[DEEM_MAX_RANK]; /* the first `rank` entries count */
    int32_t rank;
    int32_t dtype; /* deem_dtype */
} deem_tensor;

/* ---------------------------------------------------------------- library */

/* The version of the library, such as "0.1.0". */
const char *deem_version(void);

/* DEEM_ABI_VERSION of the library that is loaded. */
int32_t deem_abi_version(void);

/* What went wrong in the last call on this thread that failed; "" if none did. Valid until the next call on this thread. */
const char *deem_error_message(void);

/* ---------------------------------------------------------------- context */

/* A device with its threads and working memory. */
typedef struct deem_context deem_context;

/* Makes a context on `device`: "host" (NULL means it too), "cuda" or "cuda:N". `threads` of the host: 0 for one per processor. */
deem_status deem_context_create(const char *device, int32_t threads, deem_context **context);

/* Makes a context on CUDA device `device` that works on a stream of yours: a CUstream (cudaStream_t) of the device's primary context, which must live
 * longer than the context; NULL is the default stream. Work is ordered with what else you put on the stream. */
deem_status deem_context_create_on_stream(int32_t device, void *stream, deem_context **context);

/* Waits until all calls on the context are done. On CUDA calls return before that, and an error of a kernel comes out here or in a later call. */
deem_status deem_context_synchronize(const deem_context *context);

/* Frees a context; NULL is fine. Models that were loaded on it stay usable. */
void deem_context_destroy(deem_context *context);

/* ---------------------------------------------------------------- matrix products */

typedef enum deem_form {
    DEEM_NT = 0, /* c[M,N] = a[M,K] b[N,K]^T: a linear layer */
    DEEM_NN = 1, /* c[M,N] = a[M,K] b[K,N]: the gradient of its input */
    DEEM_TN = 2  /* c[M,N] = a[K,M]^T b[K,N]: the gradient of its weights */
} deem_form;

typedef enum deem_activation {
    DEEM_NONE = 0,
    DEEM_RELU = 1,
    DEEM_GELU = 2,       /* x Phi(x), exact */
    DEEM_QUICK_GELU = 3, /* x sigmoid(1.702 x) */
    DEEM_SILU = 4        /* x sigmoid(x) */
} deem_activation;

/* c = residual + scale * act(a b + bias), or that is added to c. */
typedef struct deem_gemm_options {
    int32_t form;       /* deem_form */
    int32_t activation; /* deem_activation */
    int32_t accumulate; /* 1: add to c */
    int32_t batched;    /* 1: a, b and c have three axes, and there is one product per entry of the first */
    const deem_tensor *bias;     /* [N], or NULL */
    const deem_tensor *scale;    /* [N], or NULL */
    const deem_tensor *residual; /* [M, N], or NULL */
} deem_gemm_options;

/* A matrix product; NULL options: c = a b^T. Leading axes of a, b and c are flattened into rows. c has the type of a, or acc. */
deem_status deem_gemm(deem_context *context, const deem_tensor *a, const deem_tensor *b, const deem_tensor *c,
                      const deem_gemm_options *options);

/* ---------------------------------------------------------------- attention */

/* out = dropout(softmax(scale q k^T + masks)) v, flash-style (arXiv 2307.08691). */
typedef struct deem_attention_options {
    int32_t heads;          /* N; at least 1 */
    int32_t kv_heads;       /* Nkv, a divisor of N; 0: as many as heads */
    double scale;           /* 0: 1 / sqrt(D) */
    int32_t causal;         /* 1: query t sees keys 0 .. t + causal_offset */
    int32_t reserved;       /* 0 */
    int64_t causal_offset;  /* at least 0 */
    int64_t key_count;      /* use only the first so many of the S keys (a cache's capacity); 0: all */
    const uint8_t *keys;    /* [B, key_count], in host memory: 0 for a key that nobody sees; or NULL */
    const uint32_t *first;  /* [B, T], in host memory: the first key that a query sees; or NULL */
    double dropout;         /* probability that a probability is dropped, in [0, 1) */
    uint64_t dropout_seed;  /* the same seed drops the same: give the backward what the forward had */
} deem_attention_options;

/* q, out [B, T, N D]; k, v [B, S, Nkv D]; lse [B, N, T] (acc) gets the logarithms of the sums of exponentials, which the backward reads. */
deem_status deem_attention_forward(deem_context *context, const deem_tensor *q, const deem_tensor *k, const deem_tensor *v,
                                   const deem_tensor *out, const deem_tensor *lse, const deem_attention_options *options);

/* Gradients of q, k and v from that of out, overwritten; out and lse are the forward's. */
deem_status deem_attention_backward(deem_context *context, const deem_tensor *q, const deem_tensor *k, const deem_tensor *v,
                                    const deem_tensor *out, const deem_tensor *lse, const deem_tensor *d_out, const deem_tensor *dq,
                                    const deem_tensor *dk, const deem_tensor *dv, const deem_attention_options *options);

/* Attention over a short condition that many queries share (the 77 tokens of a text, for instance): no masks. `scale` 0: 1 / sqrt(D).
 * q, out [B, T, N D]; k, v [B, S, N D]; lse [B, N, T] (acc). */
deem_status deem_cross_attention_forward(deem_context *context, const deem_tensor *q, const deem_tensor *k, const deem_tensor *v,
                                         const deem_tensor *out, const deem_tensor *lse, int32_t heads, double scale);

deem_status deem_cross_attention_backward(deem_context *context, const deem_tensor *q, const deem_tensor *k, const deem_tensor *v,
                                          const deem_tensor *out, const deem_tensor *lse, const deem_tensor *d_out,
                                          const deem_tensor *dq, const deem_tensor *dk, const deem_tensor *dv, int32_t heads, double scale);

/* ---------------------------------------------------------------- norms */

/* y = (x - mean) rstd weight + bias over the last axis. x, y [.., C] = R rows; weight, bias [C], or NULL for 1 and 0; stats [R, 2] (acc) = (mean, rstd). */
deem_status deem_layernorm_forward(deem_context *context, const deem_tensor *x, const deem_tensor *weight, const deem_tensor *bias,
                                   const deem_tensor *y, const deem_tensor *stats, double eps);

/* dx from dy; dw, db [C] (acc) are added to, or NULL. */
deem_status deem_layernorm_backward(deem_context *context, const deem_tensor *x, const deem_tensor *weight, const deem_tensor *stats,
                                    const deem_tensor *dy, const deem_tensor *dx, const deem_tensor *dw, const deem_tensor *db);

/* y = x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps). x, y [.., C] = R rows; weight [C]; rstd [R] (acc). */
deem_status deem_rmsnorm_forward(deem_context *context, const deem_tensor *x, const deem_tensor *weight, const deem_tensor *y,
                                 const deem_tensor *rstd, double eps);

deem_status deem_rmsnorm_backward(deem_context *context, const deem_tensor *x, const deem_tensor *weight, const deem_tensor *rstd,
                                  const deem_tensor *dy, const deem_tensor *dx, const deem_tensor *dw);

/* Group norm, with SiLU behind it if `silu` is 1. x, y [B, .., C]; weight, bias [C]; stats [B, G, 2] (acc); `groups` divides C. */
deem_status deem_groupnorm_forward(deem_context *context, const deem_tensor *x, const deem_tensor *weight, const deem_tensor *bias,
                                   const deem_tensor *y, const deem_tensor *stats, int32_t groups, double eps, int32_t silu);

deem_status deem_groupnorm_backward(deem_context *context, const deem_tensor *x, const deem_tensor *weight, const deem_tensor *bias,
                                    const deem_tensor *stats, const deem_tensor *dy, const deem_tensor *dx, const deem_tensor *dw,
                                    const deem_tensor *db, int32_t groups, int32_t silu);

/* ---------------------------------------------------------------- MMFS: multi-image multi-scale deformable attention */

/* Each query reads P points per level of each image that it sees (MM-Interleaved, arXiv 2401.10208; Deformable DETR, arXiv 2010.04159). */
typedef struct deem_mmfs_options {
    int32_t heads;            /* N */
    int32_t points;           /* P */
    int32_t levels;           /* L */
    int32_t images;           /* I: pictures per entry of the batch */
    const int64_t *sizes;     /* [L, 2]: height and width of each level, in the order in which `value` holds them */
    const double *ratios;     /* [L]: offset multiplier of each level */
    const int32_t *relative;  /* [B, T, I]: 1 for the most recent picture that a query sees, 2 for the one before, 0 for none */
    const double *reference;  /* [T, 2]: where a query looks when its offset is zero, (x, y) in [0, 1] */
} deem_mmfs_options;

/* What an MMFS call reads. The tables have R rows, one per relative index; R is larger than any of them. */
typedef struct deem_mmfs_inputs {
    const deem_tensor *value;        /* [B, I x sum of sizes, N D] */
    const deem_tensor *offsets;      /* [B, T, N P 2] */
    const deem_tensor *logits;       /* [B, T, N L (P + 1)] */
    const deem_tensor *offset_table; /* [R, N P 2] */
    const deem_tensor *logit_table;  /* [R, N L (P + 1)] */
    const deem_tensor *ignore_token; /* [N D] */
} deem_mmfs_inputs;

/* out [B, T, N D]. Options are required. */
deem_status deem_mmfs_forward(deem_context *context, const deem_mmfs_inputs *inputs, const deem_tensor *out, const deem_mmfs_options *options);

/* Gradients, shaped as the inputs: all overwritten, but ignore_token [N D] (acc), which is added to, or NULL. */
deem_status deem_mmfs_backward(deem_context *context, const deem_mmfs_inputs *inputs, const deem_tensor *d_out,
                               const deem_mmfs_inputs *gradients, const deem_mmfs_options *options);

/* ---------------------------------------------------------------- denoising */

typedef enum deem_sampler_kind { /* 0: DEEM_DPMPP */
    DEEM_DDPM = 1, /* ancestral, adds noise */
    DEEM_DDIM = 2, /* deterministic, first order */
    DEEM_DPMPP = 3 /* DPM-Solver++(2M): deterministic, second order */
} deem_sampler_kind;

typedef enum deem_prediction { DEEM_EPSILON = 0, DEEM_V = 1 } deem_prediction;

/* Zeros mean Stable Diffusion's schedule. */
typedef struct deem_sampler_options {
    int32_t kind;        /* deem_sampler_kind */
    int32_t prediction;  /* deem_prediction: what the model predicts */
    int32_t steps;       /* denoising steps; at least 1 */
    int32_t train_steps; /* 0: 1000 */
    double beta_start;   /* 0: 0.00085 */
    double beta_end;     /* 0: 0.012 */
    int32_t no_offset;   /* 0: timesteps are one later, as Stable Diffusion's; 1: they are not */
    int32_t reserved;    /* 0 */
} deem_sampler_options;

/* The coefficients of all steps of a run. */
typedef struct deem_sampler deem_sampler;

deem_status deem_sampler_create(const deem_sampler_options *options, deem_sampler **sampler);

/* NULL is fine. */
void deem_sampler_destroy(deem_sampler *sampler);

/* The timestep that the model is asked about in step `step`, counted from 0; -1 if there is no such step. */
int64_t deem_sampler_timestep(const deem_sampler *sampler, int32_t step);

/* One step in place: guidance and scheduler update in one.
 * prediction: [B, ..], or [2 B, ..] with the unconditional half first, which are joined as u + guidance (c - u).
 * x [B, ..]: the latents, become the next ones. x0 [B, ..]: on entry the estimate of the step before (read by DEEM_DPMPP from its second step on), then
 * this step's. noise [B, ..]: standard normal numbers for DEEM_DDPM, otherwise NULL. */
deem_status deem_denoise_step(deem_context *context, const deem_sampler *sampler, int32_t step, const deem_tensor *prediction,
                              double guidance, const deem_tensor *noise, const deem_tensor *x, const deem_tensor *x0);

/* ---------------------------------------------------------------- models */

/* A trained model. */
typedef struct deem_model deem_model;

/* Loads the newest checkpoint of a run that `deem train` left, or one of its checkpoints. `dtype`: DEEM_F32 or DEEM_BF16. */
deem_status deem_model_load(deem_context *context, const char *folder, int32_t dtype, deem_model **model);

/* NULL is fine. */
void deem_model_destroy(deem_model *model);

/* Side in pixels of the pictures that the model draws; 0 if it does not draw. */
int32_t deem_model_drawn_side(const deem_model *model);

typedef struct deem_text_options {
    int32_t beams;          /* beam search of so many running texts; 0 or 1: the likeliest token each time */
    int32_t max_new_tokens; /* 0: 48 */
    double temperature;     /* above 0: tokens are drawn, logits divided by this; not together with beams */
    double top_p;           /* draw from the likeliest tokens that together have this probability; 0: from all */
    uint64_t seed;          /* of the draws */
} deem_text_options;

/* Answers `question` about a picture of any size: rgb [height, width, 3], 0 to 255. NULL asks for a description.
 * *answer is freed with deem_string_destroy. */
deem_status deem_model_ask(const deem_model *model, const uint8_t *rgb, int32_t width, int32_t height, const char *question,
                           const deem_text_options *options, char **answer);

/* Told after every denoising step; a value other than 0 stops the work with DEEM_ERROR_STOPPED. */
typedef int32_t (*deem_progress)(void *user, int32_t done, int32_t steps);

typedef struct deem_image_options {
    int32_t steps;    /* denoising steps; 0: 20 */
    int32_t kind;     /* deem_sampler_kind */
    double guidance;  /* 0: 2; 1 for none, which halves the work */
    uint64_t seed;    /* the same seed draws the same picture */
    deem_progress progress; /* or NULL */
    void *user;             /* given to `progress` */
} deem_image_options;

/* Draws a picture from words: rgb [side, side, 3], 0 to 255, side = deem_model_drawn_side(model); `bytes` is the size of rgb. */
deem_status deem_model_imagine(const deem_model *model, const char *words, const deem_image_options *options, uint8_t *rgb, int64_t bytes);

/* Frees text that this library gave; NULL is fine. */
void deem_string_destroy(char *text);

#ifdef __cplusplus
}
#endif

#endif

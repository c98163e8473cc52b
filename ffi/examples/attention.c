/* Attention through libdeem, held against plain loops in double precision.
 *   cargo build --release
 *   cc -Iffi ffi/examples/attention.c -Ltarget/release -ldeem -lm -Wl,-rpath,target/release -o attention && ./attention */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "deem.h"

enum { B = 2, T = 5, S = 7, N = 3, D = 8 };

static deem_tensor tensor(float *data, int64_t a, int64_t b, int64_t c) {
    deem_tensor t = {.data = data, .shape = {a, b, c}, .rank = 3, .dtype = DEEM_F32};
    return t;
}

static void check(deem_status status) {
    if (status != DEEM_OK) {
        fprintf(stderr, "deem: %s\n", deem_error_message());
        exit(1);
    }
}

int main(void) {
    static float q[B * T * N * D], k[B * S * N * D], v[B * S * N * D], out[B * T * N * D], lse[B * N * T];
    for (int i = 0; i < B * T * N * D; i++) q[i] = sinf(0.37f * i);
    for (int i = 0; i < B * S * N * D; i++) k[i] = cosf(0.71f * i), v[i] = sinf(1.3f * i + 0.5f);

    deem_context *context;
    check(deem_context_create("host", 0, &context));
    deem_tensor tq = tensor(q, B, T, N * D), tk = tensor(k, B, S, N * D), tv = tensor(v, B, S, N * D);
    deem_tensor to = tensor(out, B, T, N * D), tl = tensor(lse, B, N, T);
    deem_attention_options options = {.heads = N};
    check(deem_attention_forward(context, &tq, &tk, &tv, &to, &tl, &options));
    deem_context_destroy(context);

    double worst = 0;
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int n = 0; n < N; n++) {
                double p[S], total = 0;
                for (int s = 0; s < S; s++) {
                    double dot = 0;
                    for (int d = 0; d < D; d++) dot += (double)q[((b * T + t) * N + n) * D + d] * k[((b * S + s) * N + n) * D + d];
                    total += p[s] = exp(dot / sqrt(D));
                }
                for (int d = 0; d < D; d++) {
                    double exact = 0;
                    for (int s = 0; s < S; s++) exact += p[s] / total * v[((b * S + s) * N + n) * D + d];
                    worst = fmax(worst, fabs(exact - out[((b * T + t) * N + n) * D + d]));
                }
            }
    printf("deem %s: attention of %d x %d queries over %d keys, largest error %.1e\n", deem_version(), B, T, S, worst);
    return worst < 2e-6 ? 0 : 1; /* a softmax of scores near 1: some 16 roundings of 6e-8 */
}

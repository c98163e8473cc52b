// The VAE's posterior. Formulas and source: src/ops/posterior.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | posterior_* | any | a thread per latent; the divergence as partial sums of blocks in f64 |
#include "../ffi/posterior.h"
#include "common/pointwise.cuh"
#include "common/reduce.cuh"

__device__ __forceinline__ float deviation(float logvar) { return expf(0.5f * fminf(fmaxf(logvar, -30.0f), 20.0f)); }

template <typename T>
__device__ __forceinline__ void forward(const DeemPosteriorForward &p) {
    const T *moments = static_cast<const T *>(p.moments), *noise = static_cast<const T *>(p.noise);
    each_index(p.rows * p.z, [&](int64_t i) {
        const T *m = moments + i / p.z * 2 * p.z + i % p.z;
        float value = widen(m[0]);
        if (noise) value += deviation(widen(m[p.z])) * widen(noise[i]);
        static_cast<T *>(p.latents)[i] = narrow<T>(value * p.scaling);
    });
}

template <typename T>
__device__ __forceinline__ void backward(const DeemPosteriorBackward &p) {
    const T *moments = static_cast<const T *>(p.moments), *noise = static_cast<const T *>(p.noise);
    const T *d_latents = static_cast<const T *>(p.d_latents);
    double divergence = 0.0;
    each_index(p.rows * p.z, [&](int64_t i) {
        int64_t at = i / p.z * 2 * p.z + i % p.z;
        float mean = widen(moments[at]), logvar = widen(moments[at + p.z]), d = widen(d_latents[i]) * p.scaling;
        float std = deviation(logvar), variance = std * std;
        divergence += 0.5 * double(mean * mean + variance - 1.0f - logvar);
        float through_noise = logvar > -30.0f && logvar < 20.0f ? d * widen(noise[i]) * std * 0.5f : 0.0f;
        T *out = static_cast<T *>(p.d_moments) + at;
        out[0] = narrow<T>(d + p.weight * mean);
        out[p.z] = narrow<T>(through_noise + p.weight * 0.5f * (variance - 1.0f));
    });
    divergence = block_sum(divergence);
    if (threadIdx.x == 0) static_cast<double *>(p.partial)[blockIdx.x] = divergence;
}

DEEM_KERNELS(posterior_forward, DeemPosteriorForward, forward)
DEEM_KERNELS(posterior_backward, DeemPosteriorBackward, backward)

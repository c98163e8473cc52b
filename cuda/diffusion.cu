// Noising and denoising. Formulas and sources: src/ops/diffusion.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | diffusion_mix | any | factors of each image from a table |
// | diffusion_guide | any | |
// | diffusion_step | any | guidance, the estimate of the picture and the next latents in one pass over memory |
#include "../ffi/diffusion.h"
#include "common/pointwise.cuh"

template <typename T>
__device__ __forceinline__ void mix(const DeemDiffusionMix &p) {
    const float *factors = static_cast<const float *>(p.factors);
    map_matrix2(static_cast<const T *>(p.z), static_cast<const T *>(p.noise), static_cast<T *>(p.out), p.n, p.per_image,
                [&](float z, float noise, int64_t, int64_t image) { return factors[2 * image] * z + factors[2 * image + 1] * noise; });
}

template <typename T>
__device__ __forceinline__ void guide(const DeemDiffusionGuide &p) {
    const T *u = static_cast<const T *>(p.prediction);
    map2(u, u + p.n, static_cast<T *>(p.guided), p.n, [&](float u, float c) { return u + p.scale * (c - u); });
}

template <typename T>
__device__ __forceinline__ void step(const DeemDiffusionStep &p) {
    const T *prediction = static_cast<const T *>(p.prediction), *noise = static_cast<const T *>(p.noise);
    T *x = static_cast<T *>(p.x), *x0 = static_cast<T *>(p.x0);
    each_index(p.n, [&](int64_t i) {
        float now = widen(x[i]), predicted = widen(prediction[i]);
        if (p.guided) predicted += p.guidance * (widen(prediction[p.n + i]) - predicted);
        float estimate = p.from_x * now + p.from_prediction * predicted;
        float next = p.x0_factor * estimate + p.x_factor * now;
        if (p.previous != 0.0f) next += p.previous * widen(x0[i]);
        if (noise) next += p.noise_factor * widen(noise[i]);
        x[i] = narrow<T>(next);
        x0[i] = narrow<T>(estimate);
    });
}

DEEM_KERNELS(diffusion_mix, DeemDiffusionMix, mix)
DEEM_KERNELS(diffusion_guide, DeemDiffusionGuide, guide)
DEEM_KERNELS(diffusion_step, DeemDiffusionStep, step)

// Sinusoidal embedding of diffusion timesteps. Formulas and source: src/ops/timestep_embedding.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | timestep_embedding_forward_* | any | a thread per element: a few rows, once per step |
#include "../ffi/timestep_embedding.h"
#include "common/pointwise.cuh"

template <typename T>
__device__ __forceinline__ void forward(const DeemTimestepEmbeddingForward &p) {
    each_index(p.rows * p.cols, [&](int64_t i) {
        int64_t row = i / p.cols;
        int column = int(i - row * p.cols), half = p.cols / 2;
        float y = 0.0f;
        if (column < 2 * half) {
            float angle = static_cast<const float *>(p.timesteps)[row] * static_cast<const float *>(p.frequency)[column % half];
            y = (column < half) == (p.flip != 0) ? cosf(angle) : sinf(angle);
        }
        static_cast<T *>(p.y)[i] = narrow<T>(y);
    });
}

DEEM_KERNELS(timestep_embedding_forward, DeemTimestepEmbeddingForward, forward)

// Random numbers of a stream: Philox-4x32-10 keyed by (seed, tensor, element). Contract and source: src/ops/random.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | random_* | any | a thread per element, in f64 and rounded through f32 like the host's, with the same bits |
#include "../ffi/random.h"
#include "common/philox.cuh"
#include "common/pointwise.cuh"

__device__ __forceinline__ Words words(const DeemRandomFill &p, int64_t i) {
    return philox({{uint32_t(i), uint32_t(uint64_t(i) >> 32), p.tensor[0], p.tensor[1]}}, p.key[0], p.key[1]);
}

template <typename T>
__device__ __forceinline__ void normal(const DeemRandomFill &p) {
    each_index(p.n, [&](int64_t i) {
        Words w = words(p, i);
        double radius = sqrt(-2.0 * log(1.0 - unit(w.x[0], w.x[1])));
        static_cast<T *>(p.y)[i] = narrow<T>(float(radius * cos(6.283185307179586477 * unit(w.x[2], w.x[3]))));
    });
}

template <typename T>
__device__ __forceinline__ void uniform(const DeemRandomFill &p) {
    // The largest number below 1 of the type.
    double below_one = 1.0 - (sizeof(T) == 4 ? 1.0 / 16777216.0 : 1.0 / 256.0);
    each_index(p.n, [&](int64_t i) {
        Words w = words(p, i);
        static_cast<T *>(p.y)[i] = narrow<T>(float(fmin(unit(w.x[0], w.x[1]), below_one)));
    });
}

DEEM_KERNELS(random_normal, DeemRandomFill, normal)
DEEM_KERNELS(random_uniform, DeemRandomFill, uniform)

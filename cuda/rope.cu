// Rotary position embedding, rotate-half layout, in place. Formulas and source: src/ops/rope.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | rope_rotate_* | any even head size | a thread per angle: one sine and cosine for all heads of a row |
#include "../ffi/rope.h"
#include "common/pointwise.cuh"

template <typename T>
__device__ __forceinline__ void rotate(const DeemRopeRotate &p) {
    each_index(p.rows * p.half, [&](int64_t i) {
        int64_t row = i / p.half, k = i - row * p.half;
        float angle = float(static_cast<const int32_t *>(p.positions)[row]) * static_cast<const float *>(p.frequency)[k];
        float sin, cos;
        sincosf(angle, &sin, &cos);
        if (p.inverse) sin = -sin;
        T *x = static_cast<T *>(p.x) + row * p.heads * 2 * p.half + k;
        for (int head = 0; head < p.heads; head++, x += 2 * p.half) {
            float a = widen(x[0]), b = widen(x[p.half]);
            x[0] = narrow<T>(a * cos - b * sin);
            x[p.half] = narrow<T>(b * cos + a * sin);
        }
    });
}

DEEM_KERNELS(rope_rotate, DeemRopeRotate, rotate)

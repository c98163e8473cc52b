// Rotary position embedding, rotate-half layout. Formulas and source: src/ops/rope.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | rope_rotate_* | any even head size | in place, a thread per angle: one sine and cosine for all heads of a row |
// | rope_store_* | the same | keys on their way into a cache, values beside them, a thread per angle and head: rows are few |
#include "../ffi/rope.h"
#include "common/pointwise.cuh"
#include "common/rope.cuh"

template <typename T>
__device__ __forceinline__ void rotate(const DeemRopeRotate &p) {
    each_index(p.rows * p.half, [&](int64_t i) {
        int64_t row = i / p.half, k = i - row * p.half;
        deem::Angle angle = deem::angle_of(static_cast<const int32_t *>(p.positions)[row], static_cast<const float *>(p.frequency)[k]);
        if (p.inverse) angle.sin = -angle.sin;
        T *x = static_cast<T *>(p.x) + row * p.heads * 2 * p.half + k;
        for (int head = 0; head < p.heads; head++, x += 2 * p.half) {
            float a = widen(x[0]), b = widen(x[p.half]);
            deem::turn(a, b, angle);
            x[0] = narrow<T>(a);
            x[p.half] = narrow<T>(b);
        }
    });
}

template <typename T>
__device__ __forceinline__ void store(const DeemRopeStore &p) {
    each_index(p.rows * p.heads * p.half, [&](int64_t i) {
        int64_t head = i / p.half, k = i - head * p.half, row = head / p.heads;
        head -= row * p.heads;
        int64_t image = row / p.count, from = (row * p.heads + head) * 2 * p.half + k;
        int64_t to = ((image * p.capacity + p.start + (row - image * p.count)) * p.heads + head) * 2 * p.half + k;
        const T *key = static_cast<const T *>(p.keys) + from, *value = static_cast<const T *>(p.values) + from;
        T *key_to = static_cast<T *>(p.key_cache) + to, *value_to = static_cast<T *>(p.value_cache) + to;
        float a = widen(key[0]), b = widen(key[p.half]);
        T c = value[0], d = value[p.half];
        deem::turn(a, b, deem::angle_of(static_cast<const int32_t *>(p.positions)[row], static_cast<const float *>(p.frequency)[k]));
        key_to[0] = narrow<T>(a);
        key_to[p.half] = narrow<T>(b);
        value_to[0] = c;
        value_to[p.half] = d;
    });
}

DEEM_KERNELS(rope_rotate, DeemRopeRotate, rotate)
DEEM_KERNELS(rope_store, DeemRopeStore, store)

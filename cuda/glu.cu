// Gated linear units: y = act(gate) value. Formulas and source: src/ops/glu.rs.
//
// | variant | domain | idea |
// |---|---|---|
// | glu_* | any, packed or not | 16 bytes per thread and array where addresses and row lengths allow it |
#include "../ffi/glu.h"
#include "common/activation.cuh"
#include "common/pointwise.cuh"

// f(index in arrays of rows `stride` apart, index in arrays of rows cols apart, whether a whole pack may be taken there)
template <typename T, typename F>
__device__ __forceinline__ void each_pack(int64_t n, int64_t cols, int64_t stride, bool packs, F f) {
    int step = packs && cols % Pack<T>::N == 0 && stride % Pack<T>::N == 0 ? Pack<T>::N : 1;
    for (int64_t i = grid_thread() * step; i < n; i += grid_threads() * step) {
        int64_t row = n <= 0x7fffffff && cols <= 0x7fffffff ? uint32_t(i) / uint32_t(cols) : i / cols;
        f(row * stride + (i - row * cols), i, step > 1);
    }
}

template <typename T>
__device__ __forceinline__ void forward(const DeemGluForward &p) {
    const T *gate = static_cast<const T *>(p.gate), *value = static_cast<const T *>(p.value);
    T *y = static_cast<T *>(p.y);
    by_kind(p.kind, [&](auto kind) {
        constexpr int K = decltype(kind)::value;
        each_pack<T>(p.n, p.cols, p.stride, aligned(gate, value, y), [&](int64_t in, int64_t i, bool pack) {
            if (pack) {
                Pack<T> g = load_pack(gate + in), v = load_pack(value + in), out;
#pragma unroll
                for (int k = 0; k < Pack<T>::N; k++) out.x[k] = narrow<T>(activate<K>(widen(g.x[k])) * widen(v.x[k]));
                store_pack(y + i, out);
            } else {
                y[i] = narrow<T>(activate<K>(widen(gate[in])) * widen(value[in]));
            }
        });
    });
}

template <typename T>
__device__ __forceinline__ void backward(const DeemGluBackward &p) {
    const T *gate = static_cast<const T *>(p.gate), *value = static_cast<const T *>(p.value), *dy = static_cast<const T *>(p.dy);
    T *dgate = static_cast<T *>(p.dgate), *dvalue = static_cast<T *>(p.dvalue);
    by_kind(p.kind, [&](auto kind) {
        constexpr int K = decltype(kind)::value;
        each_pack<T>(p.n, p.cols, p.stride, aligned(gate, value, dy, dgate, dvalue), [&](int64_t in, int64_t i, bool pack) {
            if (pack) {
                Pack<T> g = load_pack(gate + in), v = load_pack(value + in), d = load_pack(dy + i), dg, dv;
#pragma unroll
                for (int k = 0; k < Pack<T>::N; k++) {
                    float x = widen(g.x[k]), y = widen(d.x[k]);
                    dg.x[k] = narrow<T>(derivative<K>(x) * widen(v.x[k]) * y);
                    dv.x[k] = narrow<T>(activate<K>(x) * y);
                }
                store_pack(dgate + in, dg);
                store_pack(dvalue + in, dv);
            } else {
                float x = widen(gate[in]), v = widen(value[in]), y = widen(dy[i]);
                dgate[in] = narrow<T>(derivative<K>(x) * v * y);
                dvalue[in] = narrow<T>(activate<K>(x) * y);
            }
        });
    });
}

DEEM_KERNELS(glu_forward, DeemGluForward, forward)
DEEM_KERNELS(glu_backward, DeemGluBackward, backward)

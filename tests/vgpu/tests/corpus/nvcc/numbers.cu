// Number formats: f16, bf16, fp8, packed arithmetic; integers' odd corners; mathematical functions.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

extern "C" __global__ void formats(const float *x, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    out[i * 6 + 0] = __half2float(__float2half_rn(v));
    out[i * 6 + 1] = __bfloat162float(__float2bfloat16_rn(v));
    out[i * 6 + 2] = (float)__nv_fp8_e4m3(v);
    out[i * 6 + 3] = (float)__nv_fp8_e5m2(v);
    out[i * 6 + 4] = (float)__float2int_rz(v);
    out[i * 6 + 5] = __half2float(__float2half_rz(v));
}

extern "C" __global__ void half_dot(const __half2 *a, const __half2 *b, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __half2 sum = __float2half2_rn(0.0f);
    for (int k = 0; k < 8; ++k) sum = __hfma2(a[i * 8 + k], b[i * 8 + k], sum);
    out[i] = __low2float(sum) + __high2float(sum);
}

extern "C" __global__ void bfloat_mix(const __nv_bfloat16 *a, const __nv_bfloat16 *b, __nv_bfloat16 *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __hmax(__hmul(a[i], b[i]), __hsub(a[i], b[i]));
}

extern "C" __global__ void integers(const unsigned *x, const unsigned *y, unsigned *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned a = x[i], b = y[i], *o = out + i * 12;
    o[0] = __umulhi(a, b);
    o[1] = __mulhi((int)a, (int)b);
    o[2] = __clz(a);
    o[3] = __ffs(b);
    o[4] = __byte_perm(a, b, 0x5140);
    o[5] = __funnelshift_l(a, b, b & 31);
    o[6] = __dp4a((int)a, (int)b, 17);
    o[7] = a / (b | 1);
    o[8] = (unsigned)((int)a % (int)(b | 1));
    o[9] = __usad(a, b, 3);
    o[10] = (unsigned)(((unsigned long long)a * b) >> 13);
    o[11] = __vadd4(a, b);
}

extern "C" __global__ void functions_f32(const float *x, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i], *o = out + i * 12;
    o[0] = sinf(v);
    o[1] = cosf(v);
    o[2] = expf(v);
    o[3] = logf(fabsf(v) + 1e-3f);
    o[4] = tanhf(v);
    o[5] = erff(v);
    o[6] = powf(fabsf(v) + 0.1f, 1.7f);
    o[7] = sqrtf(fabsf(v));
    o[8] = 1.0f / (v + 20.0f);
    o[9] = rsqrtf(fabsf(v) + 1.0f);
    o[10] = atan2f(v, 2.0f);
    o[11] = floorf(v) + rintf(v * 3) + truncf(v * 5);
}

extern "C" __global__ void functions_f64(const double *x, double *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    double v = x[i], *o = out + i * 8;
    o[0] = sin(v);
    o[1] = cos(v * 1e6);
    o[2] = exp(v);
    o[3] = log(fabs(v) + 1e-3);
    o[4] = tanh(v);
    o[5] = pow(fabs(v) + 0.1, 1.7);
    o[6] = sqrt(fabs(v)) / (v + 20.0);
    o[7] = cbrt(v) + erf(v);
}

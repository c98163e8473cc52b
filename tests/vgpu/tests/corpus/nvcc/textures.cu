// Textures, surfaces and arrays by handles: each kernel writes what it reads at given coordinates.
#include <cuda_fp16.h>
#include <surface_indirect_functions.h>
#include <texture_indirect_functions.h>

#define INDEX (blockIdx.x * blockDim.x + threadIdx.x)

extern "C" __global__ void fetch_linear(cudaTextureObject_t texture, const int* at, float* out, int count) {
    if (INDEX < count) out[INDEX] = tex1Dfetch<float>(texture, at[INDEX]);
}

extern "C" __global__ void sample_1d(cudaTextureObject_t texture, const float* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = tex1D<float4>(texture, at[INDEX]);
}

extern "C" __global__ void sample_2d(cudaTextureObject_t texture, const float2* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = tex2D<float4>(texture, at[INDEX].x, at[INDEX].y);
}

extern "C" __global__ void sample_2d_bytes(cudaTextureObject_t texture, const float2* at, uchar4* out, int count) {
    if (INDEX < count) out[INDEX] = tex2D<uchar4>(texture, at[INDEX].x, at[INDEX].y);
}

extern "C" __global__ void sample_2d_words(cudaTextureObject_t texture, const float2* at, int* out, int count) {
    if (INDEX < count) out[INDEX] = tex2D<int>(texture, at[INDEX].x, at[INDEX].y);
}

extern "C" __global__ void sample_3d(cudaTextureObject_t texture, const float4* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = tex3D<float4>(texture, at[INDEX].x, at[INDEX].y, at[INDEX].z);
}

extern "C" __global__ void sample_1d_layers(cudaTextureObject_t texture, const float2* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = tex1DLayered<float4>(texture, at[INDEX].x, (int)at[INDEX].y);
}

extern "C" __global__ void sample_2d_layers(cudaTextureObject_t texture, const float4* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = tex2DLayered<float4>(texture, at[INDEX].x, at[INDEX].y, (int)at[INDEX].z);
}

extern "C" __global__ void sample_cube(cudaTextureObject_t texture, const float4* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = texCubemap<float4>(texture, at[INDEX].x, at[INDEX].y, at[INDEX].z);
}

extern "C" __global__ void sample_level(cudaTextureObject_t texture, const float4* at, float4* out, int count) {
    if (INDEX < count) out[INDEX] = tex2DLod<float4>(texture, at[INDEX].x, at[INDEX].y, at[INDEX].z);
}

extern "C" __global__ void sample_slope(cudaTextureObject_t texture, const float4* at, float4* out, int count) {
    if (INDEX >= count) return;
    float step = at[INDEX].z;
    out[INDEX] = tex2DGrad<float4>(texture, at[INDEX].x, at[INDEX].y, make_float2(step, 0), make_float2(0, step / 2));
}

extern "C" __global__ void gather(cudaTextureObject_t texture, const float2* at, float4* out, int count) {
    if (INDEX >= count) return;
    float4 red = tex2Dgather<float4>(texture, at[INDEX].x, at[INDEX].y, 0);
    float4 blue = tex2Dgather<float4>(texture, at[INDEX].x, at[INDEX].y, 2);
    out[2 * INDEX] = red;
    out[2 * INDEX + 1] = blue;
}

// Each element of a surface is written from its place, then read back transposed by another kernel.
extern "C" __global__ void fill_surface(cudaSurfaceObject_t surface, int width, int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x < width && y < height) surf2Dwrite(make_float2(x + 100 * y, -x), surface, x * (int)sizeof(float2), y);
}

extern "C" __global__ void read_surface(cudaSurfaceObject_t surface, float2* out, int width, int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x < width && y < height) out[x * height + y] = surf2Dread<float2>(surface, x * (int)sizeof(float2), y);
}

// Out of range on purpose, with the two modes that are defined there.
extern "C" __global__ void read_around(cudaSurfaceObject_t surface, float2* out, int width) {
    int x = (int)threadIdx.x - 8;
    out[2 * threadIdx.x] = surf2Dread<float2>(surface, x * (int)sizeof(float2), -1, cudaBoundaryModeZero);
    out[2 * threadIdx.x + 1] = surf2Dread<float2>(surface, x * (int)sizeof(float2), 1, cudaBoundaryModeClamp);
    surf2Dwrite(make_float2(7, 7), surface, (x + width + 8) * (int)sizeof(float2), 0, cudaBoundaryModeZero);
}

extern "C" __global__ void read_trapping(cudaSurfaceObject_t surface, float2* out, int x, int y) {
    out[threadIdx.x] = surf2Dread<float2>(surface, x * (int)sizeof(float2), y);
}

extern "C" __global__ void layers_of_surface(cudaSurfaceObject_t surface, unsigned short* out, int width) {
    int x = threadIdx.x, layer = blockIdx.x;
    if (x >= width) return;
    unsigned short value;
    surf2DLayeredread(&value, surface, x * 2, 1, layer);
    out[layer * width + x] = value;
    surf2DLayeredwrite((unsigned short)(value + 1), surface, x * 2, 0, layer);
}

extern "C" __global__ void volume_of_surface(cudaSurfaceObject_t surface, uint4* out, int width) {
    int x = threadIdx.x, y = blockIdx.x, z = blockIdx.y;
    if (x < width) out[(z * gridDim.x + y) * width + x] = surf3Dread<uint4>(surface, x * 16, y, z);
}

// What all kernels share: number types, loops, reductions.
//
// Conventions. Every integer argument of a kernel is a `Size` (64 bits), every scalar a `float`. Tensors are contiguous.
// Activations are `float` or `bf16` (template parameter T, suffix _f32 or _bf16 of the exported name); parameters,
// statistics, losses and images under attack are `float`. Arithmetic is in `float` throughout.
//
// The same source is compiled by a host compiler for the emulated device (see ../emulator), with SWEEP_EMULATED defined.
#pragma once

#ifndef SWEEP_EMULATED
#include <cuda_bf16.h>
#include <stdint.h>
#endif

typedef long long Size;
typedef __nv_bfloat16 bf16;

// A kernel that the host can start by its name.
#define KERNEL extern "C" __global__ void

// Threads per block of the element-wise kernels and of the reductions over rows.
constexpr int THREADS = 256;
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Dynamic shared memory of the block, aligned to 16 bytes.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#ifdef SWEEP_EMULATED
    return static_cast<unsigned char*>(emulated_dynamic_shared());
#else
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    return shared_bytes;
#endif
}

__device__ __forceinline__ float load(const float* p, Size i) { return p[i]; }
__device__ __forceinline__ float load(const bf16* p, Size i) { return __bfloat162float(p[i]); }
__device__ __forceinline__ void store(float* p, Size i, float v) { p[i] = v; }
__device__ __forceinline__ void store(bf16* p, Size i, float v) { p[i] = __float2bfloat16_rn(v); }

// `count` consecutive elements at once, 16 bytes per access: 4 floats or 8 bf16. `p + i` must be aligned to that.
template <class T> struct Pack;
template <> struct Pack<float> { static constexpr int count = 4; };
template <> struct Pack<bf16> { static constexpr int count = 8; };

__device__ __forceinline__ void load_pack(const float* p, Size i, float out[4]) {
    const float4 v = *reinterpret_cast<const float4*>(p + i);
    out[0] = v.x; out[1] = v.y; out[2] = v.z; out[3] = v.w;
}
__device__ __forceinline__ void load_pack(const bf16* p, Size i, float out[8]) {
    const uint4 v = *reinterpret_cast<const uint4*>(p + i);
    const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        out[2 * k] = __uint_as_float(words[k] << 16);
        out[2 * k + 1] = __uint_as_float(words[k] & 0xffff0000u);
    }
}
__device__ __forceinline__ unsigned two_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}
__device__ __forceinline__ void store_pack(float* p, Size i, const float in[4]) {
    *reinterpret_cast<float4*>(p + i) = make_float4(in[0], in[1], in[2], in[3]);
}
__device__ __forceinline__ void store_pack(bf16* p, Size i, const float in[8]) {
    *reinterpret_cast<uint4*>(p + i) =
        make_uint4(two_bf16(in[0], in[1]), two_bf16(in[2], in[3]), two_bf16(in[4], in[5]), two_bf16(in[6], in[7]));
}

// First element of this thread, and the distance to its next one, in a loop over `n` elements by the whole grid.
__device__ __forceinline__ Size grid_index() { return static_cast<Size>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ Size grid_stride() { return static_cast<Size>(gridDim.x) * blockDim.x; }

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, offset));
    return v;
}

// The sum over a block of at most 1024 threads (whole warps), in every thread and always in the same order. All threads
// must call it.
__device__ __forceinline__ float block_sum(float v) {
    __shared__ float parts[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    v = warp_sum(v);
    __syncthreads();
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : 0.0f);
}

// Distribution function and density of the standard normal distribution.
__device__ __forceinline__ float normal_distribution(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ __forceinline__ float normal_density(float x) { return 0.39894228040143268f * expf(-0.5f * x * x); }

// Whether 16-byte accesses may begin at `p`.
__device__ __forceinline__ bool is_aligned(const void* p) { return (reinterpret_cast<size_t>(p) & 15) == 0; }

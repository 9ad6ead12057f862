// The CUDA dialect for g++: included before a .cu file, it lets the kernels compile for the emulated device
// (g++ -x c++ -std=c++17 -DSWEEP_EMULATED -include device.h). What differs from nvcc is what the kernels themselves keep apart
// with `#ifdef SWEEP_EMULATED`: dynamic shared memory, tensor-core instructions, ldmatrix and cp.async.
#pragma once

#include <math.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "runtime.h"

// A kernel goes to a section of its own, by which the build finds it.
#define __global__ __attribute__((section("sweep_kernels"), used))
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
// One copy for each OS thread, which runs one block at a time.
#define __shared__ static thread_local
#define __constant__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_align__(bytes) __attribute__((aligned(bytes)))

// ---- Positions ----

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define threadIdx (static_cast<const emulated::Index3&>(emulated::coordinates.thread))
#define blockIdx (static_cast<const emulated::Index3&>(emulated::coordinates.block))
#define blockDim (static_cast<const emulated::Index3&>(emulated::coordinates.block_size))
#define gridDim (static_cast<const emulated::Index3&>(emulated::coordinates.grid_size))
constexpr int warpSize = 32;

// ---- Vector types ----

#define EMULATED_VECTOR2(Name, Type, Alignment)      \
    struct __align__(Alignment) Name { Type x, y; }; \
    inline Name make_##Name(Type x, Type y) { return {x, y}; }
#define EMULATED_VECTOR3(Name, Type)    \
    struct Name { Type x, y, z; };      \
    inline Name make_##Name(Type x, Type y, Type z) { return {x, y, z}; }
#define EMULATED_VECTOR4(Name, Type, Alignment)            \
    struct __align__(Alignment) Name { Type x, y, z, w; }; \
    inline Name make_##Name(Type x, Type y, Type z, Type w) { return {x, y, z, w}; }

EMULATED_VECTOR2(float2, float, 8)
EMULATED_VECTOR3(float3, float)
EMULATED_VECTOR4(float4, float, 16)
EMULATED_VECTOR2(double2, double, 16)
EMULATED_VECTOR2(int2, int, 8)
EMULATED_VECTOR3(int3, int)
EMULATED_VECTOR4(int4, int, 16)
EMULATED_VECTOR2(uint2, unsigned, 8)
EMULATED_VECTOR3(uint3, unsigned)
EMULATED_VECTOR4(uint4, unsigned, 16)
EMULATED_VECTOR2(ushort2, unsigned short, 4)
EMULATED_VECTOR4(ushort4, unsigned short, 8)
EMULATED_VECTOR2(short2, short, 4)
EMULATED_VECTOR4(short4, short, 8)
EMULATED_VECTOR2(uchar2, unsigned char, 2)
EMULATED_VECTOR4(uchar4, unsigned char, 4)
EMULATED_VECTOR4(char4, signed char, 4)
EMULATED_VECTOR2(longlong2, long long, 16)
EMULATED_VECTOR2(ulonglong2, unsigned long long, 16)

// The block's dynamic shared memory, aligned to 16 bytes; stands for `extern __shared__`.
inline void* emulated_dynamic_shared() { return emulated::dynamic_shared_memory(); }

#include "device_math.h"
#include "device_warp.h"
#include "device_bf16.h"
#include "device_tensor_cores.h"

// Loops over all elements of tensors, 16 bytes per access where the addresses allow it, and two accesses of each input in
// flight in every thread. Outputs may be inputs.
#pragma once
#include "common.cuh"

// y[i] = f(x[i]); 2 n elements moved.
template <class T, class F>
__device__ __forceinline__ void map(const T* x, T* y, Size n, F f) {
    constexpr int count = Pack<T>::count;
    const Size packs = is_aligned(x) && is_aligned(y) ? n / count : 0, stride = grid_stride();
    Size i = grid_index();
    for (; i + stride < packs; i += 2 * stride) {
        float u[count], v[count];
        load_pack(x, i * count, u);
        load_pack(x, (i + stride) * count, v);
#pragma unroll
        for (int k = 0; k < count; ++k) u[k] = f(u[k]), v[k] = f(v[k]);
        store_pack(y, i * count, u);
        store_pack(y, (i + stride) * count, v);
    }
    if (i < packs) {
        float u[count];
        load_pack(x, i * count, u);
#pragma unroll
        for (int k = 0; k < count; ++k) u[k] = f(u[k]);
        store_pack(y, i * count, u);
    }
    for (i = packs * count + grid_index(); i < n; i += stride) store(y, i, f(load(x, i)));
}

// y[i] = f(a[i], b[i]); 3 n elements moved.
template <class T, class F>
__device__ __forceinline__ void zip(const T* a, const T* b, T* y, Size n, F f) {
    constexpr int count = Pack<T>::count;
    const Size packs = is_aligned(a) && is_aligned(b) && is_aligned(y) ? n / count : 0, stride = grid_stride();
    Size i = grid_index();
    for (; i + stride < packs; i += 2 * stride) {
        float u[count], v[count], s[count], t[count];
        load_pack(a, i * count, u);
        load_pack(b, i * count, v);
        load_pack(a, (i + stride) * count, s);
        load_pack(b, (i + stride) * count, t);
#pragma unroll
        for (int k = 0; k < count; ++k) u[k] = f(u[k], v[k]), s[k] = f(s[k], t[k]);
        store_pack(y, i * count, u);
        store_pack(y, (i + stride) * count, s);
    }
    if (i < packs) {
        float u[count], v[count];
        load_pack(a, i * count, u);
        load_pack(b, i * count, v);
#pragma unroll
        for (int k = 0; k < count; ++k) u[k] = f(u[k], v[k]);
        store_pack(y, i * count, u);
    }
    for (i = packs * count + grid_index(); i < n; i += stride) store(y, i, f(load(a, i), load(b, i)));
}

// `V` consecutive elements: a whole pack, or one element where V is 1.
template <int V, class T>
__device__ __forceinline__ void load_values(const T* p, Size i, float out[V]) {
    if constexpr (V == 1) {
        out[0] = load(p, i);
    } else {
        static_assert(V == Pack<T>::count, "a pack or one element");
        load_pack(p, i, out);
    }
}
template <int V, class T>
__device__ __forceinline__ void store_values(T* p, Size i, const float in[V]) {
    if constexpr (V == 1) {
        store(p, i, in[0]);
    } else {
        static_assert(V == Pack<T>::count, "a pack or one element");
        store_pack(p, i, in);
    }
}
// As many parameters, which are `float` whatever the activations are.
template <int V>
__device__ __forceinline__ void load_parameters(const float* p, Size i, float out[V]) {
    if constexpr (V == 1) {
        out[0] = p[i];
    } else {
#pragma unroll
        for (int k = 0; k < V; k += 4) load_pack(p, i + k, out + k);
    }
}

// Calls body(image, i) for every V-th element i below `per_image` of every image: blocks along x share an image, those
// along y the images. Needs no division.
template <int V, class Body>
__device__ __forceinline__ void by_images(Size images, Size per_image, Body body) {
    for (Size image = blockIdx.y; image < images; image += gridDim.y)
        for (Size i = grid_index() * V; i < per_image; i += grid_stride() * V) body(image, i);
}

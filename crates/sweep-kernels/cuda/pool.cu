// Pools over maps (N, H, W, C). All are bound by memory: every element is read or written once, except where
// neighbourhoods overlap, and there the cache serves the rest.
#include "maps.cuh"

// `COUNT` bytes at once.
template <int COUNT>
__device__ __forceinline__ void store_bytes(unsigned char* p, Size i, const unsigned char* in) {
    if constexpr (COUNT == 1) {
        p[i] = in[0];
    } else {
#pragma unroll
        for (int word = 0; word < COUNT / 4; ++word) {
            unsigned bits = 0;
#pragma unroll
            for (int k = 0; k < 4; ++k) bits |= static_cast<unsigned>(in[4 * word + k]) << (8 * k);
            reinterpret_cast<unsigned*>(p + i)[word] = bits;
        }
    }
}
template <int COUNT>
__device__ __forceinline__ void load_bytes(const unsigned char* p, Size i, unsigned char* out) {
    if constexpr (COUNT == 1) {
        out[0] = p[i];
    } else {
#pragma unroll
        for (int word = 0; word < COUNT / 4; ++word) {
            const unsigned bits = reinterpret_cast<const unsigned*>(p + i)[word];
#pragma unroll
            for (int k = 0; k < 4; ++k) out[4 * word + k] = static_cast<unsigned char>(bits >> (8 * k));
        }
    }
}

// The largest value of each neighbourhood and its place in it (row * kernel + column), for every output; `places` may be
// null. Padding never wins, NaN always does, and among equal values the first wins.
// Reads kernel^2 elements for each output (a stride of 2 and a kernel of 3: 2.25 times the input, 1 of them from memory)
// and writes it with one byte.
template <class T, int COUNT>
__device__ void max_pool(const T* __restrict__ x, T* __restrict__ y, unsigned char* __restrict__ places, Size images,
                         int height, int width, int channels, int out_height, int out_width, int kernel, int stride,
                         int padding) {
    const unsigned packs = channels / COUNT;
    const Size count = images * out_height * out_width * packs;
    for (Size i = grid_index(); i < count; i += grid_stride()) {
        const int channel = static_cast<int>(i % packs) * COUNT;
        const Size pixel = i / packs;
        const int column = static_cast<int>(pixel % out_width);
        const Size line = pixel / out_width;
        const int row = static_cast<int>(line % out_height);
        const T* image = x + line / out_height * height * width * channels;
        const int top = row * stride - padding, left = column * stride - padding;
        const int first_row = top < 0 ? -top : 0, first_column = left < 0 ? -left : 0;
        float best[COUNT];
        unsigned char winner[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            best[k] = -INFINITY;
            winner[k] = static_cast<unsigned char>(first_row * kernel + first_column);
        }
        for (int r = first_row; r < kernel && top + r < height; ++r) {
            for (int c = first_column; c < kernel && left + c < width; ++c) {
                float v[COUNT];
                load_some<COUNT>(image, (static_cast<Size>(top + r) * width + left + c) * channels + channel, v);
                const unsigned char place = static_cast<unsigned char>(r * kernel + c);
#pragma unroll
                for (int k = 0; k < COUNT; ++k) {
                    const bool wins = v[k] > best[k] || v[k] != v[k];
                    best[k] = wins ? v[k] : best[k];
                    winner[k] = wins ? place : winner[k];
                }
            }
        }
        store_some<COUNT>(y, pixel * channels + channel, best);
        if (places) store_bytes<COUNT>(places, pixel * channels + channel, winner);
    }
}
#define MAX_POOL(T, suffix)                                                                                            \
    KERNEL max_pool_##suffix(const T* x, T* y, unsigned char* places, Size images, Size height, Size width,            \
                             Size channels, Size out_height, Size out_width, Size kernel, Size stride, Size padding,   \
                             Size packed) {                                                                            \
        if (packed)                                                                                                    \
            max_pool<T, Pack<T>::count>(x, y, places, images, height, width, channels, out_height, out_width, kernel,  \
                                        stride, padding);                                                              \
        else                                                                                                           \
            max_pool<T, 1>(x, y, places, images, height, width, channels, out_height, out_width, kernel, stride,       \
                           padding);                                                                                   \
    }
MAX_POOL(float, f32)
MAX_POOL(bf16, bf16)

// The input gradient: every input adds up the gradients of the outputs that it won, in the order of the outputs, so that
// nobody writes to the same element twice. Reads every dy and place up to ceil(kernel / stride)^2 times (once from memory)
// and writes every dx.
template <class T, int COUNT>
__device__ void max_pool_backward(const T* __restrict__ dy, const unsigned char* __restrict__ places, T* __restrict__ dx,
                                  Size images, int height, int width, int channels, int out_height, int out_width,
                                  int kernel, int stride, int padding) {
    const unsigned packs = channels / COUNT;
    const Size count = images * height * width * packs;
    for (Size i = grid_index(); i < count; i += grid_stride()) {
        const int channel = static_cast<int>(i % packs) * COUNT;
        const Size pixel = i / packs;
        const int column = static_cast<int>(pixel % width);
        const Size line = pixel / width;
        const int row = static_cast<int>(line % height);
        const Size image = line / height * out_height;
        // Outputs whose neighbourhood contains this input.
        const int down = row + padding, right = column + padding;
        const int first_row = down < kernel ? 0 : (down - kernel) / stride + 1;
        const int first_column = right < kernel ? 0 : (right - kernel) / stride + 1;
        float sum[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; ++k) sum[k] = 0.0f;
        for (int r = first_row; r <= down / stride && r < out_height; ++r) {
            for (int c = first_column; c <= right / stride && c < out_width; ++c) {
                const Size at = ((image + r) * out_width + c) * channels + channel;
                const unsigned char place = static_cast<unsigned char>((down - r * stride) * kernel + right - c * stride);
                unsigned char winner[COUNT];
                float g[COUNT];
                load_bytes<COUNT>(places, at, winner);
                load_some<COUNT>(dy, at, g);
#pragma unroll
                for (int k = 0; k < COUNT; ++k) sum[k] += winner[k] == place ? g[k] : 0.0f;
            }
        }
        store_some<COUNT>(dx, pixel * channels + channel, sum);
    }
}
#define MAX_POOL_BACKWARD(T, suffix)                                                                                   \
    KERNEL max_pool_backward_##suffix(const T* dy, const unsigned char* places, T* dx, Size images, Size height,       \
                                      Size width, Size channels, Size out_height, Size out_width, Size kernel,         \
                                      Size stride, Size padding, Size packed) {                                        \
        if (packed)                                                                                                    \
            max_pool_backward<T, Pack<T>::count>(dy, places, dx, images, height, width, channels, out_height,          \
                                                 out_width, kernel, stride, padding);                                  \
        else                                                                                                           \
            max_pool_backward<T, 1>(dy, places, dx, images, height, width, channels, out_height, out_width, kernel,    \
                                    stride, padding);                                                                  \
    }
MAX_POOL_BACKWARD(float, f32)
MAX_POOL_BACKWARD(bf16, bf16)

// The mean over the places of (images, places, channels). `columns` neighbouring blocks share an image. Reads every
// element once.
template <class T, int COUNT>
__device__ void mean_pool(const T* __restrict__ x, T* __restrict__ y, Size places, Size channels, unsigned columns) {
    const Size image = blockIdx.x / columns;
    const Size channel = (static_cast<Size>(blockIdx.x % columns) * blockDim.x + threadIdx.x) * COUNT;
    const bool is_inside = channel < channels;
    float sum[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) sum[k] = 0.0f;
    if (is_inside) {
#pragma unroll 4
        for (Size place = threadIdx.y; place < places; place += blockDim.y) {
            float v[COUNT];
            load_some<COUNT>(x, (image * places + place) * channels + channel, v);
#pragma unroll
            for (int k = 0; k < COUNT; ++k) sum[k] += v[k];
        }
    }
    __shared__ float parts[THREADS * COUNT];
    const int at = (threadIdx.y * blockDim.x + threadIdx.x) * COUNT;
    for (unsigned width = blockDim.y; width > 1; width /= 2) {
        if (threadIdx.y < width) {
#pragma unroll
            for (int k = 0; k < COUNT; ++k) parts[at + k] = sum[k];
        }
        __syncthreads();
        if (threadIdx.y < width / 2) {
#pragma unroll
            for (int k = 0; k < COUNT; ++k) sum[k] += parts[at + width / 2 * blockDim.x * COUNT + k];
        }
        __syncthreads();
    }
    if (threadIdx.y == 0 && is_inside) {
#pragma unroll
        for (int k = 0; k < COUNT; ++k) sum[k] /= static_cast<float>(places);
        store_some<COUNT>(y, image * channels + channel, sum);
    }
}
#define MEAN_POOL(T, suffix)                                                                                           \
    KERNEL mean_pool_##suffix(const T* x, T* y, Size images, Size places, Size channels, Size packed) {                \
        const unsigned columns = gridDim.x / static_cast<unsigned>(images);                                            \
        if (packed) mean_pool<T, Pack<T>::count>(x, y, places, channels, columns);                                     \
        else mean_pool<T, 1>(x, y, places, channels, columns);                                                         \
    }
MEAN_POOL(float, f32)
MEAN_POOL(bf16, bf16)

// Its backward pass: every place gets an equal share of dy. Writes every element once; dy comes from the cache.
template <class T, int COUNT>
__device__ void mean_pool_backward(const T* __restrict__ dy, T* __restrict__ dx, Size places, Size channels,
                                   unsigned columns) {
    const Size image = blockIdx.x / columns;
    const Size channel = (static_cast<Size>(blockIdx.x % columns) * blockDim.x + threadIdx.x) * COUNT;
    if (channel >= channels) return;
    float share[COUNT];
    load_some<COUNT>(dy, image * channels + channel, share);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) share[k] /= static_cast<float>(places);
    for (Size place = threadIdx.y; place < places; place += blockDim.y)
        store_some<COUNT>(dx, (image * places + place) * channels + channel, share);
}
#define MEAN_POOL_BACKWARD(T, suffix)                                                                                  \
    KERNEL mean_pool_backward_##suffix(const T* dy, T* dx, Size images, Size places, Size channels, Size packed) {     \
        const unsigned columns = gridDim.x / static_cast<unsigned>(images);                                            \
        if (packed) mean_pool_backward<T, Pack<T>::count>(dy, dx, places, channels, columns);                          \
        else mean_pool_backward<T, 1>(dy, dx, places, channels, columns);                                              \
    }
MEAN_POOL_BACKWARD(float, f32)
MEAN_POOL_BACKWARD(bf16, bf16)

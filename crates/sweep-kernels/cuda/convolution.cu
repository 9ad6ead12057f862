// Convolutions of maps (N, H, W, C): reordering of filters, and packing of patches for products of matrices. All kernels
// are bound by memory.
#include "maps.cuh"

// Parameters (O, C, taps) as filters (O, taps, C): rows of `length` >= taps * C numbers, zero beyond. Once for each step of
// the optimizer. Reads O C taps floats and writes O length elements.
template <class T>
__device__ void taps_first(const float* __restrict__ from, T* __restrict__ to, Size outputs, unsigned channels,
                           unsigned taps, unsigned length) {
    for (Size i = grid_index(); i < outputs * length; i += grid_stride()) {
        const Size output = i / length;
        const unsigned at = static_cast<unsigned>(i % length), tap = at / channels, channel = at % channels;
        store(to, i, tap < taps ? from[(output * channels + channel) * taps + tap] : 0.0f);
    }
}
KERNEL taps_first_f32(const float* from, float* to, Size outputs, Size channels, Size taps, Size length) {
    taps_first(from, to, outputs, channels, taps, length);
}
KERNEL taps_first_bf16(const float* from, bf16* to, Size outputs, Size channels, Size taps, Size length) {
    taps_first(from, to, outputs, channels, taps, length);
}

// The inverse, for gradients: (O, taps, C) with rows of `length` to (O, C, taps) in F32.
template <class T>
__device__ void taps_last(const T* __restrict__ from, float* __restrict__ to, Size outputs, unsigned channels,
                          unsigned taps, unsigned length) {
    const unsigned row = channels * taps;
    for (Size i = grid_index(); i < outputs * row; i += grid_stride()) {
        const Size output = i / row;
        const unsigned at = static_cast<unsigned>(i % row), channel = at / taps, tap = at % taps;
        to[i] = load(from, output * length + tap * channels + channel);
    }
}
KERNEL taps_last_f32(const float* from, float* to, Size outputs, Size channels, Size taps, Size length) {
    taps_last(from, to, outputs, channels, taps, length);
}
KERNEL taps_last_bf16(const bf16* from, float* to, Size outputs, Size channels, Size taps, Size length) {
    taps_last(from, to, outputs, channels, taps, length);
}

// The sizes of a packed convolution of one group of channels.
struct Patches {
    Size images;
    int height, width, channels, out_height, out_width, kernel_height, kernel_width, stride, padding;
    // The channels of the group, and the length of a row of patches: at least kernel_height * kernel_width * group.
    int first_channel, group, length;
};

// The patch around every output pixel as a row of a matrix: rows, columns and channels of the kernel, then zeros.
// A thread writes 16 bytes. Where packs do not cross channels it reads them as one, else as single elements through the
// cache. Moves the rows once, and reads the map as often as patches overlap, from memory once.
template <class T, bool WHOLE>
__device__ void unfold(const T* __restrict__ x, T* __restrict__ patches, const Patches p) {
    constexpr int COUNT = Pack<T>::count;
    const unsigned packs = p.length / COUNT;
    const int taps = p.kernel_height * p.kernel_width;
    const Size count = p.images * p.out_height * p.out_width * packs;
    for (Size i = grid_index(); i < count; i += grid_stride()) {
        const Size pixel = i / packs;
        int at = static_cast<int>(i % packs) * COUNT;
        const int column = static_cast<int>(pixel % p.out_width) * p.stride - p.padding;
        const Size line = pixel / p.out_width;
        const int row = static_cast<int>(line % p.out_height) * p.stride - p.padding;
        const T* image = x + line / p.out_height * p.height * p.width * p.channels + p.first_channel;
        int tap = at / p.group, channel = at % p.group;
        int tap_row = tap / p.kernel_width, tap_column = tap % p.kernel_width;
        float v[COUNT];
        if constexpr (WHOLE) {
            const int y = row + tap_row, z = column + tap_column;
#pragma unroll
            for (int k = 0; k < COUNT; ++k) v[k] = 0.0f;
            if (tap < taps && y >= 0 && y < p.height && z >= 0 && z < p.width)
                load_pack(image, (static_cast<Size>(y) * p.width + z) * p.channels + channel, v);
        } else {
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                const int y = row + tap_row, z = column + tap_column;
                v[k] = 0.0f;
                if (tap < taps && y >= 0 && y < p.height && z >= 0 && z < p.width)
                    v[k] = load(image, (static_cast<Size>(y) * p.width + z) * p.channels + channel);
                if (++channel == p.group) {
                    channel = 0;
                    ++tap;
                    if (++tap_column == p.kernel_width) {
                        tap_column = 0;
                        ++tap_row;
                    }
                }
            }
        }
        store_pack(patches, i * COUNT, v);
    }
}
#define PATCHES                                                                                                        \
    Patches {                                                                                                          \
        images, static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels),                         \
            static_cast<int>(out_height), static_cast<int>(out_width), static_cast<int>(kernel_height),                \
            static_cast<int>(kernel_width), static_cast<int>(stride), static_cast<int>(padding),                       \
            static_cast<int>(first_channel), static_cast<int>(group), static_cast<int>(length)                         \
    }
#define UNFOLD(T, suffix)                                                                                              \
    KERNEL unfold_##suffix(const T* x, T* patches, Size images, Size height, Size width, Size channels,                \
                           Size out_height, Size out_width, Size kernel_height, Size kernel_width, Size stride,        \
                           Size padding, Size first_channel, Size group, Size length, Size packed) {                   \
        if (packed) unfold<T, true>(x, patches, PATCHES);                                                              \
        else unfold<T, false>(x, patches, PATCHES);                                                                    \
    }
UNFOLD(float, f32)
UNFOLD(bf16, bf16)

// The adjoint: every element of the map adds up, in the order of the taps, what patches hold at its place; 0 where there
// is no patch. Moves the patches and the map once. Patches are F32 where they overlap, so that sums are rounded once.
template <class From, class T, int COUNT>
__device__ void fold(const From* __restrict__ patches, T* __restrict__ x, const Patches p) {
    const unsigned packs = p.group / COUNT;
    const Size count = p.images * p.height * p.width * packs;
    for (Size i = grid_index(); i < count; i += grid_stride()) {
        const int channel = static_cast<int>(i % packs) * COUNT;
        const Size pixel = i / packs;
        const int column = static_cast<int>(pixel % p.width) + p.padding;
        const Size line = pixel / p.width;
        const int row = static_cast<int>(line % p.height) + p.padding;
        const Size image = line / p.height * p.out_height;
        float sum[COUNT];
#pragma unroll
        for (int k = 0; k < COUNT; ++k) sum[k] = 0.0f;
        // The taps that fall on this pixel are `stride` apart.
        for (int tap_row = row % p.stride; tap_row < p.kernel_height && tap_row <= row; tap_row += p.stride) {
            const int y = (row - tap_row) / p.stride;
            if (y >= p.out_height) continue;
            for (int tap_column = column % p.stride; tap_column < p.kernel_width && tap_column <= column;
                 tap_column += p.stride) {
                const int z = (column - tap_column) / p.stride;
                if (z >= p.out_width) continue;
                float v[COUNT];
                load_some<COUNT>(patches,
                                 ((image + y) * p.out_width + z) * p.length +
                                     (tap_row * p.kernel_width + tap_column) * p.group + channel, v);
#pragma unroll
                for (int k = 0; k < COUNT; ++k) sum[k] += v[k];
            }
        }
        store_some<COUNT>(x, pixel * p.channels + p.first_channel + channel, sum);
    }
}
#define FOLD(From, T, COUNT, suffix)                                                                                   \
    KERNEL fold_##suffix(const From* patches, T* x, Size images, Size height, Size width, Size channels,               \
                         Size out_height, Size out_width, Size kernel_height, Size kernel_width, Size stride,          \
                         Size padding, Size first_channel, Size group, Size length, Size packed) {                     \
        if (packed) fold<From, T, COUNT>(patches, x, PATCHES);                                                         \
        else fold<From, T, 1>(patches, x, PATCHES);                                                                    \
    }
FOLD(float, float, 4, f32)
FOLD(bf16, bf16, 8, bf16)
FOLD(float, bf16, 8, f32_bf16)

// y += bias in every row of a (rows, channels) matrix. Reads and writes every element once.
template <class T, int COUNT>
__device__ void add_bias(T* y, const float* bias, Size rows, Size channels, Size per_block) {
    const Walk<COUNT> walk(rows, channels, per_block);
    if (!walk.is_inside) return;
    float b[COUNT];
    load_constants<COUNT>(bias, walk.channel, b);
    for (Size row = walk.row; row < walk.end; row += blockDim.y) {
        const Size i = row * channels + walk.channel;
        float v[COUNT];
        load_some<COUNT>(y, i, v);
#pragma unroll
        for (int k = 0; k < COUNT; ++k) v[k] += b[k];
        store_some<COUNT>(y, i, v);
    }
}
#define ADD_BIAS(T, suffix)                                                                                            \
    KERNEL convolution_bias_##suffix(T* y, const float* bias, Size rows, Size channels, Size per_block, Size packed) { \
        if (packed) add_bias<T, Pack<T>::count>(y, bias, rows, channels, per_block);                                   \
        else add_bias<T, 1>(y, bias, rows, channels, per_block);                                                       \
    }
ADD_BIAS(float, f32)
ADD_BIAS(bf16, bf16)

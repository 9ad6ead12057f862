// What begins a network: normalisation of the pixels, and cutting images into patches. Bound by memory: one pass.
#include "common.cuh"

namespace {

// Channels that one launch of the normalisation handles at most; their constants are arguments.
constexpr int CHANNELS = 4;
// Elements that a thread of it handles at once: 16 bytes of floats, 8 of bf16.
constexpr int FOUR = 4;

__device__ void load_four(const float* p, Size i, float out[FOUR]) { load_pack(p, i, out); }
__device__ void load_four(const bf16* p, Size i, float out[FOUR]) {
    const uint2 v = *reinterpret_cast<const uint2*>(p + i);
    out[0] = __uint_as_float(v.x << 16); out[1] = __uint_as_float(v.x & 0xffff0000u);
    out[2] = __uint_as_float(v.y << 16); out[3] = __uint_as_float(v.y & 0xffff0000u);
}
__device__ void store_four(float* p, Size i, const float in[FOUR]) { store_pack(p, i, in); }
__device__ void store_four(bf16* p, Size i, const float in[FOUR]) {
    *reinterpret_cast<uint2*>(p + i) = make_uint2(two_bf16(in[0], in[1]), two_bf16(in[2], in[3]));
}

// The constants of up to four channels.
struct Constants {
    float values[CHANNELS];
    __device__ float of(int channel) const {
        float value = values[0];
#pragma unroll
        for (int k = 1; k < CHANNELS; ++k) value = channel == k ? values[k] : value;
        return value;
    }
};

// to = map(from, mean, deviation) for the channels `first .. first + count` of images (images, channels, plane). Blocks in y go
// over planes, so that no element needs a division to find its channel; blocks in x go over a plane.
template <class From, class To, class Map>
__device__ void map_planes(const From* from, To* to, Size images, Size channels, Size plane, Size first, Size count,
                           Constants means, Constants deviations, Map map) {
    const Size planes = images * count, whole = plane % FOUR == 0 ? plane : 0;
    for (Size index = blockIdx.y; index < planes; index += gridDim.y) {
        const int channel = static_cast<int>(index % count);
        const float mean = means.of(channel), deviation = deviations.of(channel);
        const Size start = (index / count * channels + first + channel) * plane;
        for (Size i = grid_index() * FOUR; i < whole; i += grid_stride() * FOUR) {
            float values[FOUR];
            load_four(from, start + i, values);
#pragma unroll
            for (int k = 0; k < FOUR; ++k) values[k] = map(values[k], mean, deviation);
            store_four(to, start + i, values);
        }
        for (Size i = whole + grid_index(); i < plane; i += grid_stride())
            store(to, start + i, map(load(from, start + i), mean, deviation));
    }
}

struct Forward {
    __device__ float operator()(float x, float mean, float deviation) const { return (x - mean) / deviation; }
};
struct Backward {
    __device__ float operator()(float dy, float, float deviation) const { return dy / deviation; }
};

// Sizes of images and the patches they are cut into. An image has `channels` planes of `down * side` lines of `across * line`
// units; a unit is some bytes that stay together, a line of a patch is `line` of them, and a patch has `side` such lines for
// each channel.
struct Cut {
    int channels, down, across, side, line;

    __device__ int units() const { return channels * down * side * across * line; }
    // Where the unit lies in its image that is unit `i` of the image's patches: (down, across, channels, side, line).
    __device__ int in_image(int i) const {
        const int unit = i % line, lines = i / line;
        const int row = lines % side, rows = lines / side;
        const int channel = rows % channels, patch = rows / channels;
        const int y = patch / across, x = patch % across;
        return (((channel * down + y) * side + row) * across + x) * line + unit;
    }
    // The inverse: the unit of the patches for unit `i` of the image: (channels, down, side, across, line).
    __device__ int in_patches(int i) const {
        const int unit = i % line, lines = i / line;
        const int x = lines % across, rows = lines / across;
        const int row = rows % side, bands = rows / side;
        const int y = bands % down, channel = bands / down;
        return (((y * across + x) * channels + channel) * side + row) * line + unit;
    }
};

// Both directions write in order and gather; what a warp gathers shares sectors with its neighbours, which the L1 cache keeps.
// Reads and writes every byte once, and about 150 integer operations per unit, of which 16 bytes are the usual size. Blocks in
// y go over the images, which are below 2^31 units each.
template <class Unit, bool TO_PATCHES>
__device__ void cut(const Unit* from, Unit* to, Size images, Cut sizes) {
    const int units = sizes.units();
    for (Size image = blockIdx.y; image < images; image += gridDim.y) {
        const Unit* in = from + image * units;
        Unit* out = to + image * units;
        for (Size i = grid_index(); i < units; i += grid_stride()) {
            const int at = static_cast<int>(i);
            out[at] = in[TO_PATCHES ? sizes.in_image(at) : sizes.in_patches(at)];
        }
    }
}

__device__ Cut cut_sizes(Size channels, Size down, Size across, Size side, Size line) {
    return {static_cast<int>(channels), static_cast<int>(down), static_cast<int>(across), static_cast<int>(side),
            static_cast<int>(line)};
}

}  // namespace

// (x - mean) / deviation. Moves 4 + sizeof(activation) bytes per element; two operations.
#define NORMALIZE(name, From, To, Map)                                                                                     \
    KERNEL name(const From* from, To* to, Size images, Size channels, Size plane, Size first, Size count, float mean0,     \
                float mean1, float mean2, float mean3, float deviation0, float deviation1, float deviation2,               \
                float deviation3) {                                                                                        \
        map_planes(from, to, images, channels, plane, first, count, Constants{{mean0, mean1, mean2, mean3}},              \
                   Constants{{deviation0, deviation1, deviation2, deviation3}}, Map());                                    \
    }
NORMALIZE(normalize_f32, float, float, Forward)
NORMALIZE(normalize_bf16, float, bf16, Forward)
NORMALIZE(normalize_backward_f32, float, float, Backward)
NORMALIZE(normalize_backward_bf16, bf16, float, Backward)

// Images to rows of patches and back, in units of 2, 4, 8 or 16 bytes.
#define CUT(bytes, Unit)                                                                                                   \
    KERNEL cut_patches_##bytes(const Unit* images, Unit* patches, Size count, Size channels, Size down, Size across,       \
                               Size side, Size line) {                                                                     \
        cut<Unit, true>(images, patches, count, cut_sizes(channels, down, across, side, line));                            \
    }                                                                                                                      \
    KERNEL join_patches_##bytes(const Unit* patches, Unit* images, Size count, Size channels, Size down, Size across,      \
                                Size side, Size line) {                                                                    \
        cut<Unit, false>(patches, images, count, cut_sizes(channels, down, across, side, line));                           \
    }
CUT(2, unsigned short)
CUT(4, unsigned)
CUT(8, uint2)
CUT(16, uint4)

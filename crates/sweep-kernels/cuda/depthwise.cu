// Depthwise convolution of maps (N, H, W, C) with odd square kernels, stride 1, and padding that keeps the size.
//
// The kernels for 7 x 7 (ConvNeXt) are bound by arithmetic: 49 multiply-adds for every element, which takes longer than
// moving 2 bytes in and 2 out. So they are built around the registers of a thread, which holds one channel:
// - 49 taps (forwards; 49 sums of tap gradients for the weight gradient),
// - a window of 7 rows of 7 outputs (of the output gradient, respectively), and
// - one row of 13 inputs.
// A thread walks down a strip that is 7 outputs wide. Each input row is read once and feeds the 7 output rows around it;
// the oldest of these is then complete and leaves the window. Per row of a strip: 343 multiply-adds, 13 loads from shared
// memory, 42 moves. The loop body stays small enough for the instruction cache.
//
// The 32 lanes of a warp hold 32 neighbouring channels. A block has 4 warps, `COLUMNS` strips side by side for each of
// `4 / COLUMNS` slabs of 32 channels, which share a tile of the input with its border in shared memory: `rows + 6` lines of
// `7 COLUMNS + 6` pixels. A tile of 14 x 14 outputs reads 2.04 times its inputs, once from memory and else from the second
// cache.
#include "maps.cuh"

constexpr int SIDE = 7;
constexpr int TAPS = SIDE * SIDE;
constexpr int BORDER = SIDE / 2;
constexpr int STRIP = 7;
constexpr int REACH = STRIP + SIDE - 1;
constexpr int WARPS = 4;

// Sizes of the maps, and of the tiles they are cut into.
template <int COLUMNS>
struct Tiling {
    static constexpr int SLABS = WARPS / COLUMNS;
    static constexpr int LANES = SLABS * WARP;
    static constexpr int PITCH = COLUMNS * STRIP + SIDE - 1;
    int height, width, channels, rows;
    int groups, across, down;
    __device__ __forceinline__ Tiling(Size height_, Size width_, Size channels_, Size rows_)
        : height(static_cast<int>(height_)), width(static_cast<int>(width_)), channels(static_cast<int>(channels_)),
          rows(static_cast<int>(rows_)) {
        groups = (channels + LANES - 1) / LANES;
        across = (width + COLUMNS * STRIP - 1) / (COLUMNS * STRIP);
        down = (height + rows - 1) / rows;
    }
};

// Where a tile lies: its image, and its first output.
struct Tile {
    Size image;
    int row, column;
    template <int COLUMNS>
    __device__ __forceinline__ Tile(const Tiling<COLUMNS>& tiling, Size index) {
        column = static_cast<int>(index % tiling.across) * COLUMNS * STRIP;
        const Size line = index / tiling.across;
        row = static_cast<int>(line % tiling.down) * tiling.rows;
        image = line / tiling.down;
    }
};

// Copies the inputs of a tile and their border to shared memory, zeros beyond the map: (slab, line, pixel, lane).
template <class T, int COLUMNS>
__device__ __forceinline__ void fill(T* tile, const T* __restrict__ x, const Tiling<COLUMNS>& tiling, const Tile& at,
                                     int first_channel, bool packed) {
    constexpr int PITCH = Tiling<COLUMNS>::PITCH, LANES = Tiling<COLUMNS>::LANES;
    const int lines = tiling.rows + SIDE - 1;
    const T* image = x + at.image * tiling.height * tiling.width * tiling.channels;
    if (packed) {
        constexpr int COUNT = Pack<T>::count, PACKS = LANES / COUNT;
        for (int i = threadIdx.x; i < lines * PITCH * PACKS; i += WARPS * WARP) {
            const int lane = i % PACKS * COUNT, pixel = i / PACKS;
            const int row = at.row - BORDER + pixel / PITCH, column = at.column - BORDER + pixel % PITCH;
            const int channel = first_channel + lane;
            uint4 bits = make_uint4(0, 0, 0, 0);
            if (row >= 0 && row < tiling.height && column >= 0 && column < tiling.width && channel < tiling.channels)
                bits = *reinterpret_cast<const uint4*>(
                    image + (static_cast<Size>(row) * tiling.width + column) * tiling.channels + channel);
            *reinterpret_cast<uint4*>(tile + ((lane / WARP * lines) * PITCH + pixel) * WARP + lane % WARP) = bits;
        }
    } else {
        for (int i = threadIdx.x; i < lines * PITCH * LANES; i += WARPS * WARP) {
            const int lane = i % LANES, pixel = i / LANES;
            const int row = at.row - BORDER + pixel / PITCH, column = at.column - BORDER + pixel % PITCH;
            const int channel = first_channel + lane;
            float v = 0.0f;
            if (row >= 0 && row < tiling.height && column >= 0 && column < tiling.width && channel < tiling.channels)
                v = load(image, (static_cast<Size>(row) * tiling.width + column) * tiling.channels + channel);
            store(tile, ((lane / WARP * lines) * PITCH + pixel) * WARP + lane % WARP, v);
        }
    }
}

// y = bias + sum over the taps of neighbours times taps; `taps` is (49, C), `bias` may be null. With `turned` the kernel is
// turned by half a turn, which makes the input gradient of the output gradient.
template <class T, int COLUMNS>
__device__ void correlate(const T* __restrict__ x, const float* __restrict__ taps, const float* __restrict__ bias,
                          T* __restrict__ y, const Tiling<COLUMNS> tiling, bool turned, bool packed) {
    constexpr int PITCH = Tiling<COLUMNS>::PITCH, LANES = Tiling<COLUMNS>::LANES;
    T* tile = reinterpret_cast<T*>(dynamic_shared());
    // Slabs of one tile are neighbours, because their pixels are neighbours in memory.
    const int first_channel = static_cast<int>(blockIdx.x % tiling.groups) * LANES;
    const Tile at(tiling, blockIdx.x / tiling.groups);
    fill<T, COLUMNS>(tile, x, tiling, at, first_channel, packed);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int column = at.column + warp % COLUMNS * STRIP, slab = warp / COLUMNS;
    const int channel = first_channel + slab * WARP + lane;
    const bool is_inside = channel < tiling.channels;
    float weights[TAPS], start = 0.0f;
#pragma unroll
    for (int i = 0; i < TAPS; ++i)
        weights[i] = is_inside ? taps[static_cast<Size>(turned ? TAPS - 1 - i : i) * tiling.channels + channel] : 0.0f;
    if (bias && is_inside) start = bias[channel];
    __syncthreads();
    if (!is_inside || column >= tiling.width) return;
    const int rows = min(tiling.rows, tiling.height - at.row);
    const T* line = tile + ((slab * (tiling.rows + SIDE - 1)) * PITCH + warp % COLUMNS * STRIP) * WARP + lane;
    T* out = y + ((at.image * tiling.height + at.row) * tiling.width + column) * tiling.channels + channel;
    // Row `age` of the window is the output row that began `age` input rows ago, so that tap row `age` is next for it.
    float window[SIDE][STRIP];
#pragma unroll
    for (int k = 0; k < STRIP; ++k) window[0][k] = start;
    for (int row = 0; row < rows + SIDE - 1; ++row, line += PITCH * WARP) {
        float in[REACH];
#pragma unroll
        for (int k = 0; k < REACH; ++k) in[k] = load(line, k * WARP);
#pragma unroll
        for (int age = 0; age < SIDE; ++age) {
            if (row >= age && row - age < rows) {
#pragma unroll
                for (int tap = 0; tap < SIDE; ++tap)
#pragma unroll
                    for (int k = 0; k < STRIP; ++k)
                        window[age][k] = fmaf(in[k + tap], weights[age * SIDE + tap], window[age][k]);
            }
        }
        if (row >= SIDE - 1) {
#pragma unroll
            for (int k = 0; k < STRIP; ++k)
                if (column + k < tiling.width) store(out, static_cast<Size>(k) * tiling.channels, window[SIDE - 1][k]);
            out += static_cast<Size>(tiling.width) * tiling.channels;
        }
#pragma unroll
        for (int age = SIDE - 1; age > 0; --age)
#pragma unroll
            for (int k = 0; k < STRIP; ++k) window[age][k] = window[age - 1][k];
#pragma unroll
        for (int k = 0; k < STRIP; ++k) window[0][k] = start;
    }
}
#define CORRELATE(T, COLUMNS, suffix)                                                                                  \
    KERNEL __launch_bounds__(WARPS* WARP, 4)                                                                           \
        depthwise_##suffix(const T* x, const float* taps, const float* bias, T* y, Size height, Size width,            \
                           Size channels, Size rows, Size turned, Size packed) {                                       \
        correlate<T, COLUMNS>(x, taps, bias, y, Tiling<COLUMNS>(height, width, channels, rows), turned, packed);       \
    }
CORRELATE(float, 1, narrow_f32)
CORRELATE(bf16, 1, narrow_bf16)
CORRELATE(float, 2, wide_f32)
CORRELATE(bf16, 2, wide_bf16)

// Sums of output gradients (the gradient of the bias) and of their products with the inputs under each tap, over the
// tiles `blockIdx.y, blockIdx.y + gridDim.y, ...`. Each strip of a block writes 50 rows of C sums to `partial`: the sum of
// dy, then the taps in order. The window holds the 7 rows of dy that an input row meets.
template <class T, int COLUMNS>
__device__ void weight_gradient(const T* __restrict__ x, const T* __restrict__ dy, float* __restrict__ partial,
                                const Tiling<COLUMNS> tiling, Size images, bool packed) {
    constexpr int PITCH = Tiling<COLUMNS>::PITCH, LANES = Tiling<COLUMNS>::LANES;
    T* tile = reinterpret_cast<T*>(dynamic_shared());
    const int first_channel = static_cast<int>(blockIdx.x) * LANES;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, slab = warp / COLUMNS;
    const int channel = first_channel + slab * WARP + lane;
    const bool is_inside = channel < tiling.channels;
    float sums[TAPS], total = 0.0f;
#pragma unroll
    for (int i = 0; i < TAPS; ++i) sums[i] = 0.0f;
    const Size tiles = images * tiling.down * tiling.across;
    for (Size index = blockIdx.y; index < tiles; index += gridDim.y) {
        const Tile at(tiling, index);
        __syncthreads();
        fill<T, COLUMNS>(tile, x, tiling, at, first_channel, packed);
        __syncthreads();
        const int column = at.column + warp % COLUMNS * STRIP;
        if (!is_inside || column >= tiling.width) continue;
        const int rows = min(tiling.rows, tiling.height - at.row);
        const T* line = tile + ((slab * (tiling.rows + SIDE - 1)) * PITCH + warp % COLUMNS * STRIP) * WARP + lane;
        const T* gradient = dy + ((at.image * tiling.height + at.row) * tiling.width + column) * tiling.channels + channel;
        float window[SIDE][STRIP], next[STRIP];
#pragma unroll
        for (int k = 0; k < STRIP; ++k)
            next[k] = column + k < tiling.width ? load(gradient, static_cast<Size>(k) * tiling.channels) : 0.0f;
        for (int row = 0; row < rows + SIDE - 1; ++row, line += PITCH * WARP) {
#pragma unroll
            for (int age = SIDE - 1; age > 0; --age)
#pragma unroll
                for (int k = 0; k < STRIP; ++k) window[age][k] = window[age - 1][k];
            // The row after this one is asked for before this one is worked on.
            gradient += static_cast<Size>(tiling.width) * tiling.channels;
#pragma unroll
            for (int k = 0; k < STRIP; ++k) {
                window[0][k] = next[k];
                total += next[k];
                next[k] = row + 1 < rows && column + k < tiling.width
                              ? load(gradient, static_cast<Size>(k) * tiling.channels)
                              : 0.0f;
            }
            float in[REACH];
#pragma unroll
            for (int k = 0; k < REACH; ++k) in[k] = load(line, k * WARP);
#pragma unroll
            for (int age = 0; age < SIDE; ++age) {
                if (row >= age && row - age < rows) {
#pragma unroll
                    for (int tap = 0; tap < SIDE; ++tap)
#pragma unroll
                        for (int k = 0; k < STRIP; ++k)
                            sums[age * SIDE + tap] = fmaf(in[k + tap], window[age][k], sums[age * SIDE + tap]);
                }
            }
        }
    }
    if (!is_inside) return;
    float* out = partial + (static_cast<Size>(blockIdx.y) * COLUMNS + warp % COLUMNS) * (TAPS + 1) * tiling.channels +
                 channel;
    out[0] = total;
#pragma unroll
    for (int i = 0; i < TAPS; ++i) out[static_cast<Size>(i + 1) * tiling.channels] = sums[i];
}
#define WEIGHT_GRADIENT(T, COLUMNS, suffix)                                                                            \
    KERNEL __launch_bounds__(WARPS* WARP, 3)                                                                           \
        depthwise_gradient_##suffix(const T* x, const T* dy, float* partial, Size images, Size height, Size width,     \
                                    Size channels, Size rows, Size packed) {                                           \
        weight_gradient<T, COLUMNS>(x, dy, partial, Tiling<COLUMNS>(height, width, channels, rows), images, packed);   \
    }
WEIGHT_GRADIENT(float, 1, narrow_f32)
WEIGHT_GRADIENT(bf16, 1, narrow_bf16)
WEIGHT_GRADIENT(float, 2, wide_f32)
WEIGHT_GRADIENT(bf16, 2, wide_bf16)

// The same for any odd `side`, for completeness: no model here uses another one than 7. One thread for each output; every
// input is read side^2 times through the cache.
template <class T>
__device__ void correlate_any(const T* __restrict__ x, const float* __restrict__ taps, const float* __restrict__ bias,
                              T* __restrict__ y, Size images, int height, int width, int channels, int side,
                              bool turned) {
    const Size count = images * height * width * channels;
    for (Size i = grid_index(); i < count; i += grid_stride()) {
        const int channel = static_cast<int>(i % channels);
        const Size pixel = i / channels;
        const int column = static_cast<int>(pixel % width), row = static_cast<int>(pixel / width % height);
        float sum = bias ? bias[channel] : 0.0f;
        for (int tap = 0; tap < side * side; ++tap) {
            const int down = tap / side - side / 2, right = tap % side - side / 2;
            if (row + down < 0 || row + down >= height || column + right < 0 || column + right >= width) continue;
            const float weight = taps[static_cast<Size>(turned ? side * side - 1 - tap : tap) * channels + channel];
            sum = fmaf(load(x, i + (static_cast<Size>(down) * width + right) * channels), weight, sum);
        }
        store(y, i, sum);
    }
}
#define CORRELATE_ANY(T, suffix)                                                                                       \
    KERNEL depthwise_any_##suffix(const T* x, const float* taps, const float* bias, T* y, Size images, Size height,    \
                                  Size width, Size channels, Size side, Size turned) {                                 \
        correlate_any(x, taps, bias, y, images, static_cast<int>(height), static_cast<int>(width),                     \
                      static_cast<int>(channels), static_cast<int>(side), turned);                                     \
    }
CORRELATE_ANY(float, f32)
CORRELATE_ANY(bf16, bf16)

// Products of dy and x under one tap, summed over blocks of `per_block` pixels: rows (block, tap) of C sums. blockIdx.x
// counts taps and, below them, packs of 32 channels. Blocks of 32 x 8 threads.
template <class T>
__device__ void gradient_any(const T* __restrict__ x, const T* __restrict__ dy, float* __restrict__ partial, Size images,
                             int height, int width, int channels, int side, Size per_block) {
    __shared__ float parts[8][WARP + 1];
    const unsigned slabs = (channels + WARP - 1) / WARP;
    const int tap = blockIdx.x / slabs, channel = blockIdx.x % slabs * WARP + threadIdx.x;
    const int down = tap / side - side / 2, right = tap % side - side / 2;
    const Size pixels = images * height * width, first = blockIdx.y * per_block;
    const Size end = first + per_block < pixels ? first + per_block : pixels;
    float sum = 0.0f;
    if (channel < channels) {
        for (Size pixel = first + threadIdx.y; pixel < end; pixel += 8) {
            const int column = static_cast<int>(pixel % width), row = static_cast<int>(pixel / width % height);
            if (row + down < 0 || row + down >= height || column + right < 0 || column + right >= width) continue;
            const Size i = pixel * channels + channel;
            sum = fmaf(load(dy, i), load(x, i + (static_cast<Size>(down) * width + right) * channels), sum);
        }
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
#pragma unroll
        for (int k = 1; k < 8; ++k) sum += parts[k][threadIdx.x];
        partial[(static_cast<Size>(blockIdx.y) * side * side + tap) * channels + channel] = sum;
    }
}
#define GRADIENT_ANY(T, suffix)                                                                                        \
    KERNEL depthwise_gradient_any_##suffix(const T* x, const T* dy, float* partial, Size images, Size height,          \
                                           Size width, Size channels, Size side, Size per_block) {                     \
        gradient_any(x, dy, partial, images, static_cast<int>(height), static_cast<int>(width),                        \
                     static_cast<int>(channels), static_cast<int>(side), per_block);                                   \
    }
GRADIENT_ANY(float, f32)
GRADIENT_ANY(bf16, bf16)

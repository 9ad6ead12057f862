// Maps (N, H, W, C) cut into windows and put together again, and patch merging. All are copies of whole pixels: the source
// of each row of C elements is computed, nothing is looked up. 2 C elements are moved per row, in units of 16 bytes where
// rows are multiples of that, else of 4 or 2 bytes; the dtype does not matter.
#include "common.cuh"

// a / b and a % b, with the fast 32-bit instructions where that is enough.
__device__ __forceinline__ Size divide(Size a, int b, int& rest) {
    if (a >> 31 == 0) {
        const int quotient = static_cast<int>(a) / b;
        rest = static_cast<int>(a) - quotient * b;
        return quotient;
    }
    rest = static_cast<int>(a % b);
    return a / b;
}

template <class Unit>
__device__ __forceinline__ Unit nothing();
template <>
__device__ __forceinline__ uint4 nothing<uint4>() {
    return make_uint4(0, 0, 0, 0);
}
template <>
__device__ __forceinline__ unsigned nothing<unsigned>() {
    return 0;
}
template <>
__device__ __forceinline__ unsigned short nothing<unsigned short>() {
    return 0;
}

// Row r of `to` is row source(r) of `from`, or zeros where that is negative. `blockDim.x` threads share a row of `units`.
template <class Unit, class Source>
__device__ void copy_rows(const Unit* from, Unit* to, Size rows, int units, Source source) {
    const Size step = static_cast<Size>(gridDim.x) * blockDim.y;
    for (Size row = static_cast<Size>(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += step) {
        const Size at = source(row);
        for (int i = threadIdx.x; i < units; i += blockDim.x)
            to[row * units + i] = at < 0 ? nothing<Unit>() : from[at * units + i];
    }
}

// Tokens of windows from pixels: the map is rolled up and left by `shift`, and padded to whole windows.
template <class Unit>
__device__ void partition(const Unit* map, Unit* tokens, Size rows, int units, int height, int width, int side, int shift) {
    const int across = (width + side - 1) / side, down = (height + side - 1) / side;
    copy_rows(map, tokens, rows, units, [=](Size row) -> Size {
        int token, window;
        const Size image = divide(divide(row, side * side, token), across * down, window);
        const int y = window / across * side + token / side, x = window % across * side + token % side;
        if (y >= height || x >= width) return -1;
        return (image * height + (y + shift) % height) * width + (x + shift) % width;
    });
}

// Pixels from the tokens of windows: the inverse.
template <class Unit>
__device__ void merge(const Unit* tokens, Unit* map, Size rows, int units, int height, int width, int side, int shift) {
    const int across = (width + side - 1) / side, down = (height + side - 1) / side;
    const int back_y = shift % height, back_x = shift % width;
    copy_rows(tokens, map, rows, units, [=](Size row) -> Size {
        int x, y;
        const Size image = divide(divide(row, width, x), height, y);
        y = y >= back_y ? y - back_y : y - back_y + height;
        x = x >= back_x ? x - back_x : x - back_x + width;
        const Size window = (image * down + y / side) * across + x / side;
        return window * (side * side) + y % side * side + x % side;
    });
}

// Quarters of merged pixels: upper left, lower left, upper right, lower right of each 2 x 2 square; zeros in the padding.
template <class Unit>
__device__ void stack_squares(const Unit* map, Unit* squares, Size rows, int units, int height, int width) {
    const int out_width = (width + 1) / 2, out_height = (height + 1) / 2;
    copy_rows(map, squares, rows, units, [=](Size row) -> Size {
        const int quarter = static_cast<int>(row & 3);
        int x, y;
        const Size image = divide(divide(row >> 2, out_width, x), out_height, y);
        y = 2 * y + quarter % 2;
        x = 2 * x + quarter / 2;
        return y < height && x < width ? (image * height + y) * width + x : -1;
    });
}

// Pixels from the quarters of merged pixels: the inverse.
template <class Unit>
__device__ void unstack_squares(const Unit* squares, Unit* map, Size rows, int units, int height, int width) {
    const int out_width = (width + 1) / 2, out_height = (height + 1) / 2;
    copy_rows(squares, map, rows, units, [=](Size row) -> Size {
        int x, y;
        const Size image = divide(divide(row, width, x), height, y);
        return ((image * out_height + y / 2) * out_width + x / 2) * 4 + x % 2 * 2 + y % 2;
    });
}

// The kernels for units of `bytes` bytes. `rows` counts rows of the output, `units` those of a row.
#define COPIES(bytes, Unit)                                                                                                  \
    KERNEL window_partition_##bytes(                                                                                         \
        const Unit* from, Unit* to, Size rows, Size units, Size height, Size width, Size side, Size shift) {                 \
        partition(                                                                                                           \
            from, to, rows, static_cast<int>(units), static_cast<int>(height), static_cast<int>(width),                      \
            static_cast<int>(side), static_cast<int>(shift));                                                                \
    }                                                                                                                        \
    KERNEL window_merge_##bytes(                                                                                             \
        const Unit* from, Unit* to, Size rows, Size units, Size height, Size width, Size side, Size shift) {                 \
        merge(                                                                                                               \
            from, to, rows, static_cast<int>(units), static_cast<int>(height), static_cast<int>(width),                      \
            static_cast<int>(side), static_cast<int>(shift));                                                                \
    }                                                                                                                        \
    KERNEL stack_squares_##bytes(const Unit* from, Unit* to, Size rows, Size units, Size height, Size width) {               \
        stack_squares(                                                                                                       \
            from, to, rows, static_cast<int>(units), static_cast<int>(height), static_cast<int>(width));                     \
    }                                                                                                                        \
    KERNEL unstack_squares_##bytes(const Unit* from, Unit* to, Size rows, Size units, Size height, Size width) {             \
        unstack_squares(                                                                                                     \
            from, to, rows, static_cast<int>(units), static_cast<int>(height), static_cast<int>(width));                     \
    }

COPIES(16, uint4)
COPIES(4, unsigned)
COPIES(2, unsigned short)

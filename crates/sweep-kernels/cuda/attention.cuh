// What the two implementations of attention share: where heads lie, and the bias of window attention.
//
// Scores count in powers of two: scale_2 = log2(e) / sqrt(d), and the saved normaliser of a query is the binary logarithm
// of the sum of 2^score. `place` and `places` number the relative positions of the tokens of a window.
#pragma once

#include "common.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
// The score of two tokens that must not see each other, as in Swin.
constexpr float MASKED = -100.0f * LOG2_E;

// How maps are cut into windows; `table` is null without windows. Kernels take it as WINDOWS and pass it as WINDOWS_GIVEN.
struct Windows {
    const float* table;
    int side, shift, rows, columns;
};
#define WINDOWS const float *table, Size side, Size shift, Size window_rows, Size window_columns
#define WINDOWS_GIVEN                                                                       \
    Windows {                                                                               \
        table, static_cast<int>(side), static_cast<int>(shift), static_cast<int>(window_rows), \
            static_cast<int>(window_columns)                                                \
    }

// What is added to the scores of one head of one window: table[row of the pair] and MASKED where a mask separates them.
struct ScoreBias {
    const float* table;
    int stride, side, shift, offset, kind;

    __device__ ScoreBias(const Windows& windows, int head, int heads)
        : table(windows.table == nullptr ? nullptr : windows.table + head), stride(heads), side(windows.side),
          shift(windows.shift), offset(2 * windows.side * (windows.side - 1)), kind(0) {}

    // The masks of `image`, a window counted over all maps: only the last column (bit 0) and row (bit 1) of windows hold
    // pixels that the cyclic shift brought there.
    __device__ void enter(const Windows& windows, Size image) {
        if (table == nullptr || shift == 0) return;
        const int window = static_cast<int>(image % (static_cast<Size>(windows.rows) * windows.columns));
        kind = 2 * (window / windows.columns + 1 == windows.rows) + (window % windows.columns + 1 == windows.columns);
    }

    // A number for a token, such that the row of the table for a pair is a difference of two (times 4), and the two lowest
    // bits say whether the token lies in the columns and in the rows that a shift fills.
    __device__ int place(int token) const {
        const int y = token / side, x = token % side, wraps_from = side - shift;
        return (y * (2 * side - 1) + x) * 4 + 2 * (y >= wraps_from) + (x >= wraps_from);
    }

    __device__ float of(int query_place, int key_place) const {
        const int row = (query_place >> 2) - (key_place >> 2) + offset;
        return LOG2_E * table[row * stride] + (((query_place ^ key_place) & kind) != 0 ? MASKED : 0.0f);
    }
};

// Adds the score gradients of one tile to the gradient of the table: sums[row * heads] += the gradients of all pairs of the
// tile with this row. Each thread owns some rows, so the order is fixed. `gradients` is [key][query] with `stride`, its first
// element the pair (first_query, first_key); it has `keys` keys and `queries` queries of a window.
template <class T>
__device__ void add_to_table(
    float* sums, int heads, int side, const T* gradients, int stride, int first_key, int keys, int first_query, int queries) {
    const int width = 2 * side - 1;
    for (int row = threadIdx.x; row < width * width; row += blockDim.x) {
        const int dy = row / width - (side - 1), dx = row % width - (side - 1);
        const int y_begin = max(max(0, -dy), first_key / side);
        const int y_end = min(min(side, side - dy), (first_key + keys - 1) / side + 1);
        const int x_begin = max(0, -dx), x_end = min(side, side - dx);
        float sum = 0.0f;
        for (int y = y_begin; y < y_end; ++y)
            for (int x = x_begin; x < x_end; ++x) {
                const int key = y * side + x - first_key, query = (y + dy) * side + x + dx - first_query;
                if (key >= 0 && key < keys && query >= 0 && query < queries) sum += load(gradients, key * stride + query);
            }
        sums[static_cast<Size>(row) * heads] += sum;
    }
}

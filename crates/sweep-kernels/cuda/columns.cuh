// Walking over the rows of a matrix with fixed columns for each thread, for what belongs to columns: biases, factors,
// and sums over rows.
#pragma once
#include "elements.cuh"

// A block of (lanes, 256 / lanes) threads owns lanes * V columns, V neighbouring ones for each thread, of the rows
// `blockIdx.y * rows_per_block ..`. Calls body(row, column, sums) for each row and adds up, in a fixed order, what the
// body adds to sums[s][k]: the block's sum number s of column c goes to partial[s][blockIdx.y][c], where s has gridDim.y
// rows. `prepare(column)` is called once before.
template <int V, int SUMS, class Prepare, class Body>
__device__ __forceinline__ void by_columns(
    Size rows, Size columns, Size rows_per_block, float* partial, Prepare prepare, Body body) {
    const Size column = (static_cast<Size>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    const Size first = blockIdx.y * rows_per_block;
    const Size end = first + rows_per_block < rows ? first + rows_per_block : rows;
    float sums[SUMS > 0 ? SUMS : 1][V] = {};
    if (column < columns) {
        prepare(column);
#pragma unroll 4
        for (Size row = first + threadIdx.y; row < end; row += blockDim.y) body(row, column, sums);
    }
    if constexpr (SUMS > 0) {
        __shared__ float parts[THREADS * V];
        const int width = blockDim.x * V, thread = threadIdx.y * blockDim.x + threadIdx.x;
        const Size tile = static_cast<Size>(blockIdx.x) * width;
#pragma unroll
        for (int s = 0; s < SUMS; ++s) {
            if (s > 0) __syncthreads();
#pragma unroll
            for (int k = 0; k < V; ++k) parts[thread * V + k] = sums[s][k];
            __syncthreads();
            if (thread < width && tile + thread < columns) {
                float sum = parts[thread];
                for (int y = 1; y < static_cast<int>(blockDim.y); ++y) sum += parts[y * width + thread];
                partial[(s * static_cast<Size>(gridDim.y) + blockIdx.y) * columns + tile + thread] = sum;
            }
        }
    }
}

// A number as a type, to choose V by the call.
template <int N> struct Constant { static constexpr int value = N; };

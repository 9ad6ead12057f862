// Element-wise kernels: conversions, sums, scaling. All are bound by memory: one pass over inputs and outputs.
#include "common.cuh"

// to[i] = from[i]; reads and writes n elements.
template <class From, class To>
__device__ void convert(const From* from, To* to, Size n) {
    for (Size i = grid_index(); i < n; i += grid_stride()) store(to, i, load(from, i));
}
KERNEL convert_f32_bf16(const float* from, bf16* to, Size n) { convert(from, to, n); }
KERNEL convert_bf16_f32(const bf16* from, float* to, Size n) { convert(from, to, n); }

// y = a + b; 3 n elements moved.
template <class T>
__device__ void add(const T* a, const T* b, T* y, Size n) {
    constexpr int count = Pack<T>::count;
    const Size whole = n / count * count;
    for (Size i = grid_index() * count; i < whole; i += grid_stride() * count) {
        float u[count], v[count];
        load_pack(a, i, u);
        load_pack(b, i, v);
#pragma unroll
        for (int k = 0; k < count; ++k) u[k] += v[k];
        store_pack(y, i, u);
    }
    for (Size i = whole + grid_index(); i < n; i += grid_stride()) store(y, i, load(a, i) + load(b, i));
}
KERNEL add_f32(const float* a, const float* b, float* y, Size n) { add(a, b, y, n); }
KERNEL add_bf16(const bf16* a, const bf16* b, bf16* y, Size n) { add(a, b, y, n); }

// y = factor * a; 2 n elements moved.
template <class T>
__device__ void scale(const T* a, T* y, float factor, Size n) {
    for (Size i = grid_index(); i < n; i += grid_stride()) store(y, i, factor * load(a, i));
}
KERNEL scale_f32(const float* a, float* y, float factor, Size n) { scale(a, y, factor, n); }
KERNEL scale_bf16(const bf16* a, bf16* y, float factor, Size n) { scale(a, y, factor, n); }

// The sums over the rows of a (rows, columns) matrix. A block of 32 x 8 threads sums 32 columns over the rows
// `blockIdx.y * rows_per_block ..`; with several blocks per column `partial` has one row of sums for each, which a second
// launch adds up. Reads rows * columns elements.
template <class T>
__device__ void column_sums(const T* matrix, float* partial, Size rows, Size columns, Size rows_per_block) {
    __shared__ float parts[8][WARP + 1];
    const Size column = static_cast<Size>(blockIdx.x) * WARP + threadIdx.x;
    const Size first = blockIdx.y * rows_per_block;
    const Size end = first + rows_per_block < rows ? first + rows_per_block : rows;
    float sum = 0.0f;
    if (column < columns)
        for (Size row = first + threadIdx.y; row < end; row += 8) sum += load(matrix, row * columns + column);
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
#pragma unroll
        for (int k = 1; k < 8; ++k) sum += parts[k][threadIdx.x];
        partial[blockIdx.y * columns + column] = sum;
    }
}
KERNEL column_sums_f32(const float* matrix, float* partial, Size rows, Size columns, Size rows_per_block) {
    column_sums(matrix, partial, rows, columns, rows_per_block);
}
KERNEL column_sums_bf16(const bf16* matrix, float* partial, Size rows, Size columns, Size rows_per_block) {
    column_sums(matrix, partial, rows, columns, rows_per_block);
}

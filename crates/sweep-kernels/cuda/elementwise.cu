// Element-wise kernels: conversions, sums, scaling. All are bound by memory: one pass over inputs and outputs.
#include "columns.cuh"

__device__ __forceinline__ void load_eight(const float* p, Size i, float out[8]) { load_parameters<8>(p, i, out); }
__device__ __forceinline__ void load_eight(const bf16* p, Size i, float out[8]) { load_pack(p, i, out); }
__device__ __forceinline__ void store_eight(float* p, Size i, const float in[8]) {
    store_pack(p, i, in);
    store_pack(p, i + 4, in + 4);
}
__device__ __forceinline__ void store_eight(bf16* p, Size i, const float in[8]) { store_pack(p, i, in); }

// to[i] = from[i]; reads and writes n elements.
template <class From, class To>
__device__ void convert(const From* from, To* to, Size n) {
    const Size whole = is_aligned(from) && is_aligned(to) ? n / 8 * 8 : 0;
    for (Size i = grid_index() * 8; i < whole; i += grid_stride() * 8) {
        float values[8];
        load_eight(from, i, values);
        store_eight(to, i, values);
    }
    for (Size i = whole + grid_index(); i < n; i += grid_stride()) store(to, i, load(from, i));
}
KERNEL convert_f32_bf16(const float* from, bf16* to, Size n) { convert(from, to, n); }
KERNEL convert_bf16_f32(const bf16* from, float* to, Size n) { convert(from, to, n); }

// y = a + b; 3 n elements moved.
template <class T>
__device__ void add(const T* a, const T* b, T* y, Size n) {
    zip(a, b, y, n, [](float a, float b) { return a + b; });
}
KERNEL add_f32(const float* a, const float* b, float* y, Size n) { add(a, b, y, n); }
KERNEL add_bf16(const bf16* a, const bf16* b, bf16* y, Size n) { add(a, b, y, n); }

// y = factor * a; 2 n elements moved.
template <class T>
__device__ void scale(const T* a, T* y, float factor, Size n) {
    map(a, y, n, [=](float a) { return factor * a; });
}
KERNEL scale_f32(const float* a, float* y, float factor, Size n) { scale(a, y, factor, n); }
KERNEL scale_bf16(const bf16* a, bf16* y, float factor, Size n) { scale(a, y, factor, n); }

// The sums over the rows of a (rows, columns) matrix whose rows begin `stride` elements apart: one row of `partial` for
// each blockIdx.y, which a second launch adds up. Reads rows * columns elements. `packed`: rows are whole packs.
template <class T>
__device__ void column_sums(
    const T* __restrict__ matrix, float* __restrict__ partial, Size stride, Size rows, Size columns, Size rows_per_block,
    Size packed) {
    const auto nothing = [](Size) {};
    const auto add = [=](auto width) {
        constexpr int V = decltype(width)::value;
        by_columns<V, 1>(rows, columns, rows_per_block, partial, nothing, [=](Size row, Size column, float sums[1][V]) {
            float values[V];
            load_values<V>(matrix, row * stride + column, values);
#pragma unroll
            for (int k = 0; k < V; ++k) sums[0][k] += values[k];
        });
    };
    packed ? add(Constant<Pack<T>::count>()) : add(Constant<1>());
}
KERNEL column_sums_f32(
    const float* matrix, float* partial, Size stride, Size rows, Size columns, Size rows_per_block, Size packed) {
    column_sums(matrix, partial, stride, rows, columns, rows_per_block, packed);
}
KERNEL column_sums_bf16(
    const bf16* matrix, float* partial, Size stride, Size rows, Size columns, Size rows_per_block, Size packed) {
    column_sums(matrix, partial, stride, rows, columns, rows_per_block, packed);
}

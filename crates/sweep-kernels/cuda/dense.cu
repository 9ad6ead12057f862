// Activations, layer norm, factors per channel, stochastic depth, tokens, residual branches, and changes of layout. Products
// of matrices are cuBLAS'. All kernels here are bound by memory: the bytes stand at each of them.
#include "columns.cuh"

// ---- Activations ----

// 1 / (1 + e^-x) in 5 instructions.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Distribution function and density of the standard normal distribution in 18 instructions, among them one exponential
// and one reciprocal: `erff` and `expf` together take twice as many, and a GELU with them is bound by arithmetic. The upper
// tail is t e^(-a²/2) times a polynomial in t = 1 / (1 + 0.35 a), a = |x|, whose coefficients are those of
// src/element.rs, with a relative error of 4e-7 and the errors of the approximate instructions (about 1e-6 where |x| < 5).
// Differences from 1 are never fused with a product, so that slopes have the same bits in every kernel.
struct Normal {
    float distribution, density;
};
__device__ __forceinline__ Normal normal(float x) {
    const float a = fabsf(x);
    const float gauss = __expf(-0.5f * a * a);
    const float t = __fdividef(1.0f, fmaf(a, 0.35f, 1.0f));
    float p = -0.029679522f;
    p = fmaf(p, t, 0.14654583f);
    p = fmaf(p, t, -0.26096123f);
    p = fmaf(p, t, 0.165051f);
    p = fmaf(p, t, -0.027046608f);
    p = fmaf(p, t, 0.10711459f);
    p = fmaf(p, t, 0.119444914f);
    p = fmaf(p, t, 0.1399123f);
    p = fmaf(p, t, 0.13961871f);
    const float tail = p * t * gauss;
    return {x < 0.0f ? tail : __fsub_rn(1.0f, tail), 0.39894228f * gauss};
}

struct Gelu {
    static __device__ __forceinline__ float value(float x) { return x * normal(x).distribution; }
    static __device__ __forceinline__ float slope(float x) {
        const Normal n = normal(x);
        return fmaf(x, n.density, n.distribution);
    }
};
struct QuickGelu {
    static constexpr float steepness = 1.702f;
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(steepness * x); }
    static __device__ __forceinline__ float slope(float x) {
        const float s = sigmoid(steepness * x);
        return fmaf(x * steepness * s, __fsub_rn(1.0f, s), s);
    }
};
struct Relu {
    // A comparison with NaN is false: NaN stays.
    static __device__ __forceinline__ float value(float x) { return x < 0.0f ? 0.0f : x; }
    static __device__ __forceinline__ float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};

// y = A(x), also in place; 2 n elements moved.
template <class A, class T>
__device__ void activate(const T* x, T* y, Size n) {
    map(x, y, n, [](float x) { return A::value(x); });
}

// dz = dy A'(z); 3 n elements moved.
template <class A, class T>
__device__ void activate_backward(const T* z, const T* dy, T* dz, Size n) {
    zip(z, dy, dz, n, [](float z, float dy) { return dy * A::slope(z); });
}

// The same, and the sums of dz over the rows for the gradient of a bias, which cost no further pass; 3 n elements moved.
template <class A, class T>
__device__ void activate_backward_sums(
    const T* __restrict__ z, const T* __restrict__ dy, T* __restrict__ dz, float* __restrict__ partial, Size rows,
    Size columns, Size rows_per_block, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        const auto nothing = [](Size) {};
        by_columns<V, 1>(rows, columns, rows_per_block, partial, nothing, [=](Size row, Size column, float sums[1][V]) {
            float before[V], gradient[V];
            load_values<V>(z, row * columns + column, before);
            load_values<V>(dy, row * columns + column, gradient);
#pragma unroll
            for (int k = 0; k < V; ++k) {
                gradient[k] *= A::slope(before[k]);
                sums[0][k] += gradient[k];
            }
            store_values<V>(dz, row * columns + column, gradient);
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}

#define ACTIVATION_OF(A, name, T, suffix)                                                                             \
    KERNEL name##_##suffix(const T* x, T* y, Size n) { activate<A>(x, y, n); }                                        \
    KERNEL name##_backward_##suffix(const T* z, const T* dy, T* dz, Size n) { activate_backward<A>(z, dy, dz, n); }   \
    KERNEL name##_backward_sums_##suffix(                                                                             \
        const T* z, const T* dy, T* dz, float* partial, Size rows, Size columns, Size rows_per_block, Size packed) {  \
        activate_backward_sums<A>(z, dy, dz, partial, rows, columns, rows_per_block, packed);                         \
    }
#define ACTIVATION(A, name)             \
    ACTIVATION_OF(A, name, float, f32)  \
    ACTIVATION_OF(A, name, bf16, bf16)
ACTIVATION(Gelu, gelu)
ACTIVATION(QuickGelu, quick_gelu)
ACTIVATION(Relu, relu)

// ---- Residual branches ----

// y = max(a + b, 0), where NaN stays; 3 n elements moved.
template <class T>
__device__ void add_relu(const T* a, const T* b, T* y, Size n) {
    zip(a, b, y, n, [](float a, float b) { return Relu::value(a + b); });
}
KERNEL add_relu_f32(const float* a, const float* b, float* y, Size n) { add_relu(a, b, y, n); }
KERNEL add_relu_bf16(const bf16* a, const bf16* b, bf16* y, Size n) { add_relu(a, b, y, n); }

// dx = dy where y is positive (or NaN), else 0; 3 n elements moved.
template <class T>
__device__ void where_positive(const T* y, const T* dy, T* dx, Size n) {
    zip(y, dy, dx, n, [](float y, float dy) { return y <= 0.0f ? 0.0f : dy; });
}
KERNEL where_positive_f32(const float* y, const float* dy, float* dx, Size n) { where_positive(y, dy, dx, n); }
KERNEL where_positive_bf16(const bf16* y, const bf16* dy, bf16* dx, Size n) { where_positive(y, dy, dx, n); }

// ---- What is added or multiplied per column ----

// y = z + bias in every row, where the product could not add it; z may be y where both are F32. Reads and writes n elements.
template <class T>
__device__ void add_bias(
    const float* z, const float* __restrict__ bias, T* y, Size rows, Size columns, Size rows_per_block, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        float b[V];
        const auto prepare = [&](Size column) { load_parameters<V>(bias, column, b); };
        by_columns<V, 0>(rows, columns, rows_per_block, nullptr, prepare, [&](Size row, Size column, float (&)[1][V]) {
            float values[V];
            load_parameters<V>(z, row * columns + column, values);
#pragma unroll
            for (int k = 0; k < V; ++k) values[k] += b[k];
            store_values<V>(y, row * columns + column, values);
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}
KERNEL add_bias_f32(
    const float* z, const float* bias, float* y, Size rows, Size columns, Size rows_per_block, Size packed) {
    add_bias(z, bias, y, rows, columns, rows_per_block, packed);
}
KERNEL add_bias_bf16(
    const float* z, const float* bias, bf16* y, Size rows, Size columns, Size rows_per_block, Size packed) {
    add_bias(z, bias, y, rows, columns, rows_per_block, packed);
}

// y = x gamma in every row; 2 n elements moved. With SUMS, x is the gradient dy, and the sums of `input` dy over the rows
// are the gradient of gamma: 3 n elements.
template <int SUMS, class T>
__device__ void scale_columns(
    const T* __restrict__ x, const float* __restrict__ gamma, T* __restrict__ y, const T* __restrict__ input,
    float* __restrict__ partial, Size rows, Size columns, Size rows_per_block, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        float factors[V];
        const auto prepare = [&](Size column) { load_parameters<V>(gamma, column, factors); };
        by_columns<V, SUMS>(
            rows, columns, rows_per_block, partial, prepare, [&](Size row, Size column, float (&sums)[SUMS > 0 ? SUMS : 1][V]) {
                float values[V];
                load_values<V>(x, row * columns + column, values);
                if constexpr (SUMS > 0) {
                    float inputs[V];
                    load_values<V>(input, row * columns + column, inputs);
#pragma unroll
                    for (int k = 0; k < V; ++k) sums[0][k] += values[k] * inputs[k];
                }
#pragma unroll
                for (int k = 0; k < V; ++k) values[k] *= factors[k];
                store_values<V>(y, row * columns + column, values);
            });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}
#define LAYER_SCALE(T, suffix)                                                                                           \
    KERNEL layer_scale_##suffix(                                                                                         \
        const T* x, const float* gamma, T* y, Size rows, Size columns, Size rows_per_block, Size packed) {               \
        scale_columns<0, T>(x, gamma, y, nullptr, nullptr, rows, columns, rows_per_block, packed);                       \
    }                                                                                                                    \
    KERNEL layer_scale_backward_sums_##suffix(                                                                           \
        const T* dy, const float* gamma, T* dx, const T* x, float* partial, Size rows, Size columns, Size rows_per_block, \
        Size packed) {                                                                                                   \
        scale_columns<1, T>(dy, gamma, dx, x, partial, rows, columns, rows_per_block, packed);                           \
    }
LAYER_SCALE(float, f32)
LAYER_SCALE(bf16, bf16)

// ---- Layer norm ----
//
// `lanes` threads of a warp (a power of two) hold one row in registers, K packs of 16 bytes each, as they were loaded: the
// row is read once, and unpacked as often as it is used. Rows are whole packs and at most K * lanes of them.

__device__ __forceinline__ void unpack(const uint4& raw, const float*, float out[4]) {
    out[0] = __uint_as_float(raw.x), out[1] = __uint_as_float(raw.y);
    out[2] = __uint_as_float(raw.z), out[3] = __uint_as_float(raw.w);
}
__device__ __forceinline__ void unpack(const uint4& raw, const bf16*, float out[8]) {
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        out[2 * k] = __uint_as_float(words[k] << 16);
        out[2 * k + 1] = __uint_as_float(words[k] & 0xffff0000u);
    }
}

// The sum over the threads that hold one row. All lanes of the warp must call it.
__device__ __forceinline__ float row_sum(float v, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
    return v;
}

// Where the threads of a block find their row.
struct RowOfThread {
    Size row;
    int lane, lanes;
    bool exists;
    __device__ __forceinline__ RowOfThread(Size rows, Size lanes) : lanes(static_cast<int>(lanes)) {
        row = static_cast<Size>(blockIdx.x) * (blockDim.x / this->lanes) + threadIdx.x / this->lanes;
        lane = threadIdx.x & (this->lanes - 1);
        exists = row < rows;
    }
};

template <int K, class T>
__device__ __forceinline__ void load_row(const T* x, const RowOfThread& at, int width, uint4 raw[K]) {
    constexpr int count = Pack<T>::count;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int column = (at.lane + k * at.lanes) * count;
        raw[k] = make_uint4(0, 0, 0, 0);
        if (at.exists && column < width) raw[k] = *reinterpret_cast<const uint4*>(x + at.row * width + column);
    }
}

// y = (x - mean) reciprocal weight + bias; `moments`, if wanted, receives (mean, reciprocal) of each row. Reads and writes n
// elements, and weight and bias from the cache.
template <int K, class T>
__device__ void layer_norm(
    const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, T* __restrict__ y,
    float* __restrict__ moments, Size rows, Size columns, Size lanes, float stability) {
    constexpr int count = Pack<T>::count;
    const RowOfThread at(rows, lanes);
    const int width = static_cast<int>(columns);
    uint4 raw[K];
    load_row<K>(x, at, width, raw);
    float values[count], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        unpack(raw[k], x, values);
#pragma unroll
        for (int i = 0; i < count; ++i) sum += values[i];
    }
    const float mean = row_sum(sum, at.lanes) / width;
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        unpack(raw[k], x, values);
        if ((at.lane + k * at.lanes) * count < width) {
#pragma unroll
            for (int i = 0; i < count; ++i) squares += (values[i] - mean) * (values[i] - mean);
        }
    }
    const float reciprocal = 1.0f / sqrtf(row_sum(squares, at.lanes) / width + stability);
    if (!at.exists) return;
    if (moments && at.lane == 0) moments[2 * at.row] = mean, moments[2 * at.row + 1] = reciprocal;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int column = (at.lane + k * at.lanes) * count;
        if (column < width) {
            float w[count], b[count];
            load_parameters<count>(weight, column, w);
            load_parameters<count>(bias, column, b);
            unpack(raw[k], x, values);
#pragma unroll
            for (int i = 0; i < count; ++i) values[i] = fmaf((values[i] - mean) * reciprocal, w[i], b[i]);
            store_pack(y, at.row * width + column, values);
        }
    }
}

// With n the normalised row and g = dy weight: dx = (g - mean(g) - n mean(g n)) reciprocal. Reads 2 n elements and writes n.
template <int K, class T>
__device__ void layer_norm_backward(
    const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ weight, const float* __restrict__ moments,
    T* __restrict__ dx, Size rows, Size columns, Size lanes) {
    constexpr int count = Pack<T>::count;
    const RowOfThread at(rows, lanes);
    const int width = static_cast<int>(columns);
    uint4 raw[K], raw_gradient[K];
    load_row<K>(x, at, width, raw);
    load_row<K>(dy, at, width, raw_gradient);
    const float mean = at.exists ? moments[2 * at.row] : 0.0f, reciprocal = at.exists ? moments[2 * at.row + 1] : 0.0f;
    float values[count], gradient[count], w[count], offset = 0.0f, slope = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int column = (at.lane + k * at.lanes) * count;
        if (column < width) {
            load_parameters<count>(weight, column, w);
            unpack(raw[k], x, values);
            unpack(raw_gradient[k], x, gradient);
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const float g = gradient[i] * w[i];
                offset += g;
                slope += g * ((values[i] - mean) * reciprocal);
            }
        }
    }
    offset = row_sum(offset, at.lanes) / width;
    slope = row_sum(slope, at.lanes) / width;
    if (!at.exists) return;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        const int column = (at.lane + k * at.lanes) * count;
        if (column < width) {
            load_parameters<count>(weight, column, w);
            unpack(raw[k], x, values);
            unpack(raw_gradient[k], x, gradient);
#pragma unroll
            for (int i = 0; i < count; ++i)
                values[i] = reciprocal * (gradient[i] * w[i] - offset - (values[i] - mean) * reciprocal * slope);
            store_pack(dx, at.row * width + column, values);
        }
    }
}

#define LAYER_NORM_OF(K, T, suffix)                                                                                      \
    KERNEL layer_norm_##K##_##suffix(                                                                                    \
        const T* x, const float* weight, const float* bias, T* y, float* moments, Size rows, Size columns, Size lanes,   \
        float stability) {                                                                                               \
        layer_norm<K>(x, weight, bias, y, moments, rows, columns, lanes, stability);                                     \
    }                                                                                                                    \
    KERNEL layer_norm_backward_##K##_##suffix(                                                                           \
        const T* x, const T* dy, const float* weight, const float* moments, T* dx, Size rows, Size columns, Size lanes) { \
        layer_norm_backward<K>(x, dy, weight, moments, dx, rows, columns, lanes);                                        \
    }
#define LAYER_NORM(K)             \
    LAYER_NORM_OF(K, float, f32)  \
    LAYER_NORM_OF(K, bf16, bf16)
LAYER_NORM(1)
LAYER_NORM(2)
LAYER_NORM(3)
LAYER_NORM(4)
LAYER_NORM(6)
LAYER_NORM(8)
LAYER_NORM(16)

// The same for rows of any width: a block per row, which reads it from memory once and twice more from the cache.
template <class T>
__device__ void layer_norm_any(
    const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ bias, T* __restrict__ y,
    float* __restrict__ moments, Size columns, float stability) {
    const Size row = blockIdx.x, start = row * columns;
    float sum = 0.0f, squares = 0.0f;
    for (Size i = threadIdx.x; i < columns; i += blockDim.x) sum += load(x, start + i);
    const float mean = block_sum(sum) / columns;
    for (Size i = threadIdx.x; i < columns; i += blockDim.x) {
        const float centred = load(x, start + i) - mean;
        squares += centred * centred;
    }
    const float reciprocal = 1.0f / sqrtf(block_sum(squares) / columns + stability);
    if (moments && threadIdx.x == 0) moments[2 * row] = mean, moments[2 * row + 1] = reciprocal;
    for (Size i = threadIdx.x; i < columns; i += blockDim.x)
        store(y, start + i, fmaf((load(x, start + i) - mean) * reciprocal, weight[i], bias[i]));
}
template <class T>
__device__ void layer_norm_backward_any(
    const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ weight, const float* __restrict__ moments,
    T* __restrict__ dx, Size columns) {
    const Size row = blockIdx.x, start = row * columns;
    const float mean = moments[2 * row], reciprocal = moments[2 * row + 1];
    float offset = 0.0f, slope = 0.0f;
    for (Size i = threadIdx.x; i < columns; i += blockDim.x) {
        const float g = load(dy, start + i) * weight[i];
        offset += g;
        slope += g * ((load(x, start + i) - mean) * reciprocal);
    }
    offset = block_sum(offset) / columns;
    slope = block_sum(slope) / columns;
    for (Size i = threadIdx.x; i < columns; i += blockDim.x) {
        const float n = (load(x, start + i) - mean) * reciprocal;
        store(dx, start + i, reciprocal * (load(dy, start + i) * weight[i] - offset - n * slope));
    }
}

// The gradients of weight and bias: the sums of dy n and of dy over the rows. Reads 2 n elements.
template <class T>
__device__ void layer_norm_sums(
    const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ moments, float* __restrict__ partial,
    Size rows, Size columns, Size rows_per_block, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        const auto nothing = [](Size) {};
        by_columns<V, 2>(rows, columns, rows_per_block, partial, nothing, [=](Size row, Size column, float (&sums)[2][V]) {
            float values[V], gradient[V];
            load_values<V>(x, row * columns + column, values);
            load_values<V>(dy, row * columns + column, gradient);
            const float mean = moments[2 * row], reciprocal = moments[2 * row + 1];
#pragma unroll
            for (int k = 0; k < V; ++k) {
                sums[0][k] += gradient[k] * ((values[k] - mean) * reciprocal);
                sums[1][k] += gradient[k];
            }
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}
#define LAYER_NORM_ANY(T, suffix)                                                                                       \
    KERNEL layer_norm_any_##suffix(                                                                                     \
        const T* x, const float* weight, const float* bias, T* y, float* moments, Size columns, float stability) {      \
        layer_norm_any(x, weight, bias, y, moments, columns, stability);                                                \
    }                                                                                                                   \
    KERNEL layer_norm_backward_any_##suffix(                                                                            \
        const T* x, const T* dy, const float* weight, const float* moments, T* dx, Size columns) {                      \
        layer_norm_backward_any(x, dy, weight, moments, dx, columns);                                                   \
    }                                                                                                                   \
    KERNEL layer_norm_sums_##suffix(                                                                                    \
        const T* x, const T* dy, const float* moments, float* partial, Size rows, Size columns, Size rows_per_block,    \
        Size packed) {                                                                                                  \
        layer_norm_sums(x, dy, moments, partial, rows, columns, rows_per_block, packed);                                \
    }
LAYER_NORM_ANY(float, f32)
LAYER_NORM_ANY(bf16, bf16)

// ---- Stochastic depth ----

// One step of the SplitMix64 generator, as in src/tape.rs.
__device__ __forceinline__ unsigned long long mixed(unsigned long long value) {
    unsigned long long z = value + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// y = x times a factor for each image: factor(image). 2 n elements moved.
template <class T, class Factor>
__device__ __forceinline__ void scale_images(const T* x, T* y, Size images, Size per_image, Size packed, Factor factor) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        by_images<V>(images, per_image, [=](Size image, Size i) {
            float values[V];
            load_values<V>(x, image * per_image + i, values);
            const float scale = factor(image);
#pragma unroll
            for (int k = 0; k < V; ++k) values[k] *= scale;
            store_values<V>(y, image * per_image + i, values);
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}

// Draws the factors, 0 or `kept`, and keeps them for the backward pass. An image stays if the upper 53 bits of its random
// number are at least `threshold`.
template <class T>
__device__ void stochastic_depth(
    const T* x, T* y, float* factors, Size images, Size per_image, Size packed, Size key, Size threshold, float kept) {
    const bool keeps = blockIdx.x == 0 && threadIdx.x == 0;
    scale_images(x, y, images, per_image, packed, [=](Size image) {
        const unsigned long long bits = mixed(static_cast<unsigned long long>(key) + static_cast<unsigned long long>(image));
        const float factor = static_cast<Size>(bits >> 11) >= threshold ? kept : 0.0f;
        if (keeps) factors[image] = factor;
        return factor;
    });
}
#define STOCHASTIC_DEPTH(T, suffix)                                                                                     \
    KERNEL stochastic_depth_##suffix(                                                                                   \
        const T* x, T* y, float* factors, Size images, Size per_image, Size packed, Size key, Size threshold,           \
        float kept) {                                                                                                   \
        stochastic_depth(x, y, factors, images, per_image, packed, key, threshold, kept);                               \
    }                                                                                                                   \
    KERNEL stochastic_depth_backward_##suffix(                                                                          \
        const T* dy, T* dx, const float* factors, Size images, Size per_image, Size packed) {                           \
        scale_images(dy, dx, images, per_image, packed, [=](Size image) { return factors[image]; });                    \
    }
STOCHASTIC_DEPTH(float, f32)
STOCHASTIC_DEPTH(bf16, bf16)

// ---- Tokens ----

// (N, L, width) -> (N, L + 1, width): the class token in front, positions added. Reads and writes n elements; the positions,
// `per_image` = (L + 1) width numbers, come from the cache. `packed`: tokens are whole packs.
template <class T>
__device__ void add_tokens(
    const T* __restrict__ x, const float* __restrict__ class_token, const float* __restrict__ positions, T* __restrict__ y,
    Size images, Size per_image, Size token, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        by_images<V>(images, per_image, [=](Size image, Size i) {
            float values[V], position[V];
            if (i < token)
                load_parameters<V>(class_token, i, values);
            else
                load_values<V>(x, image * (per_image - token) + i - token, values);
            load_parameters<V>(positions, i, position);
#pragma unroll
            for (int k = 0; k < V; ++k) values[k] += position[k];
            store_values<V>(y, image * per_image + i, values);
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}

// y[image] = x[image][first .. first + taken], where images of x have `per_image` elements; 2 n elements moved.
template <class T>
__device__ void take_part(
    const T* __restrict__ x, T* __restrict__ y, Size images, Size per_image, Size first, Size taken, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        by_images<V>(images, taken, [=](Size image, Size i) {
            float values[V];
            load_values<V>(x, image * per_image + first + i, values);
            store_values<V>(y, image * taken + i, values);
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}

// The way back: dx[image] is 0 but for the part that was taken; writes n elements.
template <class T>
__device__ void take_part_backward(
    const T* __restrict__ dy, T* __restrict__ dx, Size images, Size per_image, Size first, Size taken, Size packed) {
    const auto run = [=](auto width) {
        constexpr int V = decltype(width)::value;
        by_images<V>(images, per_image, [=](Size image, Size i) {
            float values[V] = {};
            if (i >= first && i < first + taken) load_values<V>(dy, image * taken + i - first, values);
            store_values<V>(dx, image * per_image + i, values);
        });
    };
    packed ? run(Constant<Pack<T>::count>()) : run(Constant<1>());
}
#define TOKENS(T, suffix)                                                                                                \
    KERNEL add_tokens_##suffix(                                                                                          \
        const T* x, const float* class_token, const float* positions, T* y, Size images, Size per_image, Size token,     \
        Size packed) {                                                                                                   \
        add_tokens(x, class_token, positions, y, images, per_image, token, packed);                                      \
    }                                                                                                                    \
    KERNEL take_part_##suffix(const T* x, T* y, Size images, Size per_image, Size first, Size taken, Size packed) {      \
        take_part(x, y, images, per_image, first, taken, packed);                                                        \
    }                                                                                                                    \
    KERNEL take_part_backward_##suffix(                                                                                  \
        const T* dy, T* dx, Size images, Size per_image, Size first, Size taken, Size packed) {                          \
        take_part_backward(dy, dx, images, per_image, first, taken, packed);                                             \
    }
TOKENS(float, f32)
TOKENS(bf16, bf16)

// ---- Layout: planes of channels and channels side by side ----

// Blocks of the transpositions have 256 threads and hold a tile of this many pixels by all of at most 16 channels, or of 32
// pixels by 32 channels.
constexpr int PIXELS = 256;
constexpr int FEW_CHANNELS = 16;

// Elements from one channel to the next in shared memory: 32 values that are neighbours in the output (all channels of a
// pixel, then of the next) lie in 32 banks.
__device__ __forceinline__ int channel_stride(int channels) { return PIXELS + (WARP + channels - 1) / channels; }
constexpr int FEW_CHANNELS_SHARED = FEW_CHANNELS * (PIXELS + 1) + WARP;

// (images, channels, pixels) -> (images, pixels, channels) for few channels, as images have: planes are read and pixels
// written in one run each. Block (x, y): pixels 256 x .., image y. 2 n elements moved.
template <class T>
__device__ void few_channels_last(const T* __restrict__ x, T* __restrict__ y, Size images, Size channels, Size pixels) {
    __shared__ float tile[FEW_CHANNELS_SHARED];
    const int planes = static_cast<int>(channels), stride = channel_stride(planes), column = threadIdx.x;
    const Size first = static_cast<Size>(blockIdx.x) * PIXELS;
    const int here = static_cast<int>(pixels - first < PIXELS ? pixels - first : PIXELS);
    for (Size image = blockIdx.y; image < images; image += gridDim.y) {
        const Size start = image * channels * pixels;
        for (int c = 0; c < planes; ++c)
            if (column < here) tile[c * stride + column] = load(x, start + c * pixels + first + column);
        __syncthreads();
        for (int i = threadIdx.x; i < here * planes; i += PIXELS)
            store(y, start + first * channels + i, tile[i % planes * stride + i / planes]);
        __syncthreads();
    }
}

// The way back.
template <class T>
__device__ void few_channels_first(const T* __restrict__ x, T* __restrict__ y, Size images, Size channels, Size pixels) {
    __shared__ float tile[FEW_CHANNELS_SHARED];
    const int planes = static_cast<int>(channels), stride = channel_stride(planes), column = threadIdx.x;
    const Size first = static_cast<Size>(blockIdx.x) * PIXELS;
    const int here = static_cast<int>(pixels - first < PIXELS ? pixels - first : PIXELS);
    for (Size image = blockIdx.y; image < images; image += gridDim.y) {
        const Size start = image * channels * pixels;
        for (int i = threadIdx.x; i < here * planes; i += PIXELS)
            tile[i % planes * stride + i / planes] = load(x, start + first * channels + i);
        __syncthreads();
        for (int c = 0; c < planes; ++c)
            if (column < here) store(y, start + c * pixels + first + column, tile[c * stride + column]);
        __syncthreads();
    }
}

// (images, rows, columns) -> (images, columns, rows) in tiles of 32 x 32, by blocks of 32 x 8 threads. Block (x, y, z):
// tile x of all tiles of an image, images y .. . 2 n elements moved.
template <class T>
__device__ void transpose(const T* __restrict__ x, T* __restrict__ y, Size images, Size rows, Size columns) {
    __shared__ float tile[WARP][WARP + 1];
    const unsigned across = static_cast<unsigned>((columns + WARP - 1) / WARP);
    const Size row = static_cast<Size>(blockIdx.x / across) * WARP, column = static_cast<Size>(blockIdx.x % across) * WARP;
    for (Size image = blockIdx.y; image < images; image += gridDim.y) {
        const Size start = image * rows * columns;
        for (int k = threadIdx.y; k < WARP; k += 8)
            if (row + k < rows && column + threadIdx.x < columns)
                tile[k][threadIdx.x] = load(x, start + (row + k) * columns + column + threadIdx.x);
        __syncthreads();
        for (int k = threadIdx.y; k < WARP; k += 8)
            if (column + k < columns && row + threadIdx.x < rows)
                store(y, start + (column + k) * rows + row + threadIdx.x, tile[threadIdx.x][k]);
        __syncthreads();
    }
}
#define LAYOUT(T, suffix)                                                                           \
    KERNEL few_channels_last_##suffix(const T* x, T* y, Size images, Size channels, Size pixels) {  \
        few_channels_last(x, y, images, channels, pixels);                                          \
    }                                                                                               \
    KERNEL few_channels_first_##suffix(const T* x, T* y, Size images, Size channels, Size pixels) { \
        few_channels_first(x, y, images, channels, pixels);                                         \
    }                                                                                               \
    KERNEL transpose_##suffix(const T* x, T* y, Size images, Size rows, Size columns) {             \
        transpose(x, y, images, rows, columns);                                                     \
    }
LAYOUT(float, f32)
LAYOUT(bf16, bf16)

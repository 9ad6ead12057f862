// Batch normalisation over the rows of a (rows, channels) matrix, with an optional rectifier. All kernels are bound by
// memory; a thread keeps the constants of its channels in registers and walks down the rows.
//
// The line `slope x + offset` is computed by the same instructions forwards and backwards, so that the rectifier cuts the
// same elements in both.
#include "maps.cuh"

// What maps the `COUNT` channels of a thread.
template <int COUNT>
struct Line {
    float mean[COUNT], reciprocal[COUNT], slope[COUNT], offset[COUNT];
    __device__ __forceinline__ Line(const float* means, const float* variances, const float* weight, const float* bias,
                                    float stability, Size channel) {
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            mean[k] = means[channel + k];
            reciprocal[k] = 1.0f / sqrtf(variances[channel + k] + stability);
            slope[k] = weight[channel + k] * reciprocal[k];
            offset[k] = fmaf(-mean[k], slope[k], bias[channel + k]);
        }
    }
    __device__ __forceinline__ float at(int k, float x) const { return fmaf(x, slope[k], offset[k]); }
};

// Joins mean and sum of squared deviations of `other_count` more values to those of `count` values (Chan, Golub and
// LeVeque 1979).
__device__ __forceinline__ void join(float& count, float& mean, float& squares, float other_count, float other_mean,
                                     float other_squares) {
    if (other_count == 0.0f) return;
    const float total = count + other_count, step = other_mean - mean;
    mean = fmaf(step, other_count / total, mean);
    squares += other_squares + step * step * (count * other_count / total);
    count = total;
}

// Means and sums of squared deviations of the channels in blocks of rows: one row of `means` and `squares` for each block.
// Reads every element once; 3 operations on each. A thread measures from the first value it sees, which lies so near the
// mean that nothing cancels.
template <class T, int COUNT>
__device__ void block_spread(const T* __restrict__ x, float* means, float* all_squares, Size rows, Size channels,
                             Size per_block) {
    const Walk<COUNT> walk(rows, channels, per_block);
    float origin[COUNT], sum[COUNT], squares[COUNT], mean[COUNT];
    float seen = 0.0f;
#pragma unroll
    for (int k = 0; k < COUNT; ++k) origin[k] = sum[k] = squares[k] = mean[k] = 0.0f;
    if (walk.is_inside && walk.row < walk.end) {
        load_some<COUNT>(x, walk.row * channels + walk.channel, origin);
#pragma unroll 4
        for (Size row = walk.row; row < walk.end; row += blockDim.y) {
            float v[COUNT];
            load_some<COUNT>(x, row * channels + walk.channel, v);
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                const float distance = v[k] - origin[k];
                sum[k] += distance;
                squares[k] = fmaf(distance, distance, squares[k]);
            }
            seen += 1.0f;
        }
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            mean[k] = origin[k] + sum[k] / seen;
            squares[k] = fmaxf(squares[k] - sum[k] * sum[k] / seen, 0.0f);
        }
    }
    __shared__ float counts[THREADS], parts[2][THREADS * COUNT];
    const int at = (threadIdx.y * blockDim.x + threadIdx.x) * COUNT;
    for (unsigned width = blockDim.y; width > 0; width /= 2) {
        // The rows of threads from `width` on were joined to those before; those from `width / 2` on are next.
        if (threadIdx.y < width) {
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                parts[0][at + k] = mean[k];
                parts[1][at + k] = squares[k];
            }
            counts[at / COUNT] = seen;
        }
        __syncthreads();
        if (threadIdx.y < width / 2) {
            const int other = at + width / 2 * blockDim.x * COUNT;
            float joined = seen;
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                joined = seen;
                join(joined, mean[k], squares[k], counts[other / COUNT], parts[0][other + k], parts[1][other + k]);
            }
            seen = joined;
        }
        __syncthreads();
    }
    if (threadIdx.y == 0 && walk.is_inside) {
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            means[blockIdx.y * channels + walk.channel + k] = mean[k];
            all_squares[blockIdx.y * channels + walk.channel + k] = squares[k];
        }
    }
}
#define BLOCK_SPREAD(T, suffix)                                                                                        \
    KERNEL batch_norm_spread_##suffix(const T* x, float* means, float* squares, Size rows, Size channels,              \
                                      Size per_block, Size packed) {                                                   \
        if (packed) block_spread<T, Pack<T>::count>(x, means, squares, rows, channels, per_block);                     \
        else block_spread<T, 1>(x, means, squares, rows, channels, per_block);                                         \
    }
BLOCK_SPREAD(float, f32)
BLOCK_SPREAD(bf16, bf16)

// Joins what `batch_norm_spread` found in `blocks` blocks, always in the same order. Writes to `moments` mean, biased
// variance and unbiased variance, each `distance` elements after the one before. Blocks of 32 x 32 threads, 32 channels.
KERNEL __launch_bounds__(1024, 1) batch_norm_moments(const float* means, const float* all_squares, float* moments, Size blocks, Size rows,
                          Size channels, Size per_block, Size distance) {
    __shared__ float parts[3][WARP][WARP + 1];
    const Size channel = static_cast<Size>(blockIdx.x) * WARP + threadIdx.x;
    const int x = threadIdx.x, y = threadIdx.y;
    float count = 0.0f, mean = 0.0f, squares = 0.0f;
    if (channel < channels) {
        for (Size block = y; block < blocks; block += WARP) {
            const Size first = block * per_block;
            const Size end = first + per_block < rows ? first + per_block : rows;
            if (first < end)
                join(count, mean, squares, static_cast<float>(end - first), means[block * channels + channel],
                     all_squares[block * channels + channel]);
        }
    }
    for (int width = WARP; width > 0; width /= 2) {
        if (y < width) {
            parts[0][y][x] = count;
            parts[1][y][x] = mean;
            parts[2][y][x] = squares;
        }
        __syncthreads();
        if (y < width / 2) {
            const int other = y + width / 2;
            join(count, mean, squares, parts[0][other][x], parts[1][other][x], parts[2][other][x]);
        }
        __syncthreads();
    }
    if (y == 0 && channel < channels) {
        moments[channel] = mean;
        moments[distance + channel] = squares / count;
        moments[2 * distance + channel] = squares / (count - 1.0f);
    }
}

// y = slope x + offset, rectified where `relu` is set. Reads and writes every element once.
template <class T, int COUNT>
__device__ void normalise(const T* __restrict__ x, T* __restrict__ y, const float* means, const float* variances,
                          const float* weight, const float* bias, float stability, Size relu, Size rows, Size channels,
                          Size per_block) {
    const Walk<COUNT> walk(rows, channels, per_block);
    if (!walk.is_inside) return;
    const Line<COUNT> line(means, variances, weight, bias, stability, walk.channel);
#pragma unroll 4
    for (Size row = walk.row; row < walk.end; row += blockDim.y) {
        const Size i = row * channels + walk.channel;
        float v[COUNT];
        load_some<COUNT>(x, i, v);
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            v[k] = line.at(k, v[k]);
            // NaN stays.
            if (relu && v[k] < 0.0f) v[k] = 0.0f;
        }
        store_some<COUNT>(y, i, v);
    }
}
#define NORMALISE(T, suffix)                                                                                           \
    KERNEL batch_norm_forward_##suffix(const T* x, T* y, const float* means, const float* variances,                   \
                                       const float* weight, const float* bias, float stability, Size relu, Size rows,  \
                                       Size channels, Size per_block, Size packed) {                                   \
        if (packed)                                                                                                    \
            normalise<T, Pack<T>::count>(x, y, means, variances, weight, bias, stability, relu, rows, channels,        \
                                         per_block);                                                                   \
        else normalise<T, 1>(x, y, means, variances, weight, bias, stability, relu, rows, channels, per_block);        \
    }
NORMALISE(float, f32)
NORMALISE(bf16, bf16)

// `dy` where the output `y` passed the rectifier, else 0.
__device__ __forceinline__ float gated(float y, float dy, Size relu) { return !relu || y > 0.0f ? dy : 0.0f; }

// Sums over blocks of rows of dy, and of dy times the normalised x: the gradients of bias and weight, once the rows of
// `sums` are added up. A row holds both, `distance` elements apart. Reads x and dy once.
template <class T, int COUNT>
__device__ void block_sums(const T* __restrict__ x, const T* __restrict__ dy, float* all_sums, const float* means,
                           const float* variances, const float* weight, const float* bias, float stability, Size relu,
                           Size rows, Size channels, Size per_block, Size distance) {
    const Walk<COUNT> walk(rows, channels, per_block);
    float sums[COUNT], products[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) sums[k] = products[k] = 0.0f;
    if (walk.is_inside) {
        const Line<COUNT> line(means, variances, weight, bias, stability, walk.channel);
#pragma unroll 2
        for (Size row = walk.row; row < walk.end; row += blockDim.y) {
            const Size i = row * channels + walk.channel;
            float v[COUNT], g[COUNT];
            load_some<COUNT>(x, i, v);
            load_some<COUNT>(dy, i, g);
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                const float flow = gated(line.at(k, v[k]), g[k], relu);
                sums[k] += flow;
                products[k] = fmaf(flow, (v[k] - line.mean[k]) * line.reciprocal[k], products[k]);
            }
        }
    }
    __shared__ float parts[2][THREADS * COUNT];
    const int at = (threadIdx.y * blockDim.x + threadIdx.x) * COUNT;
    for (unsigned width = blockDim.y; width > 0; width /= 2) {
        if (threadIdx.y < width) {
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                parts[0][at + k] = sums[k];
                parts[1][at + k] = products[k];
            }
        }
        __syncthreads();
        if (threadIdx.y < width / 2) {
            const int other = at + width / 2 * blockDim.x * COUNT;
#pragma unroll
            for (int k = 0; k < COUNT; ++k) {
                sums[k] += parts[0][other + k];
                products[k] += parts[1][other + k];
            }
        }
        __syncthreads();
    }
    if (threadIdx.y == 0 && walk.is_inside) {
        float* row = all_sums + blockIdx.y * 2 * distance + walk.channel;
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            row[k] = sums[k];
            row[distance + k] = products[k];
        }
    }
}
#define BLOCK_SUMS(T, suffix)                                                                                          \
    KERNEL batch_norm_sums_##suffix(const T* x, const T* dy, float* sums, const float* means, const float* variances,  \
                                    const float* weight, const float* bias, float stability, Size relu, Size rows,     \
                                    Size channels, Size per_block, Size distance, Size packed) {                       \
        if (packed)                                                                                                    \
            block_sums<T, Pack<T>::count>(x, dy, sums, means, variances, weight, bias, stability, relu, rows,          \
                                          channels, per_block, distance);                                              \
        else                                                                                                           \
            block_sums<T, 1>(x, dy, sums, means, variances, weight, bias, stability, relu, rows, channels, per_block,  \
                             distance);                                                                                \
    }
BLOCK_SUMS(float, f32)
BLOCK_SUMS(bf16, bf16)

// The input gradient: slope dy for constant moments (`sums` is null); where mean and variance are those of the batch, with
// n the normalised x, slope (dy - sum(dy) / rows - n sum(dy n) / rows). Reads x and dy once and writes dx.
template <class T, int COUNT>
__device__ void input_gradient(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, const float* sums,
                               const float* means, const float* variances, const float* weight, const float* bias,
                               float stability, Size relu, Size rows, Size channels, Size per_block, Size distance) {
    const Walk<COUNT> walk(rows, channels, per_block);
    if (!walk.is_inside) return;
    const Line<COUNT> line(means, variances, weight, bias, stability, walk.channel);
    // n = (x - mean) reciprocal, so that the last two terms are a line in x.
    float base[COUNT], tilt[COUNT];
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        base[k] = tilt[k] = 0.0f;
        if (sums) {
            const float count = static_cast<float>(rows);
            tilt[k] = sums[distance + walk.channel + k] / count * line.reciprocal[k];
            base[k] = sums[walk.channel + k] / count - tilt[k] * line.mean[k];
        }
    }
#pragma unroll 2
    for (Size row = walk.row; row < walk.end; row += blockDim.y) {
        const Size i = row * channels + walk.channel;
        float v[COUNT], g[COUNT];
        load_some<COUNT>(x, i, v);
        load_some<COUNT>(dy, i, g);
#pragma unroll
        for (int k = 0; k < COUNT; ++k) {
            const float flow = gated(line.at(k, v[k]), g[k], relu);
            g[k] = line.slope[k] * (sums ? flow - fmaf(tilt[k], v[k], base[k]) : flow);
        }
        store_some<COUNT>(dx, i, g);
    }
}
#define INPUT_GRADIENT(T, suffix)                                                                                      \
    KERNEL batch_norm_backward_##suffix(const T* x, const T* dy, T* dx, const float* sums, const float* means,         \
                                        const float* variances, const float* weight, const float* bias,                \
                                        float stability, Size relu, Size rows, Size channels, Size per_block,          \
                                        Size distance, Size packed) {                                                  \
        if (packed)                                                                                                    \
            input_gradient<T, Pack<T>::count>(x, dy, dx, sums, means, variances, weight, bias, stability, relu, rows,  \
                                              channels, per_block, distance);                                          \
        else                                                                                                           \
            input_gradient<T, 1>(x, dy, dx, sums, means, variances, weight, bias, stability, relu, rows, channels,     \
                                 per_block, distance);                                                                 \
    }
INPUT_GRADIENT(float, f32)
INPUT_GRADIENT(bf16, bf16)

// Training: losses with their gradients, and everything that goes over all parameters at once (optimizer steps, moving
// averages, running statistics, norms of gradients). All are bound by memory.
#include "common.cuh"

// One tensor of a launch over many (see src/cuda/table.rs, which writes these 96 bytes).
struct TableRow {
    // Addresses of tensors of `count` elements, in an order of the kernel's own; 0 for "none".
    unsigned long long addresses[5];
    Size count;
    // The first block that works on this row.
    Size first_chunk;
    // Whether all addresses are aligned for 4 elements at once.
    Size is_aligned;
    // Numbers that hold for the whole tensor.
    float scalars[8];
};

namespace {

// Elements that one block handles: 8 packs of 4 floats for each of its threads.
constexpr int CHUNK = 8192;

struct Larger {
    template <class Number> __device__ Number operator()(Number a, Number b) const { return a > b ? a : b; }
};
struct Sum {
    template <class Number> __device__ Number operator()(Number a, Number b) const { return a + b; }
};

// `combine` over all threads of a block of whole warps, in every thread and always in the same order. All threads must call
// it. `neutral` changes nothing.
template <class Number, class Combine>
__device__ Number block_reduce(Number value, Number neutral, Combine combine) {
    __shared__ Number parts[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        value = combine(value, __shfl_xor_sync(ALL_LANES, value, offset));
    __syncthreads();
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = lane < warps ? parts[lane] : neutral;
    for (int offset = WARP / 2; offset > 0; offset /= 2)
        value = combine(value, __shfl_xor_sync(ALL_LANES, value, offset));
    return value;
}

// losses[row] = log(sum(exp(logits))) - logits[label], gradient = softmax(logits) - one_hot(label), for the row of this block.
// Moves (sizeof(T) + 4) * classes bytes; the second and third look at a row finds it in the L1 cache. Two exponentials per
// logit. NaN among the logits makes loss and gradient NaN.
template <class T>
__device__ void cross_entropy(const T* logits, const unsigned* labels, float* losses, float* gradient, Size classes_) {
    const int classes = static_cast<int>(classes_), label = static_cast<int>(labels[blockIdx.x]);
    logits += blockIdx.x * classes_;
    gradient += blockIdx.x * classes_;
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) largest = fmaxf(largest, load(logits, i));
    largest = block_reduce(largest, -INFINITY, Larger());
    float sum = 0.0f;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) sum += expf(load(logits, i) - largest);
    sum = block_reduce(sum, 0.0f, Sum());
    const float factor = 1.0f / sum;
    for (int i = threadIdx.x; i < classes; i += blockDim.x)
        gradient[i] = expf(load(logits, i) - largest) * factor - (i == label ? 1.0f : 0.0f);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + (largest - load(logits, label));
}

// Logarithm of the sum of the exponentials of a row, and its parts: log_softmax = logit - largest - log_sum.
struct Normaliser {
    double largest, log_sum;
    __device__ double operator()(float logit) const { return logit - largest - log_sum; }
};
template <class T>
__device__ Normaliser normaliser(const T* logits, int classes) {
    double largest = -INFINITY, sum = 0.0;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) largest = fmax(largest, static_cast<double>(load(logits, i)));
    largest = block_reduce(largest, static_cast<double>(-INFINITY), Larger());
    for (int i = threadIdx.x; i < classes; i += blockDim.x) sum += exp(load(logits, i) - largest);
    sum = block_reduce(sum, 0.0, Sum());
    return {largest, log(sum)};
}

// losses[row] = sum(p (log p - log q)) and its gradients with respect to the logits of p and of q, for the row of this block.
// Moves 2 (sizeof(T) + 4) * classes bytes. In double precision, as on the CPU: near 0 the divergence is a sum of terms that
// nearly cancel. Its six exponentials per pair of logits are nothing beside the network's work.
template <class T>
__device__ void kullback_leibler(const T* clean, const T* perturbed, double* losses, float* clean_gradient,
                                 float* perturbed_gradient, Size classes_) {
    const int classes = static_cast<int>(classes_);
    const Size start = blockIdx.x * classes_;
    clean += start;
    perturbed += start;
    const Normaliser of_clean = normaliser(clean, classes), of_perturbed = normaliser(perturbed, classes);
    double loss = 0.0;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) {
        const double p = of_clean(load(clean, i)), q = of_perturbed(load(perturbed, i));
        loss += exp(p) * (p - q);
    }
    loss = block_reduce(loss, 0.0, Sum());
    for (int i = threadIdx.x; i < classes; i += blockDim.x) {
        const double p = of_clean(load(clean, i)), q = of_perturbed(load(perturbed, i));
        clean_gradient[start + i] = static_cast<float>(exp(p) * (p - q - loss));
        // Not to be contracted into the end of an exponential: equal logits have gradients of exactly 0.
        perturbed_gradient[start + i] = static_cast<float>(__dsub_rn(exp(q), exp(p)));
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

// The part of a tensor that this block works on.
struct Chunk {
    const TableRow* row;
    Size first;
    int length;

    template <class T> __device__ T* at(int tensor) const {
        T* address = reinterpret_cast<T*>(row->addresses[tensor]);
        return address == nullptr ? nullptr : address + first;
    }
};

// `table` is the first chunk of each of the `rows` rows, and then the rows. All threads of the block look for its row.
__device__ Chunk chunk_of_block(const Size* table, Size rows) {
    int before = 0;
    for (Size start = 0; start < rows; start += blockDim.x) {
        const Size i = start + threadIdx.x;
        before += __syncthreads_count(i < rows && table[i] <= static_cast<Size>(blockIdx.x));
    }
    const TableRow* row = reinterpret_cast<const TableRow*>(table + rows) + (before - 1);
    const Size first = (blockIdx.x - row->first_chunk) * CHUNK, left = row->count - first;
    return {row, first, static_cast<int>(left < CHUNK ? left : CHUNK)};
}

template <int N> struct Width {
    static constexpr int count = N;
};
template <int N> __device__ void read(const float* from, int i, float (&out)[N]) {
    if constexpr (N == 4) load_pack(from, i, out);
    else out[0] = from[i];
}
template <int N> __device__ void write(float* to, int i, const float (&in)[N]) {
    if constexpr (N == 4) store_pack(to, i, in);
    else to[i] = in[0];
}
template <int N> __device__ void write(bf16* to, int i, const float (&in)[N]) {
    if constexpr (N == 4) *reinterpret_cast<uint2*>(to + i) = make_uint2(two_bf16(in[0], in[1]), two_bf16(in[2], in[3]));
    else store(to, i, in[0]);
}

// Calls body(i, Width<n>) so that each element of the chunk belongs to one call for `i .. i + n`, 4 at once where they can be.
template <class Body>
__device__ void for_elements(const Chunk& chunk, Body body) {
    const int whole = chunk.row->is_aligned ? chunk.length / 4 * 4 : 0;
    for (int i = threadIdx.x * 4; i < whole; i += THREADS * 4) body(i, Width<4>());
    for (int i = whole + threadIdx.x; i < chunk.length; i += THREADS) body(i, Width<1>());
}

}  // namespace

KERNEL __launch_bounds__(1024, 1) cross_entropy_f32(const float* logits, const unsigned* labels, float* losses, float* gradient, Size classes) {
    cross_entropy(logits, labels, losses, gradient, classes);
}
KERNEL __launch_bounds__(1024, 1) cross_entropy_bf16(const bf16* logits, const unsigned* labels, float* losses, float* gradient, Size classes) {
    cross_entropy(logits, labels, losses, gradient, classes);
}
KERNEL __launch_bounds__(1024, 1) kullback_leibler_f32(const float* clean, const float* perturbed, double* losses, float* clean_gradient,
                            float* perturbed_gradient, Size classes) {
    kullback_leibler(clean, perturbed, losses, clean_gradient, perturbed_gradient, classes);
}
KERNEL __launch_bounds__(1024, 1) kullback_leibler_bf16(const bf16* clean, const bf16* perturbed, double* losses, float* clean_gradient,
                             float* perturbed_gradient, Size classes) {
    kullback_leibler(clean, perturbed, losses, clean_gradient, perturbed_gradient, classes);
}

// AdamW. Tensors: parameter, gradient, mean, square, and the copy of the parameter in BF16 that products read. Moves 28 bytes
// per element, 30 with a copy; about 40 operations.
KERNEL adamw_steps(const Size* table, Size rows) {
    const Chunk chunk = chunk_of_block(table, rows);
    float* parameter = chunk.at<float>(0);
    const float* gradient = chunk.at<const float>(1);
    float *mean = chunk.at<float>(2), *square = chunk.at<float>(3);
    bf16* copy = chunk.at<bf16>(4);
    const float keep = chunk.row->scalars[0], mean_weight = chunk.row->scalars[1];
    const float square_decay = chunk.row->scalars[2], square_weight = chunk.row->scalars[3];
    const float size = chunk.row->scalars[4], root_correction = chunk.row->scalars[5], stability = chunk.row->scalars[6];
    for_elements(chunk, [=](int i, auto width) {
        constexpr int n = decltype(width)::count;
        float p[n], g[n], m[n], v[n];
        read(parameter, i, p);
        read(gradient, i, g);
        read(mean, i, m);
        read(square, i, v);
#pragma unroll
        for (int k = 0; k < n; ++k) {
            m[k] += mean_weight * (g[k] - m[k]);
            v[k] = v[k] * square_decay + square_weight * g[k] * g[k];
            p[k] = p[k] * keep - size * (m[k] / (sqrtf(v[k]) / root_correction + stability));
        }
        write(parameter, i, p);
        write(mean, i, m);
        write(square, i, v);
        if (copy != nullptr) write(copy, i, p);
    });
}

// SGD. Tensors: parameter, gradient, direction, and the copy in BF16. Moves 20 bytes per element, 22 with a copy; about 8
// operations.
KERNEL sgd_steps(const Size* table, Size rows) {
    const Chunk chunk = chunk_of_block(table, rows);
    float* parameter = chunk.at<float>(0);
    const float* gradient = chunk.at<const float>(1);
    float* direction = chunk.at<float>(2);
    bf16* copy = chunk.at<bf16>(3);
    const float decay = chunk.row->scalars[0], momentum = chunk.row->scalars[1];
    const float gradient_weight = chunk.row->scalars[2], rate = chunk.row->scalars[3];
    // Along gradient_share * gradient + direction_share * direction.
    const float gradient_share = chunk.row->scalars[4], direction_share = chunk.row->scalars[5];
    for_elements(chunk, [=](int i, auto width) {
        constexpr int n = decltype(width)::count;
        float p[n], g[n], d[n];
        read(parameter, i, p);
        read(gradient, i, g);
        read(direction, i, d);
#pragma unroll
        for (int k = 0; k < n; ++k) {
            g[k] += decay * p[k];
            d[k] = d[k] * momentum + gradient_weight * g[k];
            p[k] -= rate * (gradient_share * g[k] + direction_share * d[k]);
        }
        write(parameter, i, p);
        write(direction, i, d);
        if (copy != nullptr) write(copy, i, p);
    });
}

// Tensors: mean, value. The mean goes towards the value, in the form of PyTorch's `lerp` that is exact at the nearer end of
// the range: mean + weight (value - mean) where `is_near`, else value - keep (value - mean). Moves 12 bytes per element.
KERNEL move_averages(const Size* table, Size rows) {
    const Chunk chunk = chunk_of_block(table, rows);
    float* mean = chunk.at<float>(0);
    const float* value = chunk.at<const float>(1);
    const float keep = chunk.row->scalars[0], weight = chunk.row->scalars[1];
    const bool is_near = chunk.row->scalars[2] != 0.0f;
    for_elements(chunk, [=](int i, auto width) {
        constexpr int n = decltype(width)::count;
        float m[n], v[n];
        read(mean, i, m);
        read(value, i, v);
#pragma unroll
        for (int k = 0; k < n; ++k) {
            const float way = v[k] - m[k];
            m[k] = is_near ? m[k] + weight * way : v[k] - keep * way;
        }
        write(mean, i, m);
    });
}

// Tensors: running, batch. running = keep * running + momentum * batch. Moves 12 bytes per element.
KERNEL move_statistics(const Size* table, Size rows) {
    const Chunk chunk = chunk_of_block(table, rows);
    float* running = chunk.at<float>(0);
    const float* batch = chunk.at<const float>(1);
    const float keep = chunk.row->scalars[0], momentum = chunk.row->scalars[1];
    for_elements(chunk, [=](int i, auto width) {
        constexpr int n = decltype(width)::count;
        float r[n], b[n];
        read(running, i, r);
        read(batch, i, b);
#pragma unroll
        for (int k = 0; k < n; ++k) r[k] = keep * r[k] + momentum * b[k];
        write(running, i, r);
    });
}

// Writes factor times the first tensor of a row into its second. Moves 8 bytes per element.
__device__ void scale_chunk(const Chunk& chunk, float factor) {
    const float* from = chunk.at<const float>(0);
    float* to = chunk.at<float>(1);
    for_elements(chunk, [=](int i, auto width) {
        constexpr int n = decltype(width)::count;
        float values[n];
        read(from, i, values);
#pragma unroll
        for (int k = 0; k < n; ++k) values[k] *= factor;
        write(to, i, values);
    });
}

// Tensors: from, to. to = factor * from.
KERNEL scale_tensors(const Size* table, Size rows) {
    const Chunk chunk = chunk_of_block(table, rows);
    scale_chunk(chunk, chunk.row->scalars[0]);
}

// Tensors: from, to. to = min(1, limit / (sqrt(squares[0]) + stability)) * from; all is copied as it is where squares[0] is
// not finite.
KERNEL clip_tensors(const Size* table, Size rows, const double* squares, double limit, double stability) {
    const double total = *squares;
    const double factor = limit / (sqrt(total) + stability);
    // The difference of what is not finite is NaN.
    const bool is_long = total - total == 0.0 && factor < 1.0;
    scale_chunk(chunk_of_block(table, rows), is_long ? static_cast<float>(factor) : 1.0f);
}

// Tensor: values. partial[block] = the sum of the squares of its chunk, in double precision. Reads 4 bytes per element.
KERNEL squares_of_chunks(const Size* table, Size rows, double* partial) {
    const Chunk chunk = chunk_of_block(table, rows);
    const float* values = chunk.at<const float>(0);
    double sum = 0.0;
    for_elements(chunk, [&](int i, auto width) {
        constexpr int n = decltype(width)::count;
        float v[n];
        read(values, i, v);
#pragma unroll
        for (int k = 0; k < n; ++k) sum += static_cast<double>(v[k]) * v[k];
    });
    sum = block_reduce(sum, 0.0, Sum());
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// total[0] = the sum of `count` numbers; one block. Reads 8 bytes per number.
KERNEL __launch_bounds__(1024, 1) sum_of_parts(const double* parts, double* total, Size count) {
    double sum = 0.0;
    for (Size i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_reduce(sum, 0.0, Sum());
    if (threadIdx.x == 0) *total = sum;
}

// Attention for any dtype and size, without tensor cores: F32, and depths that attention_tensor.cu does not know.
//
// A block of 16 x 16 threads computes a tile of scores, TILE queries by TILE keys, and everything that follows from it in
// shared memory; scores never reach global memory. With thread = (ty, tx) and R = TILE / 16, a thread has the rows ty + 16 i
// and the columns tx + 16 j of each product. Operands of depth d are padded with zeros to D; arithmetic is in float.
// Operations per pair of tokens and head: 4 d forward; 10 d backward (14 d where the keys need several tiles).
// Bytes: forward reads q once and k, v once per tile of queries (from L2 after the first), writes y.
#include "attention.cuh"

constexpr int SIDE = 16;
constexpr int SIMT_THREADS = SIDE * SIDE;

// Sizes of one instantiation: depth up to D.
template <int D>
struct Shape {
    static constexpr int R = D > 128 ? 2 : 4;
    static constexpr int TILE = SIDE * R;
    static constexpr int J = D / SIDE;
    // Rows of operands and of scores in shared memory: aligned to 16 bytes, and eight of them in different banks.
    static constexpr int stride = D + 4;
    static constexpr int score_stride = TILE + 4;
};

// One head of one image: where its tokens begin, and the distance between them.
template <class T>
struct HeadRows {
    T* data;
    Size stride;
    int depth;
};

// Fills a tile with rows of a head, and with zeros after `valid` rows and after the depth. Coalesced.
template <int D, class T>
__device__ void load_tile(float* tile, const HeadRows<T>& rows, int first, int valid) {
    for (int i = threadIdx.x; i < Shape<D>::TILE * D; i += SIMT_THREADS) {
        const int row = i / D, column = i % D;
        const bool exists = row < valid && column < rows.depth;
        tile[row * Shape<D>::stride + column] = exists ? load(rows.data, (first + row) * rows.stride + column) : 0.0f;
    }
}

// products[i][j] = the dot product of row ty + 16 i of `left` with row tx + 16 j of `right`. 16 bytes per read: four of them
// of each operand feed 64 multiplications.
template <int D, int R>
__device__ void dot_rows(float products[R][R], const float* left, const float* right) {
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j) products[i][j] = 0.0f;
#pragma unroll(D > 64 ? 2 : 4)
    for (int k = 0; k < D; k += 4) {
        float a[R][4], b[R][4];
#pragma unroll
        for (int i = 0; i < R; ++i) load_pack(left + (ty + SIDE * i) * Shape<D>::stride, k, a[i]);
#pragma unroll
        for (int j = 0; j < R; ++j) load_pack(right + (tx + SIDE * j) * Shape<D>::stride, k, b[j]);
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
            for (int j = 0; j < R; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) products[i][j] = fmaf(a[i][e], b[j][e], products[i][j]);
    }
}

// sums[i][j] += row ty + 16 i of `left` [row][k] times column tx + 16 j of `right` [k][column], over the tokens of a tile.
template <int D, int R, int J>
__device__ void multiply_add(float sums[R][J], const float* left, const float* right) {
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll 2
    for (int k = 0; k < Shape<D>::TILE; k += 4) {
        float a[R][4];
#pragma unroll
        for (int i = 0; i < R; ++i) load_pack(left + (ty + SIDE * i) * Shape<D>::score_stride, k, a[i]);
#pragma unroll
        for (int e = 0; e < 4; ++e)
#pragma unroll
            for (int j = 0; j < J; ++j) {
                const float b = right[(k + e) * Shape<D>::stride + tx + SIDE * j];
#pragma unroll
                for (int i = 0; i < R; ++i) sums[i][j] = fmaf(a[i][e], b, sums[i][j]);
            }
    }
}

// Writes factor times the rows of a thread to a head.
template <class T, int R, int J>
__device__ void store_tile(const HeadRows<T>& rows, int first, int valid, const float sums[R][J], const float factor[R]) {
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
#pragma unroll
    for (int i = 0; i < R; ++i) {
        if (ty + SIDE * i >= valid) continue;
#pragma unroll
        for (int j = 0; j < J; ++j)
            if (tx + SIDE * j < rows.depth)
                store(rows.data, (first + ty + SIDE * i) * rows.stride + tx + SIDE * j, factor[i] * sums[i][j]);
    }
}

// Turns dot products into scores: scale, bias, and minus infinity for keys that do not exist.
template <int R>
__device__ void finish_scores(
    float scores[R][R], float scale_2, const ScoreBias& bias, int first_query, int first_key, int tokens) {
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
    int key_places[R];
#pragma unroll
    for (int j = 0; j < R; ++j)
        key_places[j] = bias.table == nullptr ? 0 : bias.place(min(first_key + tx + SIDE * j, tokens - 1));
#pragma unroll
    for (int i = 0; i < R; ++i) {
        const int query_place = bias.table == nullptr ? 0 : bias.place(min(first_query + ty + SIDE * i, tokens - 1));
#pragma unroll
        for (int j = 0; j < R; ++j) {
            const float added = bias.table == nullptr ? 0.0f : bias.of(query_place, key_places[j]);
            scores[i][j] = first_key + tx + SIDE * j < tokens ? fmaf(scores[i][j], scale_2, added) : -INFINITY;
        }
    }
}

// Largest value and sum over the 16 threads that share a row.
__device__ __forceinline__ float row_max(float v) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, offset));
    return v;
}
__device__ __forceinline__ float row_sum(float v) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
    return v;
}

// Queries, keys and values of a head (part 0, 1, 2) in (N, L, 3 heads d).
template <class T>
__device__ HeadRows<T> part_of(T* qkv, Size image, int head, int part, int tokens, int heads, int depth) {
    const Size width = static_cast<Size>(heads) * depth;
    return {qkv + image * tokens * 3 * width + part * width + head * depth, 3 * width, depth};
}
// A head in (N, L, heads d).
template <class T>
__device__ HeadRows<T> head_of(T* y, Size image, int head, int tokens, int heads, int depth) {
    const Size width = static_cast<Size>(heads) * depth;
    return {y + image * tokens * width + head * depth, width, depth};
}

// One block for each tile of queries of each head of each image.
template <class T, int D>
__device__ void attention_forward(
    const T* qkv, T* y, float* normalisers, const Windows& windows, int tokens, int heads, int depth, float scale_2) {
    constexpr int R = Shape<D>::R, J = Shape<D>::J, TILE = Shape<D>::TILE;
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
    const int tiles = (tokens + TILE - 1) / TILE;
    const int tile = blockIdx.x % tiles, head = blockIdx.x / tiles % heads;
    const Size image = blockIdx.x / tiles / heads;
    float* q_tile = reinterpret_cast<float*>(dynamic_shared());
    float* k_tile = q_tile + TILE * Shape<D>::stride;
    float* v_tile = k_tile + TILE * Shape<D>::stride;
    float* weights = v_tile + TILE * Shape<D>::stride;
    ScoreBias bias(windows, head, heads);
    bias.enter(windows, image);
    const int first = tile * TILE;
    load_tile<D>(q_tile, part_of(qkv, image, head, 0, tokens, heads, depth), first, tokens - first);
    float sums[R][J] = {}, largest[R], total[R];
#pragma unroll
    for (int i = 0; i < R; ++i) largest[i] = -INFINITY, total[i] = 0.0f;
    for (int first_key = 0; first_key < tokens; first_key += TILE) {
        __syncthreads();
        load_tile<D>(k_tile, part_of(qkv, image, head, 1, tokens, heads, depth), first_key, tokens - first_key);
        load_tile<D>(v_tile, part_of(qkv, image, head, 2, tokens, heads, depth), first_key, tokens - first_key);
        __syncthreads();
        float scores[R][R];
        dot_rows<D, R>(scores, q_tile, k_tile);
        finish_scores<R>(scores, scale_2, bias, first, first_key, tokens);
#pragma unroll
        for (int i = 0; i < R; ++i) {
            float most = largest[i], sum = 0.0f;
#pragma unroll
            for (int j = 0; j < R; ++j) most = fmaxf(most, scores[i][j]);
            most = row_max(most);
            const float kept = exp2f(largest[i] - most);
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const float weight = exp2f(scores[i][j] - most);
                weights[(ty + SIDE * i) * Shape<D>::score_stride + tx + SIDE * j] = weight;
                sum += weight;
            }
            largest[i] = most;
            total[i] = total[i] * kept + row_sum(sum);
#pragma unroll
            for (int j = 0; j < J; ++j) sums[i][j] *= kept;
        }
        __syncthreads();
        multiply_add<D, R, J>(sums, weights, v_tile);
    }
    float factor[R];
#pragma unroll
    for (int i = 0; i < R; ++i) {
        factor[i] = 1.0f / total[i];
        const int query = first + ty + SIDE * i;
        if (tx == 0 && query < tokens)
            normalisers[(image * heads + head) * tokens + query] = largest[i] + log2f(total[i]);
    }
    store_tile<T, R, J>(head_of(y, image, head, tokens, heads, depth), first, tokens - first, sums, factor);
}

// Everything that the gradient of a tile of queries starts from, into shared memory: the queries, dy, the normalisers, and
// for each query the dot product of y and dy, which is what the softmax subtracts.
template <class T, int D>
__device__ void load_queries(
    float* q_tile, float* dy_tile, float* normaliser, float* dots, const HeadRows<const T>& q, const HeadRows<const T>& y,
    const HeadRows<const T>& dy, const float* normalisers, int first, int tokens) {
    load_tile<D>(q_tile, q, first, tokens - first);
    load_tile<D>(dy_tile, dy, first, tokens - first);
    const int lane = threadIdx.x % WARP;
    for (int row = threadIdx.x / WARP; row < Shape<D>::TILE; row += SIMT_THREADS / WARP) {
        const int token = first + row;
        float dot = 0.0f;
        if (token < tokens)
            for (int c = lane; c < y.depth; c += WARP)
                dot += load(y.data, token * y.stride + c) * load(dy.data, token * dy.stride + c);
        dot = warp_sum(dot);
        if (lane == 0) {
            dots[row] = dot;
            // 2^(score - infinity) = 0: a query that does not exist has no weights.
            normaliser[row] = token < tokens ? normalisers[token] : INFINITY;
        }
    }
}

// weights = the attention weights of a tile, gradients = those of its scores, from what is in shared memory.
template <int D, int R>
__device__ void score_gradients(
    float weights[R][R], float gradients[R][R], const float* q_tile, const float* k_tile, const float* v_tile,
    const float* dy_tile, const float* normaliser, const float* dots, float scale_2, const ScoreBias& bias, int first_query,
    int first_key, int tokens) {
    const int ty = threadIdx.x / SIDE;
    dot_rows<D, R>(weights, q_tile, k_tile);
    finish_scores<R>(weights, scale_2, bias, first_query, first_key, tokens);
    dot_rows<D, R>(gradients, dy_tile, v_tile);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
        for (int j = 0; j < R; ++j) {
            weights[i][j] = exp2f(weights[i][j] - normaliser[ty + SIDE * i]);
            gradients[i][j] = weights[i][j] * (gradients[i][j] - dots[ty + SIDE * i]);
        }
}

template <int R>
__device__ void fill(float values[R], float value) {
#pragma unroll
    for (int i = 0; i < R; ++i) values[i] = value;
}

// dk and dv: one block for each tile of keys of each head of `per_block` images, in a loop over the queries. Where one tile
// holds all keys it writes dq too. `sums`, unless null, gets the table's gradient of each block, (blocks / heads, rows, heads),
// with zeros before.
template <class T, int D>
__device__ void attention_backward_keys(
    const T* qkv, const T* y, const float* normalisers, const T* dy, T* dqkv, const Windows& windows, float* sums, Size images,
    int per_block, int tokens, int heads, int depth, float scale) {
    constexpr int R = Shape<D>::R, J = Shape<D>::J, TILE = Shape<D>::TILE;
    constexpr int operand = TILE * Shape<D>::stride, scores = TILE * Shape<D>::score_stride;
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
    const int tiles = (tokens + TILE - 1) / TILE;
    const int tile = blockIdx.x % tiles, head = blockIdx.x / tiles % heads, group = blockIdx.x / tiles / heads;
    float* k_tile = reinterpret_cast<float*>(dynamic_shared());
    float* v_tile = k_tile + operand;
    float* q_tile = v_tile + operand;
    float* dy_tile = q_tile + operand;
    // [key][query] for dk and dv, [query][key] for dq.
    float* weights_by_key = dy_tile + operand;
    float* gradients_by_key = weights_by_key + scores;
    float* normaliser = gradients_by_key + scores;
    float* dots = normaliser + TILE;
    // Only there with one tile.
    float* gradients_by_query = dots + TILE;
    float ones[R], scales[R];
    fill<R>(ones, 1.0f);
    fill<R>(scales, scale);
    ScoreBias bias(windows, head, heads);
    const int first_key = tile * TILE;
    const Size begin = static_cast<Size>(group) * per_block;
    const Size end = begin + per_block < images ? begin + per_block : images;
    const Size table_rows = static_cast<Size>(2 * windows.side - 1) * (2 * windows.side - 1);
    float* head_sums = sums == nullptr ? nullptr : sums + (static_cast<Size>(group) * tiles + tile) * table_rows * heads + head;
    for (Size image = begin; image < end; ++image) {
        bias.enter(windows, image);
        __syncthreads();
        load_tile<D>(k_tile, part_of(qkv, image, head, 1, tokens, heads, depth), first_key, tokens - first_key);
        load_tile<D>(v_tile, part_of(qkv, image, head, 2, tokens, heads, depth), first_key, tokens - first_key);
        const float* head_normalisers = normalisers + (image * heads + head) * tokens;
        float dk[R][J] = {}, dv[R][J] = {};
        for (int first = 0; first < tokens; first += TILE) {
            __syncthreads();
            load_queries<T, D>(
                q_tile, dy_tile, normaliser, dots, part_of(qkv, image, head, 0, tokens, heads, depth),
                head_of(y, image, head, tokens, heads, depth), head_of(dy, image, head, tokens, heads, depth),
                head_normalisers, first, tokens);
            __syncthreads();
            float weights[R][R], gradients[R][R];
            score_gradients<D, R>(
                weights, gradients, q_tile, k_tile, v_tile, dy_tile, normaliser, dots, scale * LOG2_E, bias, first, first_key,
                tokens);
#pragma unroll
            for (int i = 0; i < R; ++i)
#pragma unroll
                for (int j = 0; j < R; ++j) {
                    const int query = ty + SIDE * i, key = tx + SIDE * j;
                    weights_by_key[key * Shape<D>::score_stride + query] = weights[i][j];
                    gradients_by_key[key * Shape<D>::score_stride + query] = gradients[i][j];
                    if (tiles == 1) gradients_by_query[query * Shape<D>::score_stride + key] = gradients[i][j];
                }
            __syncthreads();
            multiply_add<D, R, J>(dv, weights_by_key, dy_tile);
            multiply_add<D, R, J>(dk, gradients_by_key, q_tile);
            if (tiles == 1) {
                float dq[R][J] = {};
                multiply_add<D, R, J>(dq, gradients_by_query, k_tile);
                store_tile<T, R, J>(
                    part_of(dqkv, image, head, 0, tokens, heads, depth), first, tokens - first, dq, scales);
            }
            if (head_sums != nullptr)
                add_to_table(
                    head_sums, heads, windows.side, gradients_by_key, Shape<D>::score_stride, first_key,
                    min(TILE, tokens - first_key), first, min(TILE, tokens - first));
        }
        store_tile<T, R, J>(
            part_of(dqkv, image, head, 1, tokens, heads, depth), first_key, tokens - first_key, dk, scales);
        store_tile<T, R, J>(part_of(dqkv, image, head, 2, tokens, heads, depth), first_key, tokens - first_key, dv, ones);
    }
}

// dq where the keys need several tiles: one block for each tile of queries of each head of each image.
template <class T, int D>
__device__ void attention_backward_queries(
    const T* qkv, const T* y, const float* normalisers, const T* dy, T* dqkv, const Windows& windows, int tokens, int heads,
    int depth, float scale) {
    constexpr int R = Shape<D>::R, J = Shape<D>::J, TILE = Shape<D>::TILE;
    constexpr int operand = TILE * Shape<D>::stride;
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
    const int tiles = (tokens + TILE - 1) / TILE;
    const int tile = blockIdx.x % tiles, head = blockIdx.x / tiles % heads;
    const Size image = blockIdx.x / tiles / heads;
    float* k_tile = reinterpret_cast<float*>(dynamic_shared());
    float* v_tile = k_tile + operand;
    float* q_tile = v_tile + operand;
    float* dy_tile = q_tile + operand;
    float* gradients_by_query = dy_tile + operand;
    float* normaliser = gradients_by_query + TILE * Shape<D>::score_stride;
    float* dots = normaliser + TILE;
    ScoreBias bias(windows, head, heads);
    bias.enter(windows, image);
    const int first = tile * TILE;
    load_queries<T, D>(
        q_tile, dy_tile, normaliser, dots, part_of(qkv, image, head, 0, tokens, heads, depth),
        head_of(y, image, head, tokens, heads, depth), head_of(dy, image, head, tokens, heads, depth),
        normalisers + (image * heads + head) * tokens, first, tokens);
    float dq[R][J] = {};
    for (int first_key = 0; first_key < tokens; first_key += TILE) {
        __syncthreads();
        load_tile<D>(k_tile, part_of(qkv, image, head, 1, tokens, heads, depth), first_key, tokens - first_key);
        load_tile<D>(v_tile, part_of(qkv, image, head, 2, tokens, heads, depth), first_key, tokens - first_key);
        __syncthreads();
        float weights[R][R], gradients[R][R];
        score_gradients<D, R>(
            weights, gradients, q_tile, k_tile, v_tile, dy_tile, normaliser, dots, scale * LOG2_E, bias, first, first_key,
            tokens);
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
            for (int j = 0; j < R; ++j)
                gradients_by_query[(ty + SIDE * i) * Shape<D>::score_stride + tx + SIDE * j] = gradients[i][j];
        __syncthreads();
        multiply_add<D, R, J>(dq, gradients_by_query, k_tile);
    }
    float scales[R];
    fill<R>(scales, scale);
    store_tile<T, R, J>(part_of(dqkv, image, head, 0, tokens, heads, depth), first, tokens - first, dq, scales);
}

// The kernels of depths up to D for activations of type T.
#define ATTENTION(D, T, suffix)                                                                                               \
    KERNEL __launch_bounds__(SIMT_THREADS) attention_forward_##D##_##suffix(                                                  \
        const T* qkv, T* y, float* normalisers, WINDOWS, Size tokens, Size heads, Size depth, float scale) {                  \
        attention_forward<T, D>(                                                                                              \
            qkv, y, normalisers, WINDOWS_GIVEN, static_cast<int>(tokens), static_cast<int>(heads), static_cast<int>(depth),   \
            scale * LOG2_E);                                                                                                  \
    }                                                                                                                         \
    KERNEL __launch_bounds__(SIMT_THREADS) attention_backward_keys_##D##_##suffix(                                            \
        const T* qkv, const T* y, const float* normalisers, const T* dy, T* dqkv, WINDOWS, Size tokens, Size heads,           \
        Size depth, float scale, float* sums, Size images, Size per_block) {                                                  \
        attention_backward_keys<T, D>(                                                                                        \
            qkv, y, normalisers, dy, dqkv, WINDOWS_GIVEN, sums, images, static_cast<int>(per_block),                          \
            static_cast<int>(tokens), static_cast<int>(heads), static_cast<int>(depth), scale);                               \
    }                                                                                                                         \
    KERNEL __launch_bounds__(SIMT_THREADS) attention_backward_queries_##D##_##suffix(                                         \
        const T* qkv, const T* y, const float* normalisers, const T* dy, T* dqkv, WINDOWS, Size tokens, Size heads,           \
        Size depth, float scale) {                                                                                            \
        attention_backward_queries<T, D>(                                                                                     \
            qkv, y, normalisers, dy, dqkv, WINDOWS_GIVEN, static_cast<int>(tokens), static_cast<int>(heads),                  \
            static_cast<int>(depth), scale);                                                                                  \
    }

ATTENTION(32, float, f32)
ATTENTION(64, float, f32)
ATTENTION(128, float, f32)
ATTENTION(256, float, f32)
ATTENTION(32, bf16, bf16)
ATTENTION(64, bf16, bf16)
ATTENTION(128, bf16, bf16)
ATTENTION(256, bf16, bf16)

// Attention on tensor cores: bf16 with depths 16, 32, 64, 96 and 128, sums in float. The manner is that of FlashAttention-2
// (Dao 2023): scores live in registers, the softmax goes along the keys, the backward pass computes scores again from the
// saved normalisers.
//
// Every row of an operand in shared memory is 16 bytes longer than its data, which puts the eight rows of an 8 x 8 matrix
// into different banks. Operations per pair of tokens and head: 4 d forward; 10 d backward where one block holds all keys
// of a head (L up to 256, or 128 for d > 64), else 14 d. Bytes per token and head: forward 8 d (q, k, v read, y written) and 4,
// backward 16 d (q, k, v, y, dy read; dq, dk, dv written) and 4; with several blocks for a head, k and v (or q, y and dy) come
// from L2 once more for each.
#include "attention.cuh"
#include "tensor_core.cuh"

// Tokens of one product on tensor cores.
constexpr int STEP = 16;
// Queries of one round of the backward pass, and the row of a score matrix in shared memory.
constexpr int QUERIES = 64;
constexpr int SCORE_STRIDE = QUERIES + 8;
// Keys of one round of the softmax.
constexpr int KEYS = 64;

template <int D>
constexpr int STRIDE = D + 8;

// Threads of the largest block, forward and for dq alone.
constexpr int MOST_THREADS = 256;
constexpr int MOST_QUERY_THREADS = 128;
// What is added to scores: nothing; the bias of windows; the same, and its gradient is wanted.
enum Added { NOTHING, BIAS, BIAS_AND_GRADIENT };

// Threads of the largest block for dk and dv, which decides how many registers a thread may have: 128 with 16 warps, 168 with
// 12, 255 with 8.
template <int D, bool WHOLE, Added ADDED>
constexpr int MOST_KEY_THREADS =
    D > 64 || !WHOLE ? 256 : ADDED == NOTHING || (ADDED == BIAS && D < 64) ? 512 : 384;

// Starts to copy rows of a head to shared memory: `rows` of them, zeros after the first `valid`.
template <int D>
__device__ void copy_rows(bf16* tile, const bf16* from, Size stride, int rows, int valid) {
    constexpr int packs = D / 8;
    for (int i = threadIdx.x; i < rows * packs; i += blockDim.x) {
        const int row = i / packs, column = i % packs * 8;
        const bool exists = row < valid;
        copy_16(tile + row * STRIDE<D> + column, from + (exists ? row : 0) * stride + column, exists);
    }
}

// The left operands of 16 rows straight from global memory: rows `first` + group (+ 8), zeros from `tokens` on.
template <int D>
__device__ void load_left_rows(uint32_t a[D / STEP][4], const bf16* from, Size stride, int first, int tokens) {
    const int lane = threadIdx.x % WARP, column = 2 * (lane % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = first + lane / 4 + 8 * half;
        const bool exists = row < tokens;
        const bf16* begin = from + (exists ? row : 0) * stride + column;
#pragma unroll
        for (int k = 0; k < D / STEP; ++k) {
            a[k][half] = exists ? *reinterpret_cast<const unsigned*>(begin + k * STEP) : 0;
            a[k][half + 2] = exists ? *reinterpret_cast<const unsigned*>(begin + k * STEP + 8) : 0;
        }
    }
}

// Where one head lies: its queries in (N, L, 3 heads d), its rows of (N, L, heads d), and its normalisers.
struct Head {
    Size image, qkv, out, normalisers, stride, out_stride, part;

    __device__ Head(Size image, int head, int tokens, int heads, int depth) : image(image) {
        part = static_cast<Size>(heads) * depth;
        stride = 3 * part;
        out_stride = part;
        qkv = image * tokens * stride + head * depth;
        out = image * tokens * out_stride + head * depth;
        normalisers = (image * heads + head) * tokens;
    }
};

// Places of all tokens (rounded up to 64, the rest harmless) and the column of the table of one head, in shared memory. The
// caller synchronises.
__device__ void load_bias(ScoreBias& bias, float* table, int* places, int tokens, int side) {
    const int rows = (2 * side - 1) * (2 * side - 1);
    for (int i = threadIdx.x; i < rows; i += blockDim.x) table[i] = bias.table[i * bias.stride];
    for (int i = threadIdx.x; i < (tokens + 63) / 64 * 64; i += blockDim.x) places[i] = i < tokens ? bias.place(i) : 0;
    bias.table = table;
    bias.stride = 1;
}

__device__ __forceinline__ float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 1));
    return fmaxf(v, __shfl_xor_sync(ALL_LANES, v, 2));
}
__device__ __forceinline__ float quad_sum(float v) {
    v += __shfl_xor_sync(ALL_LANES, v, 1);
    return v + __shfl_xor_sync(ALL_LANES, v, 2);
}

// Scores of 16 queries and up to 64 keys that begin at row `key` of a tile and are `first_key`.. of the head.
template <int D, bool BIASED>
__device__ void compute_scores(
    float scores[KEYS / 8][4], const uint32_t q[D / STEP][4], const bf16* keys, int key, const ScoreBias& bias,
    const int* places, const int query_places[2], int first_key, int tokens, float scale_2) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < KEYS / 8; t += 2) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[t][e] = scores[t + 1][e] = 0.0f;
        if (first_key + 8 * t >= tokens) continue;
#pragma unroll
        for (int k = 0; k < D / STEP; ++k) {
            uint32_t b[4];
            load_right(b, keys, STRIDE<D>, k * STEP, key + 8 * t);
            multiply_add_16(scores + t, q[k], b);
        }
    }
#pragma unroll
    for (int t = 0; t < KEYS / 8; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int token = first_key + 8 * t + 2 * member + e % 2;
            const float added = BIASED && token < tokens ? bias.of(query_places[e / 2], places[token]) : 0.0f;
            scores[t][e] = token < tokens ? fmaf(scores[t][e], scale_2, added) : -INFINITY;
        }
}

// One block for each `rounds` times (warps of the block) times 16 queries of each head of each image; each warp takes 16 at a
// time. Keys and values pass through shared memory `stage` at a time; with all of them in one stage they are loaded once.
template <int D, bool BIASED>
__device__ void forward(
    const bf16* qkv, bf16* y, float* normalisers, const Windows& windows, int tokens, int heads, float scale_2, int rounds,
    int stage) {
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP, group = threadIdx.x % WARP / 4, member = threadIdx.x % 4;
    const int per_block = rounds * warps * STEP, blocks = (tokens + per_block - 1) / per_block;
    const int first_query = blockIdx.x % blocks * per_block, head_index = blockIdx.x / blocks % heads;
    const Head head(blockIdx.x / blocks / heads, head_index, tokens, heads, D);
    bf16* k_tile = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* v_tile = k_tile + stage * STRIDE<D>;
    float* table = reinterpret_cast<float*>(v_tile + stage * STRIDE<D>);
    int* places = reinterpret_cast<int*>(table + (2 * windows.side - 1) * (2 * windows.side - 1));
    ScoreBias bias(windows, head_index, heads);
    if (BIASED) {
        bias.enter(windows, head.image);
        load_bias(bias, table, places, tokens, windows.side);
    }
    for (int round = 0; round < rounds; ++round) {
        const int first = first_query + (round * warps + warp) * STEP;
        uint32_t q[D / STEP][4];
        load_left_rows<D>(q, qkv + head.qkv, head.stride, first, tokens);
        float sums[D / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
        int query_places[2] = {};
        for (int begin = 0; begin < tokens; begin += stage) {
            if (round == 0 || tokens > stage) {
                const int valid = min(stage, tokens - begin), rows = (valid + STEP - 1) / STEP * STEP;
                const bf16* k = qkv + head.qkv + head.part + begin * head.stride;
                __syncthreads();
                copy_rows<D>(k_tile, k, head.stride, rows, valid);
                copy_rows<D>(v_tile, k + head.part, head.stride, rows, valid);
                wait_for_copies();
                __syncthreads();
            }
            if (first >= tokens) continue;
            if (BIASED)
                for (int h = 0; h < 2; ++h) query_places[h] = places[min(first + group + 8 * h, tokens - 1)];
            for (int key = 0; key < stage && begin + key < tokens; key += KEYS) {
                float scores[KEYS / 8][4];
                compute_scores<D, BIASED>(scores, q, k_tile, key, bias, places, query_places, begin + key, tokens, scale_2);
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    float most = largest[h];
#pragma unroll
                    for (int t = 0; t < KEYS / 8; ++t) most = fmaxf(most, fmaxf(scores[t][2 * h], scores[t][2 * h + 1]));
                    // Finite: the first round of the keys holds key 0.
                    most = quad_max(most);
                    const float kept = power_of_two(largest[h] - most);
                    largest[h] = most;
                    total[h] *= kept;
#pragma unroll
                    for (int t = 0; t < D / 8; ++t) sums[t][2 * h] *= kept, sums[t][2 * h + 1] *= kept;
#pragma unroll
                    for (int t = 0; t < KEYS / 8; ++t)
#pragma unroll
                        for (int e = 2 * h; e < 2 * h + 2; ++e) {
                            scores[t][e] = power_of_two(scores[t][e] - most);
                            total[h] += scores[t][e];
                        }
                }
#pragma unroll
                for (int t = 0; t < KEYS / 8; t += 2) {
                    if (begin + key + 8 * t >= tokens) continue;
                    uint32_t weights[4];
                    as_left(weights, scores + t);
#pragma unroll
                    for (int n = 0; n < D / 8; n += 2) {
                        uint32_t b[4];
                        load_right_transposed(b, v_tile, STRIDE<D>, key + 8 * t, 8 * n);
                        multiply_add_16(sums + n, weights, b);
                    }
                }
            }
        }
        if (first >= tokens) continue;
        bf16* rows[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            total[h] = quad_sum(total[h]);
            const int query = first + group + 8 * h;
            const bool exists = query < tokens;
            rows[h] = exists ? y + head.out + query * head.out_stride : nullptr;
            if (exists && member == 0) normalisers[head.normalisers + query] = largest[h] + log2f(total[h]);
            const float factor = 1.0f / total[h];
#pragma unroll
            for (int t = 0; t < D / 8; ++t) sums[t][2 * h] *= factor, sums[t][2 * h + 1] *= factor;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2)
            store_16(
                rows[0] == nullptr ? nullptr : rows[0] + 8 * n, rows[1] == nullptr ? nullptr : rows[1] + 8 * n, sums + n, 1.0f);
    }
}

// Queries, dy and y of one round of the backward pass.
template <int D>
struct QueryTiles {
    static constexpr int size = QUERIES * STRIDE<D>;
    bf16* q;
    __device__ bf16* dy() const { return q + size; }
    __device__ bf16* y() const { return q + 2 * size; }

    __device__ void copy(const bf16* qkv, const bf16* y_from, const bf16* dy_from, const Head& head, int first, int tokens) const {
        const int valid = min(QUERIES, tokens - first);
        copy_rows<D>(q, qkv + head.qkv + first * head.stride, head.stride, QUERIES, valid);
        copy_rows<D>(dy(), dy_from + head.out + first * head.out_stride, head.out_stride, QUERIES, valid);
        copy_rows<D>(y(), y_from + head.out + first * head.out_stride, head.out_stride, QUERIES, valid);
    }

    // For each query the dot product of y and dy, four lanes a row, and its normaliser.
    __device__ void reduce(float* dots, float* normaliser, const float* normalisers, int first, int tokens) const {
        for (int row = threadIdx.x / 4; row < QUERIES; row += blockDim.x / 4) {
            float dot = 0.0f;
            for (int column = threadIdx.x % 4 * 8; column < D; column += 32) {
                float a[8], b[8];
                load_pack(y(), row * STRIDE<D> + column, a);
                load_pack(dy(), row * STRIDE<D> + column, b);
#pragma unroll
                for (int e = 0; e < 8; ++e) dot = fmaf(a[e], b[e], dot);
            }
            dot = quad_sum(dot);
            if (threadIdx.x % 4 == 0) {
                dots[row] = dot;
                // 2^(score - infinity) = 0: a query that does not exist has no weights.
                normaliser[row] = first + row < tokens ? normalisers[first + row] : INFINITY;
            }
        }
    }
};

// dk and dv: each warp holds 16 keys of a head in a loop over all queries, with scores transposed (keys in rows), so that
// weights and score gradients are left operands as they stand. A block has all keys of a head (WHOLE) or `warps` times 16.
//
// With WHOLE, dq is complete within the block: the score gradients of 64 queries go through shared memory to the warps that
// multiply them by the keys. With BIAS_AND_GRADIENT, which needs WHOLE, the table's gradient of the block's `per_block` windows is added to `sums` (groups,
// rows, heads), which holds zeros before; windows of up to 64 tokens are added up in registers first.
// `buffers` is 2 where the next queries are copied while these are used.
template <int D, bool WHOLE, Added ADDED>
__device__ void backward_keys(
    const bf16* qkv, const bf16* y, const float* normalisers, const bf16* dy, bf16* dqkv, const Windows& windows, float* sums,
    Size images, int per_block, int tokens, int heads, float scale, int buffers) {
    constexpr bool SUMS = ADDED == BIAS_AND_GRADIENT, REGISTERS = SUMS && D <= 32;
    // Queries whose scores a warp holds at a time; fewer where the sums take most registers.
    constexpr int PART = D > 96 || D == 64 ? 16 : 32;
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP, group = threadIdx.x % WARP / 4, member = threadIdx.x % 4;
    const int keys = warps * STEP, key_blocks = WHOLE ? 1 : (tokens + keys - 1) / keys;
    const int first_key = WHOLE ? 0 : blockIdx.x % key_blocks * keys, head_index = blockIdx.x / key_blocks % heads;
    const int window_group = blockIdx.x / key_blocks / heads;
    const int key = warp * STEP, queries_end = (tokens + QUERIES - 1) / QUERIES * QUERIES;
    bf16* k_tile = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* v_tile = k_tile + keys * STRIDE<D>;
    bf16* query_tiles = v_tile + keys * STRIDE<D>;
    // [key][query]; unused without WHOLE.
    bf16* gradients = query_tiles + buffers * 3 * QueryTiles<D>::size;
    float* normaliser = reinterpret_cast<float*>(gradients + (WHOLE ? keys * SCORE_STRIDE : 0));
    float* dots = normaliser + QUERIES;
    float* table = dots + QUERIES;
    const int table_rows = (2 * windows.side - 1) * (2 * windows.side - 1);
    int* places = reinterpret_cast<int*>(table + table_rows);
    ScoreBias bias(windows, head_index, heads);
    if (ADDED != NOTHING) load_bias(bias, table, places, tokens, windows.side);
    float* head_sums = SUMS ? sums + static_cast<Size>(window_group) * table_rows * heads + head_index : nullptr;
    const bool collects = REGISTERS && tokens <= QUERIES;
    float collected[REGISTERS ? QUERIES / 8 : 1][4] = {};
    const Size begin = static_cast<Size>(window_group) * per_block;
    const Size end = begin + per_block < images ? begin + per_block : images;
    for (Size image = begin; image < end; ++image) {
        const Head head(image, head_index, tokens, heads, D);
        if (ADDED != NOTHING) bias.enter(windows, image);
        const int valid_keys = min(keys, tokens - first_key);
        __syncthreads();
        const bf16* k_from = qkv + head.qkv + head.part + first_key * head.stride;
        copy_rows<D>(k_tile, k_from, head.stride, keys, valid_keys);
        copy_rows<D>(v_tile, k_from + head.part, head.stride, keys, valid_keys);
        QueryTiles<D>{query_tiles}.copy(qkv, y, dy, head, 0, tokens);
        float dk[D / 8][4] = {}, dv[D / 8][4] = {};
        for (int first = 0; first < queries_end; first += QUERIES) {
            const QueryTiles<D> tiles{query_tiles + first / QUERIES % buffers * 3 * QueryTiles<D>::size};
            wait_for_copies();
            __syncthreads();
            if (first + QUERIES < tokens)
                QueryTiles<D>{query_tiles + (first / QUERIES + 1) % buffers * 3 * QueryTiles<D>::size}.copy(
                    qkv, y, dy, head, first + QUERIES, tokens);
            tiles.reduce(dots, normaliser, normalisers + head.normalisers, first, tokens);
            __syncthreads();
            int key_places[2] = {};
            if (ADDED != NOTHING)
                for (int h = 0; h < 2; ++h) key_places[h] = places[min(first_key + key + group + 8 * h, tokens - 1)];
#pragma unroll
            for (int part = 0; part < QUERIES / PART; ++part) {
                const int query = part * PART;
                if (first + query >= tokens) continue;
                float weights[PART / 8][4] = {}, slopes[PART / 8][4] = {};
#pragma unroll
                for (int k = 0; k < D / STEP; ++k) {
                    uint32_t a[4], b[4];
                    load_left(a, k_tile, STRIDE<D>, key, k * STEP);
#pragma unroll
                    for (int t = 0; t < PART / 8; t += 2) {
                        load_right(b, tiles.q, STRIDE<D>, k * STEP, query + 8 * t);
                        multiply_add_16(weights + t, a, b);
                    }
                }
#pragma unroll
                for (int t = 0; t < PART / 8; ++t)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int column = query + 8 * t + 2 * member + e % 2;
                        const float added =
                            ADDED == NOTHING ? 0.0f : bias.of(places[first + column], key_places[e / 2]);
                        const float score = fmaf(weights[t][e], scale * LOG2_E, added);
                        const bool exists = key + group + 8 * (e / 2) < valid_keys;
                        weights[t][e] = exists ? power_of_two(score - normaliser[column]) : 0.0f;
                    }
#pragma unroll
                for (int t = 0; t < PART / 8; t += 2) {
                    uint32_t a[4], b[4];
                    as_left(a, weights + t);
#pragma unroll
                    for (int n = 0; n < D / 8; n += 2) {
                        load_right_transposed(b, tiles.dy(), STRIDE<D>, query + 8 * t, 8 * n);
                        multiply_add_16(dv + n, a, b);
                    }
                }
#pragma unroll
                for (int k = 0; k < D / STEP; ++k) {
                    uint32_t a[4], b[4];
                    load_left(a, v_tile, STRIDE<D>, key, k * STEP);
#pragma unroll
                    for (int t = 0; t < PART / 8; t += 2) {
                        load_right(b, tiles.dy(), STRIDE<D>, k * STEP, query + 8 * t);
                        multiply_add_16(slopes + t, a, b);
                    }
                }
#pragma unroll
                for (int t = 0; t < PART / 8; ++t)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int column = query + 8 * t + 2 * member + e % 2;
                        slopes[t][e] = weights[t][e] * (slopes[t][e] - dots[column]);
                        if (REGISTERS) collected[REGISTERS ? part * (PART / 8) + t : 0][e] += slopes[t][e];
                    }
#pragma unroll
                for (int t = 0; t < PART / 8; t += 2) {
                    uint32_t a[4], b[4];
                    as_left(a, slopes + t);
                    if (WHOLE) {
                        bf16* low = gradients + (key + group) * SCORE_STRIDE + query + 8 * t + 2 * member;
                        unsigned* words = reinterpret_cast<unsigned*>(low);
                        words[0] = a[0];
                        words[4] = a[2];
                        words[4 * SCORE_STRIDE] = a[1];
                        words[4 * SCORE_STRIDE + 4] = a[3];
                    }
#pragma unroll
                    for (int n = 0; n < D / 8; n += 2) {
                        load_right_transposed(b, tiles.q, STRIDE<D>, query + 8 * t, 8 * n);
                        multiply_add_16(dk + n, a, b);
                    }
                }
            }
            if (!WHOLE) continue;
            __syncthreads();
            // dq of these 64 queries: a warp takes 16 of them and up to 32 columns at a time.
            constexpr int COLUMNS = D < 32 ? D : 32;
            for (int task = warp; task < QUERIES / STEP * (D / COLUMNS); task += warps) {
                const int query = task % (QUERIES / STEP) * STEP, column = task / (QUERIES / STEP) * COLUMNS;
                if (first + query >= tokens) continue;
                float dq[COLUMNS / 8][4] = {};
                for (int k = 0; k < keys; k += STEP) {
                    uint32_t a[4], b[4];
                    load_left_transposed(a, gradients, SCORE_STRIDE, query, k);
#pragma unroll
                    for (int n = 0; n < COLUMNS / 8; n += 2) {
                        load_right_transposed(b, k_tile, STRIDE<D>, k, column + 8 * n);
                        multiply_add_16(dq + n, a, b);
                    }
                }
                bf16* low = dqkv + head.qkv + (first + query + group) * head.stride + column;
#pragma unroll
                for (int n = 0; n < COLUMNS / 8; n += 2)
                    store_16(
                        first + query + group < tokens ? low + 8 * n : nullptr,
                        first + query + group + 8 < tokens ? low + 8 * head.stride + 8 * n : nullptr, dq + n, scale);
            }
            if (SUMS && !collects)
                add_to_table(
                    head_sums, heads, windows.side, gradients, SCORE_STRIDE, 0, tokens, first, min(QUERIES, tokens - first));
        }
        bf16* low = dqkv + head.qkv + head.part + (first_key + key + group) * head.stride;
        const bool has_low = key + group < valid_keys, has_high = key + group + 8 < valid_keys;
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            bf16* high = low + 8 * head.stride;
            store_16(has_low ? low + 8 * n : nullptr, has_high ? high + 8 * n : nullptr, dk + n, scale);
            store_16(
                has_low ? low + head.part + 8 * n : nullptr, has_high ? high + head.part + 8 * n : nullptr, dv + n, 1.0f);
        }
    }
    if (REGISTERS && collects) {
        // The operands are used up: their memory takes the sums over windows, [key][query] in float.
        constexpr int stride = QUERIES + 1;
        float* total = reinterpret_cast<float*>(k_tile);
        __syncthreads();
        for (int t = 0; t < (REGISTERS ? QUERIES / 8 : 1); ++t)
            for (int e = 0; e < 4; ++e)
                total[(key + group + 8 * (e / 2)) * stride + 8 * t + 2 * member + e % 2] = collected[t][e];
        __syncthreads();
        add_to_table(head_sums, heads, windows.side, total, stride, 0, tokens, 0, tokens);
    }
}

// dq where the keys of a head need several blocks: each warp holds 16 queries in a loop over the keys, 32 of them at a time.
template <int D>
__device__ void backward_queries(
    const bf16* qkv, const bf16* y, const float* normalisers, const bf16* dy, bf16* dqkv, int tokens, int heads,
    float scale) {
    constexpr int HALF = KEYS / 2;
    const int warp = threadIdx.x / WARP, warps = blockDim.x / WARP, group = threadIdx.x % WARP / 4, member = threadIdx.x % 4;
    const int per_block = warps * STEP, blocks = (tokens + per_block - 1) / per_block;
    const int first = blockIdx.x % blocks * per_block + warp * STEP, head_index = blockIdx.x / blocks % heads;
    const Head head(blockIdx.x / blocks / heads, head_index, tokens, heads, D);
    bf16* k_tile = reinterpret_cast<bf16*>(dynamic_shared());
    bf16* v_tile = k_tile + KEYS * STRIDE<D>;
    uint32_t q[D / STEP][4], slope[D / STEP][4];
    load_left_rows<D>(q, qkv + head.qkv, head.stride, first, tokens);
    load_left_rows<D>(slope, dy + head.out, head.out_stride, first, tokens);
    float dots[2] = {}, normaliser[2];
    {
        uint32_t out[D / STEP][4];
        load_left_rows<D>(out, y + head.out, head.out_stride, first, tokens);
#pragma unroll
        for (int k = 0; k < D / STEP; ++k)
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const uint32_t a = out[k][r], b = slope[k][r];
                dots[r % 2] = fmaf(__uint_as_float(a << 16), __uint_as_float(b << 16), dots[r % 2]);
                dots[r % 2] = fmaf(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u), dots[r % 2]);
            }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        dots[h] = quad_sum(dots[h]);
        const int query = first + group + 8 * h;
        normaliser[h] = query < tokens ? normalisers[head.normalisers + query] : INFINITY;
    }
    float dq[D / 8][4] = {};
    for (int begin = 0; begin < tokens; begin += KEYS) {
        const int valid = min(KEYS, tokens - begin);
        const bf16* k_from = qkv + head.qkv + head.part + begin * head.stride;
        __syncthreads();
        copy_rows<D>(k_tile, k_from, head.stride, KEYS, valid);
        copy_rows<D>(v_tile, k_from + head.part, head.stride, KEYS, valid);
        wait_for_copies();
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int key = half * HALF;
            if (begin + key >= tokens) continue;
            float weights[HALF / 8][4] = {}, slopes[HALF / 8][4] = {};
#pragma unroll
            for (int k = 0; k < D / STEP; ++k)
#pragma unroll
                for (int t = 0; t < HALF / 8; t += 2) {
                    uint32_t b[4];
                    load_right(b, k_tile, STRIDE<D>, k * STEP, key + 8 * t);
                    multiply_add_16(weights + t, q[k], b);
                    load_right(b, v_tile, STRIDE<D>, k * STEP, key + 8 * t);
                    multiply_add_16(slopes + t, slope[k], b);
                }
#pragma unroll
            for (int t = 0; t < HALF / 8; ++t)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int token = begin + key + 8 * t + 2 * member + e % 2;
                    const float score = weights[t][e] * (scale * LOG2_E);
                    const float weight = token < tokens ? power_of_two(score - normaliser[e / 2]) : 0.0f;
                    slopes[t][e] = weight * (slopes[t][e] - dots[e / 2]);
                }
#pragma unroll
            for (int t = 0; t < HALF / 8; t += 2) {
                uint32_t a[4], b[4];
                as_left(a, slopes + t);
#pragma unroll
                for (int n = 0; n < D / 8; n += 2) {
                    load_right_transposed(b, k_tile, STRIDE<D>, key + 8 * t, 8 * n);
                    multiply_add_16(dq + n, a, b);
                }
            }
        }
    }
    bf16* low = dqkv + head.qkv + (first + group) * head.stride;
#pragma unroll
    for (int n = 0; n < D / 8; n += 2)
        store_16(
            first + group < tokens ? low + 8 * n : nullptr, first + group + 8 < tokens ? low + 8 * head.stride + 8 * n : nullptr,
            dq + n, scale);
}

#define FORWARD(name, D, BIASED)                                                                                              \
    KERNEL __launch_bounds__(MOST_THREADS, 1) name(                                                                              \
        const bf16* qkv, bf16* y, float* normalisers, WINDOWS, Size tokens, Size heads, float scale, Size rounds,             \
        Size stage) {                                                                                                         \
        forward<D, BIASED>(                                                                                                   \
            qkv, y, normalisers, WINDOWS_GIVEN, static_cast<int>(tokens), static_cast<int>(heads), scale * LOG2_E,            \
            static_cast<int>(rounds), static_cast<int>(stage));                                                               \
    }
#define BACKWARD(name, D, WHOLE, ADDED)                                                                                       \
    KERNEL __launch_bounds__(MOST_KEY_THREADS<D, WHOLE, ADDED>) name(                                                                \
        const bf16* qkv, const bf16* y, const float* normalisers, const bf16* dy, bf16* dqkv, WINDOWS, Size tokens,           \
        Size heads, float scale, float* sums, Size images, Size per_block, Size buffers) {                                    \
        backward_keys<D, WHOLE, ADDED>(                                                                                       \
            qkv, y, normalisers, dy, dqkv, WINDOWS_GIVEN, sums, images, static_cast<int>(per_block),                          \
            static_cast<int>(tokens), static_cast<int>(heads), scale, static_cast<int>(buffers));                             \
    }

// The kernels of depth D. `windows` and `table` (with its gradient) say that scores have a bias.
#define ATTENTION(D)                                                                                                          \
    FORWARD(attention_tensor_forward_##D, D, false)                                                                           \
    FORWARD(attention_tensor_forward_windows_##D, D, true)                                                                    \
    BACKWARD(attention_tensor_backward_##D, D, true, NOTHING)                                                                 \
    BACKWARD(attention_tensor_backward_windows_##D, D, true, BIAS)                                                            \
    BACKWARD(attention_tensor_backward_table_##D, D, true, BIAS_AND_GRADIENT)                                                 \
    BACKWARD(attention_tensor_backward_keys_##D, D, false, NOTHING)                                                           \
    KERNEL __launch_bounds__(MOST_QUERY_THREADS, 1) attention_tensor_backward_queries_##D(                                       \
        const bf16* qkv, const bf16* y, const float* normalisers, const bf16* dy, bf16* dqkv, Size tokens, Size heads,        \
        float scale) {                                                                                                        \
        backward_queries<D>(                                                                                                  \
            qkv, y, normalisers, dy, dqkv, static_cast<int>(tokens), static_cast<int>(heads), scale);                         \
    }

ATTENTION(16)
ATTENTION(32)
ATTENTION(64)
ATTENTION(96)
ATTENTION(128)

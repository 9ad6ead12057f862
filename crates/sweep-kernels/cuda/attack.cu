// Attacks on a classifier: losses with their gradients, the control of step sizes, and moves inside a ball.
//
// What images are under attack is `float` throughout. Of N images in memory, M are still being asked: row r of the batch that
// the classifier sees is image images[r] (image r itself without a list). Points and gradients are in rows of the batch;
// centers, best points and all bookkeeping are in rows of the images.
//
// Moves follow the CPU's arithmetic operation by operation, each rounded once: the intrinsics with _rn keep the compiler from
// contracting a product and a sum.
#include "common.cuh"

// The log of one query: FIELDS rows of one word for each image. The step size is that of the step which led to the query, so
// that the one to come stands in the slot of the next query. The last two are written by moves.
enum Field { LOSS, PREDICTION, STEP_SIZE, HAS_SLOPE, IS_BROKEN, FIELDS };
// What is known about an image from earlier queries: one row of words each.
enum State { BEST_LOSS, LOSS_AT_CHECK, HALVED, WRONG, DECISION };
// What the answer to the current query means for the pixels: the point is the best one, the search goes back to the best
// point, the point is the first misclassified one.
enum Decision { KEEP = 1, BACK = 2, REPORT = 4 };
enum Kind { CROSS_ENTROPY, DLR, TARGETED_DLR, KULLBACK_LEIBLER };

constexpr float STABILITY = 1e-12f;
constexpr float LARGEST_FLOAT = 3.402823466e38f;

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) <= LARGEST_FLOAT; }
__device__ __forceinline__ float not_a_number() { return __uint_as_float(0x7fc00000u); }
__device__ __forceinline__ Size image_of(const unsigned* images, Size row) { return images ? images[row] : row; }

// ---- Rows of logits: one warp for each ----

struct Entry { float value; int index; };

// The entry that follows `than` in descending order; equal ones in the order of their classes. A row that begins with NaN has
// nothing to offer but that, as on the CPU, whose comparisons begin there; NaN as entry 0 also stands for "there is none".
template <class T>
__device__ Entry next_largest(const T* row, int classes, Entry than) {
    Entry best = {0.0f, -1};
    for (int c = threadIdx.x % WARP; c < classes; c += WARP) {
        const float value = load(row, c);
        const bool follows = value < than.value || (value == than.value && c > than.index);
        if (follows && (best.index < 0 || value > best.value)) best = {value, c};
    }
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const Entry other = {__shfl_xor_sync(ALL_LANES, best.value, offset), __shfl_xor_sync(ALL_LANES, best.index, offset)};
        const bool precedes = best.index < 0 || other.value > best.value || (other.value == best.value && other.index < best.index);
        if (other.index >= 0 && precedes) best = other;
    }
    const float head = load(row, 0);
    if (best.index < 0 || head != head) best = {not_a_number(), 0};
    return best;
}
template <class T>
__device__ Entry largest(const T* row, int classes) {
    return next_largest(row, classes, Entry{__uint_as_float(0x7f800000u), -1});
}

template <class T>
__device__ float log_total(const T* row, int classes, float largest) {
    float total = 0.0f;
    for (int c = threadIdx.x % WARP; c < classes; c += WARP) total += expf(load(row, c) - largest);
    return logf(warp_sum(total));
}

template <class T>
__device__ float cross_entropy(const T* row, T* gradient, int classes, int label, float top) {
    const float rest = log_total(row, classes, top);
    for (int c = threadIdx.x % WARP; gradient && c < classes; c += WARP)
        store(gradient, c, __fsub_rn(expf(load(row, c) - top - rest), c == label ? 1.0f : 0.0f));
    return 0.0f - (load(row, label) - top - rest);
}

// A class of probability 0 adds nothing, as the limit of p ln p says.
template <class T>
__device__ float kullback_leibler(const T* row, T* gradient, int classes, const float* clean, float top) {
    const float rest = log_total(row, classes, top);
    float loss = 0.0f;
    for (int c = threadIdx.x % WARP; c < classes; c += WARP) {
        const float p = clean[c], log_q = load(row, c) - top - rest;
        if (p > 0.0f) loss += p * (logf(p) - log_q);
        else if (log_q != log_q) loss = log_q;
        if (gradient) store(gradient, c, __fsub_rn(expf(log_q), p));
    }
    return warp_sum(loss);
}

// -margin / spread, where the margin is that of `label` over `rival`, and the spread that of the first class over the third,
// or over the mean of the third and the fourth.
template <class T>
__device__ float dlr(const T* row, T* gradient, int classes, int label, int target, bool targeted, Entry first) {
    const Entry second = next_largest(row, classes, first);
    const Entry third = next_largest(row, classes, second);
    const Entry fourth = targeted ? next_largest(row, classes, third) : third;
    const int rival = targeted ? target : first.index == label ? second.index : first.index;
    const float part = targeted ? 0.5f : 1.0f;
    const float tail = targeted ? __fmul_rn(0.5f, __fadd_rn(third.value, fourth.value)) : third.value;
    const float spread = __fadd_rn(__fsub_rn(first.value, tail), STABILITY);
    const float margin = __fsub_rn(load(row, label), load(row, rival));
    const float ratio = margin / spread;
    const float by_margin = 0.0f - 1.0f / spread, by_spread = ratio / spread;
    for (int c = threadIdx.x % WARP; gradient && c < classes; c += WARP) {
        float slope = 0.0f;
        if (c == label) slope = __fadd_rn(slope, by_margin);
        if (c == rival) slope = __fsub_rn(slope, by_margin);
        if (c == first.index) slope = __fadd_rn(slope, by_spread);
        if (c == third.index) slope = __fsub_rn(slope, __fmul_rn(part, by_spread));
        if (targeted && c == fourth.index) slope = __fsub_rn(slope, __fmul_rn(part, by_spread));
        store(gradient, c, slope);
    }
    return 0.0f - ratio;
}

// ---- The control of step sizes ----

// The loss after `step` (0 for the first), as the reference's history has it: zero where no step was made yet.
__device__ float loss_after(const unsigned* log, Size count, Size image, Size step, Size last_step) {
    return step > last_step ? 0.0f : __uint_as_float(log[((step + 1) * FIELDS + LOSS) * count + image]);
}

// Whether the window that ends with `step` raised the loss in at most three quarters of its steps. What precedes the first
// step is the last entry of the history.
__device__ bool oscillates(const unsigned* log, Size count, Size image, Size step, Size window, Size steps) {
    Size increases = 0;
    for (Size back = 0; back < window; ++back) {
        const Size at = step - back, before = (at + steps - 1) % steps;
        increases += loss_after(log, count, image, at, step) > loss_after(log, count, image, before, step);
    }
    return 4 * increases <= 3 * window;
}

// One image observes the answer to `query`: log, best loss, and where `window` is not 0 the check that closes so many steps.
__device__ void observe(unsigned* log, unsigned* state, Size count, Size image, Size query, Size steps, Size window,
                        float first_step_size, float loss, int prediction, int label) {
    unsigned* slot = log + query * FIELDS * count + image;
    unsigned* mine = state + image;
    const bool is_start = query == 0, is_wrong = prediction != label;
    const float best = is_start ? -__uint_as_float(0x7f800000u) : __uint_as_float(mine[BEST_LOSS * count]);
    const bool was_wrong = !is_start && mine[WRONG * count], improves = loss > best;
    const float best_now = improves ? loss : best;
    float step_size = is_start ? first_step_size : __uint_as_float(slot[STEP_SIZE * count]);
    unsigned decision = (improves ? KEEP : 0) | (is_wrong && !was_wrong ? REPORT : 0);
    slot[LOSS * count] = __float_as_uint(loss);
    slot[PREDICTION * count] = prediction;
    if (is_start) {
        slot[STEP_SIZE * count] = __float_as_uint(0.0f);
        // As if halved: the first check can see an oscillation but not a stall.
        mine[HALVED * count] = 1;
        mine[LOSS_AT_CHECK * count] = __float_as_uint(0.0f);
    } else if (window > 0) {
        const bool stalls = !mine[HALVED * count] && __uint_as_float(mine[LOSS_AT_CHECK * count]) >= best_now;
        const bool halves = oscillates(log, count, image, query - 1, window, steps) || stalls;
        mine[HALVED * count] = halves;
        mine[LOSS_AT_CHECK * count] = __float_as_uint(best_now);
        if (halves) step_size = __fmul_rn(0.5f, step_size);
        // The point that was just found best needs no way back.
        if (halves && !improves) decision |= BACK;
    }
    slot[(FIELDS + STEP_SIZE) * count] = __float_as_uint(step_size);
    mine[BEST_LOSS * count] = __float_as_uint(best_now);
    mine[WRONG * count] = was_wrong || is_wrong;
    mine[DECISION * count] = decision;
}

// Loss, prediction and gradient of the sum of the losses for each row of logits (`gradient` may be null), and what they mean
// for the search. `table` has one row each of kinds, labels and targets. A row of C logits is read up to six times, from the
// second on out of L1; C are written.
template <class T>
__device__ void answer(const T* logits, T* gradient, const unsigned* table, const float* clean, unsigned* log, unsigned* state,
                       const unsigned* images, Size rows, Size classes, Size count, Size query, Size steps, Size window,
                       float first_step_size) {
    const Size row = grid_index() / WARP;
    if (row >= rows) return;
    const Size image = image_of(images, row);
    const T* z = logits + row * classes;
    T* slopes = gradient ? gradient + row * classes : nullptr;
    const int kind = table[image], label = table[count + image], target = table[2 * count + image];
    const int width = static_cast<int>(classes);
    const Entry top = largest(z, width);
    float loss;
    if (kind == CROSS_ENTROPY) loss = cross_entropy(z, slopes, width, label, top.value);
    else if (kind == KULLBACK_LEIBLER) loss = kullback_leibler(z, slopes, width, clean + image * classes, top.value);
    else loss = dlr(z, slopes, width, label, target, kind == TARGETED_DLR, top);
    if (threadIdx.x % WARP == 0)
        observe(log, state, count, image, query, steps, window, first_step_size, loss, top.index, label);
}
KERNEL attack_answer_f32(const float* logits, float* gradient, const unsigned* table, const float* clean, unsigned* log,
                         unsigned* state, const unsigned* images, Size rows, Size classes, Size count, Size query, Size steps,
                         Size window, float first_step_size) {
    answer(logits, gradient, table, clean, log, state, images, rows, classes, count, query, steps, window, first_step_size);
}
KERNEL attack_answer_bf16(const bf16* logits, bf16* gradient, const unsigned* table, const float* clean, unsigned* log,
                          unsigned* state, const unsigned* images, Size rows, Size classes, Size count, Size query, Size steps,
                          Size window, float first_step_size) {
    answer(logits, gradient, table, clean, log, state, images, rows, classes, count, query, steps, window, first_step_size);
}

// The wrong class of `rank` (1 for the most likely one) of every row becomes its target.
template <class T>
__device__ void choose_targets(const T* logits, unsigned* table, Size rank, Size rows, Size classes) {
    const Size row = grid_index() / WARP;
    if (row >= rows) return;
    const T* z = logits + row * classes;
    const int label = table[rows + row], width = static_cast<int>(classes);
    Entry at = largest(z, width);
    // The label may stand among those that are passed.
    for (Size seen = at.index != label; seen < rank && at.value == at.value; seen += at.index != label)
        at = next_largest(z, width, at);
    if (threadIdx.x % WARP == 0) table[2 * rows + row] = at.index;
}
KERNEL attack_targets_f32(const float* logits, unsigned* table, Size rank, Size rows, Size classes) {
    choose_targets(logits, table, rank, rows, classes);
}
KERNEL attack_targets_bf16(const bf16* logits, unsigned* table, Size rank, Size rows, Size classes) {
    choose_targets(logits, table, rank, rows, classes);
}

// The probabilities of every row, by the same arithmetic as the divergence from them, which so begins at zero.
template <class T>
__device__ void probabilities(const T* logits, float* clean, Size rows, Size classes) {
    const Size row = grid_index() / WARP;
    if (row >= rows) return;
    const T* z = logits + row * classes;
    const int width = static_cast<int>(classes);
    const float top = largest(z, width).value, rest = log_total(z, width, top);
    for (int c = threadIdx.x % WARP; c < width; c += WARP) clean[row * classes + c] = expf(load(z, c) - top - rest);
}
KERNEL attack_probabilities_f32(const float* logits, float* clean, Size rows, Size classes) {
    probabilities(logits, clean, rows, classes);
}
KERNEL attack_probabilities_bf16(const bf16* logits, float* clean, Size rows, Size classes) {
    probabilities(logits, clean, rows, classes);
}

// ---- Pixels: a block has `segment` pixels of one row ----

// The part of a row that this block works on. Pixels go through V at a time.
struct Part { Size row, image; int begin, end; };
__device__ __forceinline__ Part part_of_block(const unsigned* images, Size pixels, Size segment, Size segments) {
    const Size row = blockIdx.x / segments, begin = blockIdx.x % segments * segment;
    const Size end = begin + segment < pixels ? begin + segment : pixels;
    return {row, image_of(images, row), static_cast<int>(begin), static_cast<int>(end)};
}

template <int V>
__device__ __forceinline__ void load_pixels(const float* p, int i, float out[V]) {
    if constexpr (V == 4) load_pack(p, i, out);
    else out[0] = p[i];
}
template <int V>
__device__ __forceinline__ void store_pixels(float* p, int i, const float in[V]) {
    if constexpr (V == 4) store_pack(p, i, in);
    else p[i] = in[0];
}

// As on the CPU, by comparison: signs of zeros come out alike.
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ float clamp_to_unit(float x) { return smaller(larger(x, 0.0f), 1.0f); }
__device__ __forceinline__ float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }
// share of (stepped - at) plus the rest of (at - before), added to `at`.
__device__ __forceinline__ float blend(float share, float at, float stepped, float before) {
    const float fresh = __fmul_rn(__fsub_rn(stepped, at), share);
    const float old = __fmul_rn(__fsub_rn(at, before), __fsub_rn(1.0f, share));
    return __fadd_rn(__fadd_rn(at, fresh), old);
}

// Where an image's point and gradient are, where they were best, and what is to be done with them. `best_point`,
// `best_gradient` and `reported` are null where nobody asks for them.
struct Place {
    float *point, *gradient, *best_point, *best_gradient, *reported;
    bool keeps, goes_back, reports;
};
__device__ __forceinline__ Place place(const Part& part, float* point, float* gradient, float* best_point, float* best_gradient,
                                       float* reported, const unsigned* state, Size pixels, Size count) {
    const unsigned decision = state[DECISION * count + part.image];
    const Size at = part.row * pixels, of_image = part.image * pixels;
    Place p = {point + at, gradient ? gradient + at : nullptr, nullptr, nullptr, nullptr, false, false, false};
    p.keeps = (decision & KEEP) && best_point;
    p.goes_back = (decision & BACK) && best_point;
    p.reports = (decision & REPORT) && reported;
    if (best_point) p.best_point = best_point + of_image;
    if (best_gradient) p.best_gradient = best_gradient + of_image;
    if (reported) p.reported = reported + of_image;
    return p;
}

// Pixels of a row observe the answer: they are kept, reported, or replaced by the best ones. `at` and `slope` become what the
// move begins with.
template <int V>
__device__ __forceinline__ void observe_pixels(const Place& p, int i, float at[V], float slope[V], bool& has_slope, bool& is_broken) {
    load_pixels<V>(p.point, i, at);
    load_pixels<V>(p.gradient, i, slope);
#pragma unroll
    for (int k = 0; k < V; ++k) {
        has_slope |= slope[k] != 0.0f;
        is_broken |= !is_finite(slope[k]);
    }
    if (p.reports) store_pixels<V>(p.reported, i, at);
    if (p.keeps) {
        store_pixels<V>(p.best_point, i, at);
        if (p.best_gradient) store_pixels<V>(p.best_gradient, i, slope);
    }
    if (p.goes_back) {
        load_pixels<V>(p.best_point, i, at);
        load_pixels<V>(p.best_gradient, i, slope);
        // The point before the next one.
        store_pixels<V>(p.point, i, at);
    }
}

// All threads of the block must come here. Whichever block stores, it stores the same.
__device__ __forceinline__ void log_slopes(unsigned* slot, Size count, Size image, bool has_slope, bool is_broken) {
    const int any_slope = __syncthreads_or(has_slope), any_broken = __syncthreads_or(is_broken);
    if (threadIdx.x == 0 && any_slope) slot[HAS_SLOPE * count + image] = 1;
    if (threadIdx.x == 0 && any_broken) slot[IS_BROKEN * count + image] = 1;
}

// The l-infinity move; a negative `share` is a plain projected step, which unlike a share of 1 has no second rounding. Reads
// point, previous point, gradient and center and writes the next point: 20 bytes for a pixel and some 20 operations; 8 bytes
// more where the point is the best one, 12 where the search goes back.
template <int V>
__device__ void move_linf(const Place& p, const Part& part, const float* previous, const float* center, float* next,
                          float step_size, float radius, float share, bool& has_slope, bool& is_broken) {
    for (int i = part.begin + threadIdx.x * V; i < part.end; i += blockDim.x * V) {
        float at[V], slope[V], before[V], middle[V], result[V];
        load_pixels<V>(center, i, middle);
        if (share >= 0.0f) load_pixels<V>(previous, i, before);
        observe_pixels<V>(p, i, at, slope, has_slope, is_broken);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const float low = __fsub_rn(middle[k], radius), high = __fadd_rn(middle[k], radius);
            const float step = __fadd_rn(at[k], __fmul_rn(step_size, sign(slope[k])));
            float moved = clamp_to_unit(smaller(larger(step, low), high));
            if (share >= 0.0f) moved = clamp_to_unit(smaller(larger(blend(share, at[k], moved, before[k]), low), high));
            result[k] = moved;
        }
        store_pixels<V>(next, i, result);
    }
}
KERNEL attack_move_linf(float* point, const float* previous, float* gradient, const float* center, float* next,
                        float* best_point, float* best_gradient, float* reported, const unsigned* images, const unsigned* state,
                        unsigned* slot, float radius, float share, Size pixels, Size segment, Size segments, Size count,
                        Size packs) {
    const Part part = part_of_block(images, pixels, segment, segments);
    const Place p = place(part, point, gradient, best_point, best_gradient, reported, state, pixels, count);
    const float step_size = __uint_as_float(slot[(FIELDS + STEP_SIZE) * count + part.image]);
    const Size at = part.row * pixels;
    center += part.image * pixels;
    bool has_slope = false, is_broken = false;
    if (packs) move_linf<4>(p, part, previous + at, center, next + at, step_size, radius, share, has_slope, is_broken);
    else move_linf<1>(p, part, previous + at, center, next + at, step_size, radius, share, has_slope, is_broken);
    log_slopes(slot, count, part.image, has_slope, is_broken);
}

// Sum over the block in double precision, always in the same order, in thread 0. All threads must call it.
__device__ double block_total(double v) {
    __shared__ double parts[WARP];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
    __syncthreads();
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    double total = 0.0;
    for (int k = 0; threadIdx.x == 0 && k < warps; ++k) total += parts[k];
    return total;
}

// The Euclidean length whose squares the blocks of a row summed up. All threads must call it.
__device__ float length_of_row(const double* squares, Size row, Size segments) {
    __shared__ float length;
    __syncthreads();
    if (threadIdx.x < WARP) {
        double sum = 0.0;
        for (Size k = threadIdx.x; k < segments; k += WARP) sum += squares[row * segments + k];
#pragma unroll
        for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
        if (threadIdx.x == 0) length = static_cast<float>(sqrt(sum));
    }
    __syncthreads();
    return length;
}

// Scaling back of an offset to the ball; inside it changes nothing but the last bits.
struct Shrink { float length, allowed; };
__device__ __forceinline__ Shrink shrink(float length, float radius) { return {__fadd_rn(length, STABILITY), smaller(radius, length)}; }
__device__ __forceinline__ float pull(const Shrink& s, float pixel, float center) {
    const float offset = __fmul_rn(__fdiv_rn(__fsub_rn(pixel, center), s.length), s.allowed);
    return clamp_to_unit(__fadd_rn(center, offset));
}
__device__ __forceinline__ float step_l2(float at, float slope, float slope_length, float step_size) {
    return __fadd_rn(at, __fmul_rn(step_size, __fdiv_rn(slope, slope_length)));
}

// The l2 move, whose lengths must be known before the pixels: four passes, each of which leaves sums for the next one.
// First, the pixels observe the answer and the squares of the gradient are summed; 8 bytes read for a pixel.
template <int V>
__device__ double observe_l2(const Place& p, const Part& part, bool& has_slope, bool& is_broken) {
    double sum = 0.0;
    for (int i = part.begin + threadIdx.x * V; i < part.end; i += blockDim.x * V) {
        float at[V], slope[V];
        observe_pixels<V>(p, i, at, slope, has_slope, is_broken);
        if (p.goes_back) store_pixels<V>(p.gradient, i, slope);
#pragma unroll
        for (int k = 0; k < V; ++k) sum += static_cast<double>(slope[k]) * slope[k];
    }
    return sum;
}
KERNEL attack_observe_l2(float* point, float* gradient, double* squares, float* best_point, float* best_gradient,
                         float* reported, const unsigned* images, const unsigned* state, unsigned* slot, Size pixels,
                         Size segment, Size segments, Size count, Size packs) {
    const Part part = part_of_block(images, pixels, segment, segments);
    const Place p = place(part, point, gradient, best_point, best_gradient, reported, state, pixels, count);
    bool has_slope = false, is_broken = false;
    const double sum = packs ? observe_l2<4>(p, part, has_slope, is_broken) : observe_l2<1>(p, part, has_slope, is_broken);
    const double total = block_total(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
    log_slopes(slot, count, part.image, has_slope, is_broken);
}

// Second, the squares of the step's offset from the center; 12 bytes read.
template <int V>
__device__ double reach_l2(const Part& part, const float* point, const float* gradient, const float* center, float slope_length,
                           float step_size) {
    double sum = 0.0;
    for (int i = part.begin + threadIdx.x * V; i < part.end; i += blockDim.x * V) {
        float at[V], slope[V], middle[V];
        load_pixels<V>(point, i, at);
        load_pixels<V>(gradient, i, slope);
        load_pixels<V>(center, i, middle);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const float offset = __fsub_rn(step_l2(at[k], slope[k], slope_length, step_size), middle[k]);
            sum += static_cast<double>(offset) * offset;
        }
    }
    return sum;
}
KERNEL attack_reach_l2(const float* point, const float* gradient, const float* center, const double* slopes, double* squares,
                       const unsigned* images, const unsigned* slot, Size pixels, Size segment, Size segments, Size count,
                       Size packs) {
    const Part part = part_of_block(images, pixels, segment, segments);
    const float slope_length = __fadd_rn(length_of_row(slopes, part.row, segments), STABILITY);
    const float step_size = __uint_as_float(slot[(FIELDS + STEP_SIZE) * count + part.image]);
    const Size at = part.row * pixels;
    center += part.image * pixels;
    const double sum = packs ? reach_l2<4>(part, point + at, gradient + at, center, slope_length, step_size)
                             : reach_l2<1>(part, point + at, gradient + at, center, slope_length, step_size);
    const double total = block_total(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// Third, the step and its blend with the last move, and the squares of what came out; 16 bytes read, 4 written. The step is
// computed anew, which is cheaper than to fetch it.
template <int V>
__device__ double step_all_l2(const Part& part, const float* point, const float* previous, const float* gradient,
                              const float* center, float* next, float slope_length, float step_size, Shrink back, float share) {
    double sum = 0.0;
    for (int i = part.begin + threadIdx.x * V; i < part.end; i += blockDim.x * V) {
        float at[V], slope[V], middle[V], before[V], result[V];
        load_pixels<V>(point, i, at);
        load_pixels<V>(gradient, i, slope);
        load_pixels<V>(center, i, middle);
        if (share >= 0.0f) load_pixels<V>(previous, i, before);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            float moved = pull(back, step_l2(at[k], slope[k], slope_length, step_size), middle[k]);
            if (share >= 0.0f) moved = blend(share, at[k], moved, before[k]);
            const float offset = __fsub_rn(moved, middle[k]);
            sum += static_cast<double>(offset) * offset;
            result[k] = moved;
        }
        store_pixels<V>(next, i, result);
    }
    return sum;
}
KERNEL attack_step_l2(const float* point, const float* previous, const float* gradient, const float* center, float* next,
                      const double* slopes, const double* reaches, double* squares, const unsigned* images,
                      const unsigned* slot, float radius, float share, Size pixels, Size segment, Size segments, Size count,
                      Size packs) {
    const Part part = part_of_block(images, pixels, segment, segments);
    const float slope_length = __fadd_rn(length_of_row(slopes, part.row, segments), STABILITY);
    const Shrink back = shrink(length_of_row(reaches, part.row, segments), radius);
    const float step_size = __uint_as_float(slot[(FIELDS + STEP_SIZE) * count + part.image]);
    const Size at = part.row * pixels;
    center += part.image * pixels;
    const double sum =
        packs ? step_all_l2<4>(part, point + at, previous + at, gradient + at, center, next + at, slope_length, step_size, back, share)
              : step_all_l2<1>(part, point + at, previous + at, gradient + at, center, next + at, slope_length, step_size, back, share);
    const double total = block_total(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

// Fourth, after a blend, the projection; 8 bytes read, 4 written.
template <int V>
__device__ void pull_all_l2(const Part& part, const float* center, float* next, Shrink back) {
    for (int i = part.begin + threadIdx.x * V; i < part.end; i += blockDim.x * V) {
        float pixel[V], middle[V];
        load_pixels<V>(next, i, pixel);
        load_pixels<V>(center, i, middle);
#pragma unroll
        for (int k = 0; k < V; ++k) pixel[k] = pull(back, pixel[k], middle[k]);
        store_pixels<V>(next, i, pixel);
    }
}
KERNEL attack_pull_l2(const float* center, float* next, const double* reaches, const unsigned* images, float radius, Size pixels,
                      Size segment, Size segments, Size packs) {
    const Part part = part_of_block(images, pixels, segment, segments);
    const Shrink back = shrink(length_of_row(reaches, part.row, segments), radius);
    center += part.image * pixels;
    next += part.row * pixels;
    if (packs) pull_all_l2<4>(part, center, next, back);
    else pull_all_l2<1>(part, center, next, back);
}

// Keeps and reports the points of a query that no move follows. Reads and writes 4 bytes for each pixel concerned.
KERNEL attack_keep(float* point, float* best_point, float* reported, const unsigned* images, const unsigned* state, Size pixels,
                   Size segment, Size segments, Size count) {
    const Part part = part_of_block(images, pixels, segment, segments);
    const Place p = place(part, point, nullptr, best_point, nullptr, reported, state, pixels, count);
    if (!p.keeps && !p.reports) return;
    for (int i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        const float at = p.point[i];
        if (p.keeps) p.best_point[i] = at;
        if (p.reports) p.reported[i] = at;
    }
}

// to[row] = from[rows[row]], or a plain copy without a list, clamped to [0, 1]; 8 bytes for a pixel. For points, which lie
// there anyway, the clamp changes nothing.
KERNEL attack_points(const float* from, float* to, const unsigned* rows, Size pixels, Size segment, Size segments) {
    const Part part = part_of_block(rows, pixels, segment, segments);
    from += part.image * pixels;
    to += part.row * pixels;
    for (int i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) to[i] = clamp_to_unit(from[i]);
}
// The same for gradients, as they are.
KERNEL attack_slopes(const float* from, float* to, const unsigned* rows, Size pixels, Size segment, Size segments) {
    const Part part = part_of_block(rows, pixels, segment, segments);
    from += part.image * pixels;
    to += part.row * pixels;
    for (int i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) to[i] = from[i];
}

// points[image] becomes the reported point (choice 1) or the best one (choice 2). Reads and writes 4 bytes for each pixel
// concerned.
KERNEL attack_select(float* points, const float* reported, const float* best_point, const unsigned* choices, Size pixels,
                     Size segment, Size segments) {
    const Part part = part_of_block(nullptr, pixels, segment, segments);
    const unsigned choice = choices[part.image];
    if (choice == 0) return;
    const float* from = (choice == 1 ? reported : best_point) + part.image * pixels;
    points += part.image * pixels;
    for (int i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) points[i] = from[i];
}

// What is wrong with an image, and how far a point is from it, in four rows of words: the position of its first pixel outside
// [0, 1] counted from 1 (0 for none), that pixel, the length of the offset, whether all pixels of the point are in [0, 1].
// One block for each image, so that sums have one order; 4 bytes read for a pixel, 8 with points. NaN counts as outside.
KERNEL __launch_bounds__(1024, 1) attack_inspect(const float* images, const float* points, unsigned* report, Size pixels, Size count, Size is_l2) {
    __shared__ unsigned first[1024];
    __shared__ float farthest[1024];
    const Size image = blockIdx.x;
    images += image * pixels;
    if (points) points += image * pixels;
    unsigned bad = 0xffffffffu;
    float distance = 0.0f;
    double sum = 0.0;
    bool is_outside = false;
    for (Size i = threadIdx.x; i < pixels; i += blockDim.x) {
        const float center = images[i];
        if (bad == 0xffffffffu && !(center >= 0.0f && center <= 1.0f)) bad = static_cast<unsigned>(i);
        if (points) {
            const float pixel = points[i], offset = __fsub_rn(pixel, center);
            is_outside |= !(pixel >= 0.0f && pixel <= 1.0f);
            distance = fmaxf(distance, fabsf(offset));
            sum += static_cast<double>(offset) * offset;
        }
    }
    first[threadIdx.x] = bad;
    farthest[threadIdx.x] = distance;
    for (unsigned width = blockDim.x / 2; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x < width) {
            first[threadIdx.x] = min(first[threadIdx.x], first[threadIdx.x + width]);
            farthest[threadIdx.x] = fmaxf(farthest[threadIdx.x], farthest[threadIdx.x + width]);
        }
    }
    const double total = block_total(sum);
    const int any_outside = __syncthreads_or(is_outside);
    if (threadIdx.x != 0) return;
    const unsigned found = first[0];
    const float length = is_l2 ? static_cast<float>(sqrt(total)) : farthest[0];
    report[image] = found + 1;
    report[count + image] = found == 0xffffffffu ? 0 : __float_as_uint(images[found]);
    report[2 * count + image] = __float_as_uint(length);
    report[3 * count + image] = !any_outside;
}

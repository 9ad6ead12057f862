#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace emulated {

__thread Coordinates coordinates __attribute__((tls_model("initial-exec")));

namespace {

thread_local BlockRunner* runner_of_this_thread = nullptr;

unsigned lane_bit(unsigned thread) { return 1u << (thread % 32); }

BlockRunner& inside_kernel(const char* what) {
    BlockRunner* runner = runner_of_this_thread;
    if (runner == nullptr) fail("%s called outside a kernel", what);
    return *runner;
}

}  // namespace

BlockRunner* current_runner() { return runner_of_this_thread; }

namespace {
Order read_order() {
    const char* text = std::getenv("SWEEP_EMULATOR_ORDER");
    if (text == nullptr || std::strcmp(text, "forward") == 0) return Order::forward;
    if (std::strcmp(text, "reverse") == 0) return Order::reverse;
    if (std::strcmp(text, "random") == 0) return Order::random;
    fail("SWEEP_EMULATOR_ORDER is `%s`; it can be forward, reverse or random", text);
}
}  // namespace

Order configured_order() {
    static const Order order = read_order();
    return order;
}

void BlockRunner::begin_launch(const Kernel& kernel, Index3 grid, Index3 block_size, size_t shared_bytes,
                               void* const* parameters) {
    kernel_ = &kernel;
    parameters_ = parameters;
    grid_ = grid;
    block_size_ = block_size;
    total_ = static_cast<unsigned>(block_size.volume());
    order_ = configured_order();
    fresh_strands_ = 0;
    shared_bytes_ = shared_bytes;
    if (shared_bytes > shared_capacity_) {
        shared_ = {static_cast<char*>(std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128)), std::free};
        shared_capacity_ = shared_bytes;
    }
    starts_.resize(total_);
    for (unsigned i = 0; i < total_; ++i) starts_[i] = order_ == Order::reverse ? total_ - 1 - i : i;
    strand_of_.resize(total_);
    warps_.resize((total_ + 31) / 32);
    runner_of_this_thread = this;
    kernel.poison_shared();
}

void BlockRunner::end_launch() {
    runner_of_this_thread = nullptr;
    idle_.clear();
}

void BlockRunner::reset() {
    next_start_ = exited_ = 0;
    ready_.clear();
    ready_head_ = 0;
    at_barrier_.clear();
    barrier_ = Votes{};
    for (unsigned warp = 0; warp < warps_.size(); ++warp) {
        unsigned lanes = std::min(32u, total_ - warp * 32);
        warps_[warp].waiting = 0;
        warps_[warp].living = lanes == 32 ? ~0u : (1u << lanes) - 1;
    }
    if (order_ == Order::random) shuffle_starts();
    if (shared_bytes_ > 0) std::memset(shared_.get(), 0xFF, shared_bytes_);
}

void BlockRunner::shuffle_starts() {
    for (unsigned i = total_; i > 1; --i) std::swap(starts_[i - 1], starts_[random() % i]);
}

uint32_t BlockRunner::random() {
    random_state_ ^= random_state_ << 13;
    random_state_ ^= random_state_ >> 17;
    random_state_ ^= random_state_ << 5;
    return random_state_;
}

void BlockRunner::run(Index3 block) {
    reset();
    coordinates.block = block;
    coordinates.block_size = block_size_;
    coordinates.grid_size = grid_;
    while (exited_ < total_) {
        running_ = next_strand();
        if (running_ == nullptr) report_deadlock();
        switch_context(&scheduler_, running_->context);
    }
}

// Whose turn it is: the fiber of a thread that can go on, or one that will start the next thread; null when there is neither.
Strand* BlockRunner::next_strand() {
    if (has_ready()) {
        unsigned thread = take_ready();
        place(thread);
        return strand_of_[thread];
    }
    if (next_start_ == total_) return nullptr;
    if (idle_.empty()) add_strand();
    Strand* strand = idle_.back();
    idle_.pop_back();
    return strand;
}

void BlockRunner::add_strand() {
    if (fresh_strands_ == strands_.size()) {
        strands_.push_back(std::make_unique<Strand>());
        strands_.back()->runner = this;
        strands_.back()->stack = map_stack(fresh_strands_);
    }
    Strand* strand = strands_[fresh_strands_++].get();
    strand->context = make_context(strand->stack, &BlockRunner::strand_main, strand);
    idle_.push_back(strand);
}

void BlockRunner::strand_main(void* argument) {
    Strand& strand = *static_cast<Strand*>(argument);
    BlockRunner& runner = *strand.runner;
    for (;;) {
        while (runner.next_start_ < runner.total_ && !runner.has_ready()) runner.run_one(strand);
        runner.idle_.push_back(&strand);
        switch_context(&strand.context, runner.scheduler_);
    }
}

void BlockRunner::run_one(Strand& strand) {
    unsigned thread = starts_[next_start_++];
    strand.thread = thread;
    strand_of_[thread] = &strand;
    place(thread);
    kernel_->enter(parameters_);
    exit_thread(thread);
}

void BlockRunner::place(unsigned thread) {
    coordinates.linear = thread;
    if (block_size_.y == 1 && block_size_.z == 1) {
        coordinates.thread = {thread, 0, 0};
        return;
    }
    coordinates.thread.x = thread % block_size_.x;
    coordinates.thread.y = thread / block_size_.x % block_size_.y;
    coordinates.thread.z = thread / (block_size_.x * block_size_.y);
}

// Goes on with another thread; straight to its fiber where there is one, for each switch costs a mispredicted jump.
void BlockRunner::suspend() {
    Strand* self = running_;
    Strand* next = next_strand();
    if (next == self) return;
    running_ = next;
    switch_context(&self->context, next == nullptr ? scheduler_ : next->context);
}

void BlockRunner::make_ready(unsigned thread) { ready_.push_back(thread); }

unsigned BlockRunner::take_ready() {
    if (order_ == Order::random) std::swap(ready_[ready_head_], ready_[ready_head_ + random() % (ready_.size() - ready_head_)]);
    unsigned thread = ready_[ready_head_++];
    if (!has_ready()) {
        ready_.clear();
        ready_head_ = 0;
    }
    return thread;
}

void BlockRunner::exit_thread(unsigned thread) {
    ++exited_;
    Warp& warp = warps_[thread / 32];
    warp.living &= ~lane_bit(thread);
    if (warp.waiting != 0) complete_waiting_groups(thread / 32);
    if (!at_barrier_.empty()) complete_barrier();
}

// An exit can be what a group of lanes was waiting for.
void BlockRunner::complete_waiting_groups(unsigned index) {
    constexpr unsigned nobody = ~0u;
    unsigned looked_at = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        Warp& warp = warps_[index];
        if ((warp.waiting & ~looked_at) >> lane & 1) {
            looked_at |= warp.lanes[lane].mask;
            complete_warp(index, warp.lanes[lane].mask, nobody);
        }
    }
}

// Carries out the instruction of the lanes in `mask` if all have arrived, and wakes all of them but `self`.
bool BlockRunner::complete_warp(unsigned index, unsigned mask, unsigned self) {
    Warp& warp = warps_[index];
    unsigned needed = mask & warp.living;
    if ((warp.waiting & needed) != needed) return false;
    void* operands[32] = {};
    Resolve resolve = nullptr;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if (!(needed >> lane & 1)) continue;
        const Warp::Lane& waiting = warp.lanes[lane];
        if (waiting.mask != mask) return false;
        if (resolve != nullptr && waiting.resolve != resolve) fail("lanes of warp %u meet in different warp instructions", index);
        resolve = waiting.resolve;
        operands[lane] = waiting.operands;
    }
    resolve(operands);
    warp.waiting &= ~needed;
    for (unsigned i = 0; i < 32; ++i) {
        unsigned lane = order_ == Order::reverse ? 31 - i : i;
        unsigned thread = index * 32 + lane;
        if ((needed >> lane & 1) && thread != self) make_ready(thread);
    }
    return true;
}

void BlockRunner::wait_for_warp(unsigned mask, Resolve resolve, void* operands) {
    unsigned thread = coordinates.linear;
    Warp& warp = warps_[thread / 32];
    if (!(mask & lane_bit(thread))) fail("the mask %08x of a warp instruction lacks the calling lane %u", mask, thread % 32);
    warp.lanes[thread % 32] = {mask, resolve, operands};
    warp.waiting |= lane_bit(thread);
    if (!complete_warp(thread / 32, mask, thread)) suspend();
}

unsigned BlockRunner::living_lanes() const { return warps_[coordinates.linear / 32].living; }

Votes BlockRunner::wait_for_block(bool vote) {
    Votes result;
    ++barrier_.arrived;
    barrier_.count += vote ? 1 : 0;
    at_barrier_.push_back({coordinates.linear, &result});
    if (!complete_barrier()) {
        suspend();
        return result;
    }
    // The last thread to arrive has been made ready with all the others; it waits for its turn like them.
    suspend();
    return result;
}

bool BlockRunner::complete_barrier() {
    if (at_barrier_.size() < total_ - exited_) return false;
    Votes votes = barrier_;
    barrier_ = Votes{};
    std::vector<Waiter> waiters;
    waiters.swap(at_barrier_);
    for (const Waiter& waiter : waiters) {
        *waiter.votes = votes;
        make_ready(waiter.thread);
    }
    waiters.clear();
    at_barrier_.swap(waiters);
    return true;
}

void BlockRunner::report_deadlock() {
    std::string lanes;
    for (unsigned warp = 0; warp < warps_.size(); ++warp) {
        if (warps_[warp].waiting == 0) continue;
        char text[80];
        unsigned lane = static_cast<unsigned>(__builtin_ctz(warps_[warp].waiting));
        std::snprintf(text, sizeof text, "; warp %u: lanes %08x wait, lane %u for mask %08x", warp, warps_[warp].waiting, lane,
                      warps_[warp].lanes[lane].mask);
        lanes += text;
    }
    fail("deadlock: of %u threads %u have exited and %zu wait at __syncthreads%s", total_, exited_, at_barrier_.size(),
         lanes.c_str());
}

void* dynamic_shared_memory() { return inside_kernel("emulated_dynamic_shared").shared_memory(); }
Votes synchronize_block(bool vote) { return inside_kernel("__syncthreads").wait_for_block(vote); }
void synchronize_warp(unsigned mask, Resolve resolve, void* operands) {
    inside_kernel("a warp instruction").wait_for_warp(mask, resolve, operands);
}
unsigned living_lanes() { return inside_kernel("__activemask").living_lanes(); }

}  // namespace emulated

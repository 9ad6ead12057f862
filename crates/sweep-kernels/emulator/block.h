// One block of a launch: its CUDA threads as fibers, its barrier and its warps.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace emulated {

// In which order the threads of a block start and continue (SWEEP_EMULATOR_ORDER), so that missing barriers show.
enum class Order { forward, reverse, random };
Order configured_order();

// A fiber. It runs one CUDA thread after the other; when a thread has to wait, the fiber is suspended with it, and another
// fiber goes on with the threads that have not started. A kernel without barriers thus needs one fiber for a whole block.
struct Strand {
    class BlockRunner* runner = nullptr;
    void* stack = nullptr;
    Context context = nullptr;
    unsigned thread = 0;
};

// What the lanes of a warp are waiting for.
struct Warp {
    struct Lane {
        unsigned mask = 0;
        Resolve resolve = nullptr;
        void* operands = nullptr;
    };
    unsigned waiting = 0;
    unsigned living = 0;
    Lane lanes[32];
};

// Runs blocks one after the other on one OS thread. The stacks are kept between launches, the contexts are not, so that a
// runner may serve launches from different OS threads.
class BlockRunner {
  public:
    void begin_launch(const Kernel& kernel, Index3 grid, Index3 block_size, size_t shared_bytes, void* const* parameters);
    void run(Index3 block);
    void end_launch();

    Votes wait_for_block(bool vote);
    void wait_for_warp(unsigned mask, Resolve resolve, void* operands);
    unsigned living_lanes() const;
    void* shared_memory() { return shared_bytes_ == 0 ? nullptr : shared_.get(); }
    const Kernel* kernel() const { return kernel_; }

  private:
    struct Waiter {
        unsigned thread;
        Votes* votes;
    };

    static void strand_main(void* strand);
    void reset();
    void shuffle_starts();
    void run_one(Strand& strand);
    void suspend();
    Strand* next_strand();
    void add_strand();
    void exit_thread(unsigned thread);
    bool complete_warp(unsigned warp, unsigned mask, unsigned self);
    void complete_waiting_groups(unsigned warp);
    bool complete_barrier();
    void make_ready(unsigned thread);
    unsigned take_ready();
    bool has_ready() const { return ready_head_ < ready_.size(); }
    void place(unsigned thread);
    uint32_t random();
    [[noreturn]] void report_deadlock();

    const Kernel* kernel_ = nullptr;
    void* const* parameters_ = nullptr;
    Index3 grid_, block_size_;
    unsigned total_ = 0, next_start_ = 0, exited_ = 0;
    Order order_ = Order::forward;
    uint32_t random_state_ = 0x9e3779b9;
    size_t shared_bytes_ = 0;
    size_t shared_capacity_ = 0;
    std::unique_ptr<char, void (*)(void*)> shared_{nullptr, nullptr};

    Context scheduler_ = nullptr;
    Strand* running_ = nullptr;
    std::vector<std::unique_ptr<Strand>> strands_;
    // Of strands_, those that have no context in this launch yet start here.
    size_t fresh_strands_ = 0;
    std::vector<Strand*> idle_;
    std::vector<Strand*> strand_of_;
    std::vector<unsigned> starts_;
    std::vector<unsigned> ready_;
    size_t ready_head_ = 0;
    std::vector<Warp> warps_;
    std::vector<Waiter> at_barrier_;
    Votes barrier_;
};

// The runner whose block the calling OS thread executes; null outside kernels.
BlockRunner* current_runner();

}  // namespace emulated

// What the libraries of the emulated device share: the work queue of the streams, the threads that execute blocks, and the
// execution of a block's CUDA threads as fibers. Everything declared here is defined in libcuda.so.1, so that the emulated
// cuBLAS, cuDNN and the compiled kernels find one and the same device in a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#define EMULATED_EXPORT __attribute__((visibility("default")))

namespace emulated {

// Three unsigned numbers, as CUDA's uint3 and dim3.
struct Index3 {
    unsigned x = 1, y = 1, z = 1;
    unsigned long long volume() const { return 1ull * x * y * z; }
};

// Where the running CUDA thread stands. The scheduler writes it before it resumes a fiber.
struct Coordinates {
    Index3 thread, block, block_size, grid_size;
    // Linear index of the thread in its block: lane = linear % 32, warp = linear / 32.
    unsigned linear = 0;
};
extern EMULATED_EXPORT __thread Coordinates coordinates __attribute__((tls_model("initial-exec")));

// A compiled kernel, as its library registers it.
struct Kernel {
    const char* name;
    // Calls the kernel once, as the thread of `coordinates`; `parameters[i]` points to the i-th argument.
    void (*enter)(void* const* parameters);
    size_t parameter_count;
    const size_t* parameter_sizes;
    // Overwrites the `__shared__` variables of the kernel's library, in the calling OS thread, with 0xFF bytes.
    void (*poison_shared)();
};
EMULATED_EXPORT void register_kernel(const Kernel& kernel);

// Start of the running block's dynamic shared memory, aligned to 16 bytes; null when the launch asked for none.
EMULATED_EXPORT void* dynamic_shared_memory();

// `__syncthreads`: suspends the thread until every thread of the block that has not exited has arrived. The votes are
// combined over the threads that arrive: their count, and whether any or all of them are true.
struct Votes {
    unsigned count = 0, arrived = 0;
};
EMULATED_EXPORT Votes synchronize_block(bool vote);

// A warp instruction: suspends the thread until all lanes of `mask` that have not exited have called it with the same mask
// and the same `resolve`. The last one calls `resolve` with every lane's operands (null for lanes that take no part).
using Resolve = void (*)(void* const operands[32]);
EMULATED_EXPORT void synchronize_warp(unsigned mask, Resolve resolve, void* operands);

// Lanes of the calling thread's warp that exist and have not exited.
EMULATED_EXPORT unsigned living_lanes();

// Ends the process with a message that names the running kernel, block and thread.
[[noreturn]] EMULATED_EXPORT void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Runs `body(0) … body(count - 1)`, spread over the emulator's OS threads; returns when all are done.
EMULATED_EXPORT void parallel(size_t count, const std::function<void(size_t)>& body);

// Hands work to a stream (a CUstream or cudaStream_t): run at once, or when the host waits (SWEEP_EMULATOR_STREAMS=lazy).
// `operation` names it in messages and must live as long as the process.
EMULATED_EXPORT void submit(void* stream, const char* operation, std::function<void()> work);

// Whether `[address, address + bytes)` lies in one living allocation of device memory or of pinned host memory.
EMULATED_EXPORT bool is_device_memory(const void* address, size_t bytes);

}  // namespace emulated

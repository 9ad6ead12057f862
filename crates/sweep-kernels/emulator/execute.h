// Inside libcuda.so.1: from a launch to its blocks, and the fault handler that knows which thread of which block is running.
#pragma once

#include "runtime.h"

namespace emulated {

// Runs every thread of a launch; `parameters[i]` points to the i-th argument.
void run_kernel(const Kernel& kernel, Index3 grid, Index3 block, size_t shared_bytes, void* const* parameters);

// The kernel of that name, or null. The first call loads the libraries of compiled kernels.
const Kernel* find_kernel(const char* name);

// The stream operation that runs now, for messages; null outside. Guarded by the lock under which operations run.
void set_operation(const char* name);

// Installs the handler that names kernel, block and thread when device code touches memory it does not own.
void install_fault_handler();

// One line about a faulting address and the allocation next to it; "" when none is near. Safe to call in the handler.
const char* describe_address(const void* address);

}  // namespace emulated

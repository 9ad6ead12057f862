// The device's memory: every allocation is a mapping of its own that ends at an inaccessible page, starts out as 0xFF bytes
// (NaN in every floating-point type) and becomes inaccessible when it is freed, so that overruns and uses after the free crash.
#pragma once

#include <cstddef>

namespace emulated {

// Allocates on a device; null when the device's configured memory (SWEEP_EMULATOR_MEMORY) would be exceeded. The address is a
// multiple of 16 and the last multiple of 16 bytes ends at the guard page.
void* allocate_device(int device, size_t bytes);
// Frees an allocation of `allocate_device`; false when the address is not the start of one. Ends the process when bytes next
// to the allocation were overwritten.
bool free_device(void* address);
// Whether the range lies in one living allocation of device memory.
bool is_on_device(const void* address, size_t bytes);
// Start and length of the allocation an address lies in; false when there is none.
bool allocation_of(const void* address, void** start, size_t* bytes);

size_t device_memory_total();
size_t device_memory_used(int device);
size_t device_memory_peak(int device);

// Page-locked host memory; null when the machine has none left.
void* allocate_host(size_t bytes);
bool free_host(void* address);
bool is_pinned(const void* address, size_t bytes);

}  // namespace emulated

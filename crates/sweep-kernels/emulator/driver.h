// What the files of libcuda.so.1 share: handles, error codes, the visible devices and the counters.
// Names and values are those of CUDA's driver API, version 13.0.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "execute.h"
#include "memory.h"
#include "stream.h"

#define CUDA_API extern "C" EMULATED_EXPORT

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUstream = void*;

enum : CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_NOT_SUPPORTED = 801,
};

namespace emulated {

// Figures of the emulated device: those of an H100 (compute capability 9.0).
constexpr unsigned MAX_THREADS_PER_BLOCK = 1024, MAX_BLOCK_Z = 64, MAX_GRID_X = 0x7fffffff, MAX_GRID_YZ = 65535;
constexpr size_t SHARED_PER_BLOCK = 48 * 1024, SHARED_PER_BLOCK_OPT_IN = 232448;
constexpr unsigned THREADS_PER_MULTIPROCESSOR = 2048, BLOCKS_PER_MULTIPROCESSOR = 32, MULTIPROCESSORS = 132;

// Physical device behind a CUdevice, after CUDA_VISIBLE_DEVICES.
const std::vector<int>& visible_devices();
bool is_device(CUdevice device);
int physical(CUdevice device);

struct ContextObject {
    CUdevice device;
};
ContextObject* primary_context(CUdevice device);
// The calling thread's context; null when it has none.
ContextObject*& current_context();
// The physical device of the calling thread's context, or -1.
int current_device();
// The stream behind a handle in the calling thread's context; null when either is missing.
Stream* find_stream(CUstream handle);

// Waits of the host that made a busy device idle, and launches so far, of all threads.
struct Counters {
    std::atomic<unsigned long long> idle_waits{0}, launches{0};
};
Counters& counters();
// How often the calling thread has waited so far.
unsigned long long& synchronizations();
// A wait of the host, counted when it is over.
struct Wait {
    Wait();
    ~Wait();
    bool was_idle;
};

}  // namespace emulated

// Modules, functions and launches of the driver API. A module's image is not looked at: kernels are found by their name among
// the compiled ones.
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "driver.h"

using namespace emulated;

namespace {

struct Function {
    std::string name;
    // Null when no compiled kernel has the name; launching it then ends the process.
    const Kernel* kernel;
    int max_dynamic_shared = SHARED_PER_BLOCK;
};

// Arguments are copied at the launch, as the driver does it.
struct Arguments {
    std::vector<std::unique_ptr<char[]>> values;
    std::vector<void*> pointers;
};

std::shared_ptr<Arguments> copy_arguments(const Kernel& kernel, void* const* parameters) {
    auto copied = std::make_shared<Arguments>();
    for (size_t i = 0; i < kernel.parameter_count; ++i) {
        size_t bytes = kernel.parameter_sizes[i];
        copied->values.emplace_back(new char[bytes]);
        std::memcpy(copied->values.back().get(), parameters[i], bytes);
        copied->pointers.push_back(copied->values.back().get());
    }
    return copied;
}

bool fits_the_hardware(Index3 grid, Index3 block, unsigned shared, const Function& function) {
    if (grid.volume() == 0 || block.volume() == 0) return false;
    if (block.volume() > MAX_THREADS_PER_BLOCK || block.x > 1024 || block.y > 1024 || block.z > MAX_BLOCK_Z) return false;
    if (grid.x > MAX_GRID_X || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) return false;
    return shared <= static_cast<unsigned>(function.max_dynamic_shared);
}

int active_blocks(int block_size, size_t shared) {
    if (block_size <= 0 || block_size > static_cast<int>(MAX_THREADS_PER_BLOCK)) return 0;
    size_t by_threads = THREADS_PER_MULTIPROCESSOR / static_cast<unsigned>(block_size);
    size_t by_shared = 233472 / (shared + 1024);
    return static_cast<int>(std::min({by_threads, by_shared, static_cast<size_t>(BLOCKS_PER_MULTIPROCESSOR)}));
}

}  // namespace

// ---- Modules ----

CUDA_API CUresult cuModuleLoadData(void** module, const void* image) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *module = new char;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }
CUDA_API CUresult cuModuleLoad(void** module, const char* file) { return cuModuleLoadData(module, file); }
CUDA_API CUresult cuModuleUnload(void* module) {
    delete static_cast<char*>(module);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, void*, const char*) { return CUDA_ERROR_NOT_FOUND; }

CUDA_API CUresult cuModuleGetFunction(Function** function, void* module, const char* name) {
    if (module == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
    // Lives as long as the process: a launch may wait in a queue when its module goes.
    *function = new Function{name, find_kernel(name)};
    return CUDA_SUCCESS;
}

// ---- Functions ----

CUDA_API CUresult cuFuncGetAttribute(int* value, int attribute, const Function* function) {
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    switch (attribute) {
        case 0: *value = MAX_THREADS_PER_BLOCK; break;
        case 4: *value = 32; break;         // registers
        case 5: case 6: *value = 90; break; // PTX and binary version
        case 8: *value = function->max_dynamic_shared; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute != 8) return CUDA_SUCCESS;
    if (value < 0 || static_cast<size_t>(value) > SHARED_PER_BLOCK_OPT_IN) return CUDA_ERROR_INVALID_VALUE;
    function->max_dynamic_shared = value;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuFuncSetCacheConfig(Function*, int) { return CUDA_SUCCESS; }

CUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, Function*, int block_size, size_t shared, unsigned) {
    *blocks = active_blocks(block_size, shared);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int block_size, size_t shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block_size, shared, 0);
}
CUDA_API CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, Function*, size_t (*)(int), size_t shared, int limit, unsigned) {
    *block = limit > 0 && limit < 1024 ? limit : 1024;
    *grid = active_blocks(*block, shared) * static_cast<int>(MULTIPROCESSORS);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, Function* function, size_t (*shared_of)(int), size_t shared, int limit) {
    return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, function, shared_of, shared, limit, 0);
}
CUDA_API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, Function*, int blocks, int) {
    if (blocks <= 0) return CUDA_ERROR_INVALID_VALUE;
    *bytes = std::min(SHARED_PER_BLOCK_OPT_IN, 233472 / static_cast<size_t>(blocks) - 1024);
    return CUDA_SUCCESS;
}

// ---- Launches ----

CUDA_API CUresult cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared, CUstream handle, void** parameters, void** extra) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr || function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    Index3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    if (extra != nullptr || !fits_the_hardware(grid, block, shared, *function)) return CUDA_ERROR_INVALID_VALUE;
    if (function->kernel == nullptr) fail("kernel `%s` is launched, but it is not among the compiled kernels", function->name.c_str());
    const Kernel& kernel = *function->kernel;
    if (kernel.parameter_count > 0 && parameters == nullptr) return CUDA_ERROR_INVALID_VALUE;
    ++counters().launches;
    submit_to(*stream, kernel.name, [&kernel, grid, block, shared, arguments = copy_arguments(kernel, parameters)] {
        run_kernel(kernel, grid, block, shared, arguments->pointers.data());
    });
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuLaunchCooperativeKernel(Function*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void**) {
    return CUDA_ERROR_NOT_SUPPORTED;
}

// Memory, copies and memory pools of the driver API.
#include <cstring>

#include "driver.h"

using namespace emulated;

namespace {

void* at(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// Copies of up to this many bytes are taken into the command buffer, so pageable memory does not make the host wait.
constexpr size_t INLINE_COPY = 64 * 1024;

CUresult allocate(CUdeviceptr* address, size_t bytes) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    void* memory = allocate_device(current_device(), bytes);
    if (memory == nullptr) {
        // Frees may be waiting in a queue.
        drain_all();
        memory = allocate_device(current_device(), bytes);
    }
    if (memory == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    *address = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
}

// Device code can reach device memory and page-locked host memory; no bytes are reached anywhere.
bool reachable(CUdeviceptr address, size_t bytes) { return bytes == 0 || is_device_memory(at(address), bytes); }

CUresult submit_copy(CUstream handle, const char* name, void* to, const void* from, size_t bytes) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    submit_to(*stream, name, [=] { std::memmove(to, from, bytes); });
    return CUDA_SUCCESS;
}

// A synchronous call: what was submitted before, then the copy, then the host goes on.
CUresult copy_now(const char* name, void* to, const void* from, size_t bytes) {
    CUresult result = submit_copy(nullptr, name, to, from, bytes);
    if (result != CUDA_SUCCESS) return result;
    Wait wait;
    drain(*find_stream(nullptr));
    return CUDA_SUCCESS;
}

template <typename Value>
CUresult submit_fill(CUstream handle, const char* name, CUdeviceptr address, Value value, size_t count) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!reachable(address, count * sizeof(Value)) || address % sizeof(Value) != 0) return CUDA_ERROR_INVALID_VALUE;
    submit_to(*stream, name, [=] {
        auto* values = static_cast<Value*>(at(address));
        for (size_t i = 0; i < count; ++i) values[i] = value;
    });
    return CUDA_SUCCESS;
}

}  // namespace

// ---- Allocation ----

CUDA_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) { return allocate(address, bytes); }
CUDA_API CUresult cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned) { return allocate(address, bytes); }
// No bytes are an error to the synchronous call; this one gives the null address, which cudarc and candle rely on.
CUDA_API CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
    if (find_stream(stream) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    *address = 0;
    return bytes == 0 ? CUDA_SUCCESS : allocate(address, bytes);
}
CUDA_API CUresult cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, void*, CUstream stream) {
    return cuMemAllocAsync(address, bytes, stream);
}

CUDA_API CUresult cuMemFree_v2(CUdeviceptr address) {
    if (address == 0) return CUDA_SUCCESS;
    Wait wait;
    drain_all();
    return free_device(at(address)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    if (address == 0) return CUDA_SUCCESS;
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!is_on_device(at(address), 0)) return CUDA_ERROR_INVALID_VALUE;
    submit_to(*stream, "cuMemFreeAsync", [=] {
        if (!free_device(at(address))) fail("%p is freed twice, or is not the start of an allocation", at(address));
    });
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *total = device_memory_total();
    *free = *total - device_memory_used(current_device());
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
    void* start;
    size_t length;
    if (!allocation_of(at(address), &start, &length)) return CUDA_ERROR_NOT_FOUND;
    if (base != nullptr) *base = reinterpret_cast<CUdeviceptr>(start);
    if (bytes != nullptr) *bytes = length;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    *address = allocate_host(bytes);
    return *address == nullptr ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUDA_API CUresult cuMemAllocHost_v2(void** address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

CUDA_API CUresult cuMemFreeHost(void* address) {
    Wait wait;
    drain_all();
    return free_host(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* host, unsigned) {
    if (!is_pinned(host, 0)) return CUDA_ERROR_INVALID_VALUE;
    *device = reinterpret_cast<CUdeviceptr>(host);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuMemAdvise_v2(CUdeviceptr, size_t, int, unsigned long long) { return CUDA_SUCCESS; }
CUDA_API CUresult cuMemPrefetchAsync_v2(CUdeviceptr, size_t, unsigned long long, unsigned, CUstream) { return CUDA_SUCCESS; }

// ---- Fills ----

CUDA_API CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t count, CUstream stream) { return submit_fill(stream, "cuMemsetD8Async", address, value, count); }
CUDA_API CUresult cuMemsetD16Async(CUdeviceptr address, unsigned short value, size_t count, CUstream stream) { return submit_fill(stream, "cuMemsetD16Async", address, value, count); }
CUDA_API CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t count, CUstream stream) { return submit_fill(stream, "cuMemsetD32Async", address, value, count); }
CUDA_API CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t count) { return submit_fill(nullptr, "cuMemsetD8", address, value, count); }
CUDA_API CUresult cuMemsetD16_v2(CUdeviceptr address, unsigned short value, size_t count) { return submit_fill(nullptr, "cuMemsetD16", address, value, count); }
CUDA_API CUresult cuMemsetD32_v2(CUdeviceptr address, unsigned value, size_t count) { return submit_fill(nullptr, "cuMemsetD32", address, value, count); }

// ---- Copies ----

CUDA_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return reachable(to, bytes) ? copy_now("cuMemcpyHtoD", at(to), from, bytes) : CUDA_ERROR_INVALID_VALUE;
}
CUDA_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return reachable(from, bytes) ? copy_now("cuMemcpyDtoH", to, at(from), bytes) : CUDA_ERROR_INVALID_VALUE;
}
CUDA_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    if (!reachable(to, bytes) || !reachable(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return submit_copy(nullptr, "cuMemcpyDtoD", at(to), at(from), bytes);
}
CUDA_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (!reachable(to, bytes) || !reachable(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return submit_copy(stream, "cuMemcpyDtoDAsync", at(to), at(from), bytes);
}
CUDA_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, void*, CUdeviceptr from, void*, size_t bytes, CUstream stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}

// From pageable memory the driver takes a copy before it returns; from page-locked memory it reads when the stream gets there.
CUDA_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream handle) {
    if (!reachable(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (is_pinned(from, bytes)) return submit_copy(handle, "cuMemcpyHtoDAsync", at(to), from, bytes);
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const char* source = static_cast<const char*>(from);
    submit_to(*stream, "cuMemcpyHtoDAsync", [to, staged = std::vector<char>(source, source + bytes)] {
        std::memcpy(at(to), staged.data(), staged.size());
    });
    if (bytes > INLINE_COPY) {
        Wait wait;
        drain(*stream);
    }
    return CUDA_SUCCESS;
}

// Into pageable memory the driver returns only when the copy is done.
CUDA_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream handle) {
    if (!reachable(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = submit_copy(handle, "cuMemcpyDtoHAsync", to, at(from), bytes);
    if (result == CUDA_SUCCESS && !is_pinned(to, bytes)) {
        Wait wait;
        drain(*find_stream(handle));
    }
    return result;
}

// ---- Pools: one for each device, whose attributes are accepted and only those that count memory are answered ----

CUDA_API CUresult cuDeviceGetDefaultMemPool(void** pool, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *pool = primary_context(device);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuDeviceGetMemPool(void** pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }
CUDA_API CUresult cuDeviceSetMemPool(CUdevice device, void*) { return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUDA_API CUresult cuMemPoolCreate(void** pool, const void*) { return cuDeviceGetDefaultMemPool(pool, 0); }
CUDA_API CUresult cuMemPoolDestroy(void*) { return CUDA_SUCCESS; }
CUDA_API CUresult cuMemPoolTrimTo(void*, size_t) { return CUDA_SUCCESS; }
CUDA_API CUresult cuMemPoolSetAttribute(void*, int, void*) { return CUDA_SUCCESS; }
CUDA_API CUresult cuMemPoolGetAttribute(void* pool, int attribute, void* value) {
    int device = physical(static_cast<ContextObject*>(pool)->device);
    bool small = attribute <= 3;
    bool peak = attribute == 6 || attribute == 8;
    unsigned long long answer = attribute == 4 ? 0 : peak ? device_memory_peak(device) : device_memory_used(device);
    if (small) {
        *static_cast<int*>(value) = 1;
    } else {
        *static_cast<unsigned long long*>(value) = answer;
    }
    return CUDA_SUCCESS;
}

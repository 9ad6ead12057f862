// Devices, contexts, streams and events of the driver API.
#include "driver.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>

#include "identity.h"

namespace emulated {

namespace {

// One entry of CUDA_VISIBLE_DEVICES: an index or the beginning of a UUID. -1 when it names no device.
int device_named(const std::string& name) {
    if (name.compare(0, 4, "GPU-") == 0) {
        for (int device = 0; device < machine_devices(); ++device) {
            if (uuid_text(device).compare(0, name.size(), name) == 0) return device;
        }
        return -1;
    }
    char* end;
    long index = std::strtol(name.c_str(), &end, 10);
    return name.empty() || *end != 0 || index >= machine_devices() ? -1 : static_cast<int>(index);
}

// As the driver reads it: the list ends at the first entry that names no device.
std::vector<int> read_visible() {
    std::vector<int> devices;
    const char* text = std::getenv("CUDA_VISIBLE_DEVICES");
    if (text == nullptr) {
        for (int device = 0; device < machine_devices(); ++device) devices.push_back(device);
        return devices;
    }
    std::istringstream list(text);
    for (std::string name; std::getline(list, name, ',');) {
        int device = device_named(name);
        if (device < 0) break;
        devices.push_back(device);
    }
    return devices;
}

bool& initialized() {
    static bool done = false;
    return done;
}

int attribute(int name) {
    switch (name) {
        case 1: return MAX_THREADS_PER_BLOCK;
        case 2: case 3: return 1024;                        // block x, y
        case 4: return MAX_BLOCK_Z;
        case 5: return MAX_GRID_X;
        case 6: case 7: return MAX_GRID_YZ;
        case 8: return SHARED_PER_BLOCK;
        case 9: return 65536;                               // constant memory
        case 10: return 32;                                 // warp size
        case 12: case 82: return 65536;                     // registers per block, per multiprocessor
        case 13: return 1980000;                            // clock in kHz
        case 14: return 512;                                // texture alignment
        case 16: return MULTIPROCESSORS;
        case 36: return 2619000;                            // memory clock in kHz
        case 37: return 5120;                               // memory bus in bits
        case 38: return 50 << 20;                           // L2 cache
        case 39: return THREADS_PER_MULTIPROCESSOR;
        case 15: case 19: case 31: case 41: case 78: return 1;  // overlap, mapped host memory, concurrent kernels, unified addresses, priorities
        case 40: return 3;                                  // copy engines
        case 75: return 9;                                  // compute capability
        case 76: return 0;
        case 81: return 233472;                             // shared memory per multiprocessor
        case 97: return SHARED_PER_BLOCK_OPT_IN;
        case 106: return BLOCKS_PER_MULTIPROCESSOR;
        case 111: return 1024;                              // reserved shared memory per block
        case 115: return 1;                                 // memory pools
        default: return 0;
    }
}

}  // namespace

const std::vector<int>& visible_devices() {
    static const auto* devices = new std::vector<int>(read_visible());
    return *devices;
}

bool is_device(CUdevice device) { return device >= 0 && static_cast<size_t>(device) < visible_devices().size(); }

int physical(CUdevice device) { return visible_devices()[static_cast<size_t>(device)]; }

ContextObject* primary_context(CUdevice device) {
    static std::mutex mutex;
    static auto* contexts = new std::map<CUdevice, ContextObject*>;
    std::lock_guard<std::mutex> lock(mutex);
    ContextObject*& context = (*contexts)[device];
    if (context == nullptr) context = new ContextObject{device};
    return context;
}

ContextObject*& current_context() {
    thread_local ContextObject* context = nullptr;
    return context;
}

int current_device() { return current_context() == nullptr ? -1 : physical(current_context()->device); }

Stream* find_stream(CUstream handle) { return current_context() == nullptr ? nullptr : stream_of(handle, current_device()); }

Counters& counters() {
    static auto* all = new Counters;
    return *all;
}

unsigned long long& synchronizations() {
    thread_local unsigned long long count = 0;
    return count;
}

void submit(void* stream, const char* operation, std::function<void()> work) {
    Stream* target = find_stream(stream);
    if (target == nullptr) fail("%s: there is no such stream in the calling thread's context", operation);
    submit_to(*target, operation, std::move(work));
}

Wait::Wait() : was_idle(is_idle()) {}

Wait::~Wait() {
    ++synchronizations();
    if (!was_idle && is_idle()) ++counters().idle_waits;
}

}  // namespace emulated

using namespace emulated;

// ---- What tests read ----

// How often the calling thread has waited for the device: stream, context and event synchronisations, synchronous copies, copies
// to or from host memory that is not page-locked, and frees that synchronise.
CUDA_API unsigned long long sweep_emulator_synchronizations() { return synchronizations(); }
// How many waits of all threads found a busy device and left it with nothing to do. Where streams are eager, none.
CUDA_API unsigned long long sweep_emulator_idle_waits() { return counters().idle_waits.load(); }
// Kernels launched so far; work of the libraries does not count.
CUDA_API unsigned long long sweep_emulator_launches() { return counters().launches.load(); }
// Bytes allocated on a physical device by this process, now and at most.
CUDA_API size_t sweep_emulator_memory_used(int device) { return device_memory_used(device); }
CUDA_API size_t sweep_emulator_memory_peak(int device) { return device_memory_peak(device); }

// ---- Errors ----

namespace {
struct ErrorText {
    CUresult code;
    const char *name, *text;
};
constexpr ErrorText ERRORS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

CUresult error_text(CUresult code, const char** out, const char* ErrorText::* field) {
    for (const ErrorText& error : ERRORS) {
        if (error.code != code) continue;
        *out = error.*field;
        return CUDA_SUCCESS;
    }
    *out = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}
}  // namespace

CUDA_API CUresult cuGetErrorName(CUresult code, const char** out) { return error_text(code, out, &ErrorText::name); }
CUDA_API CUresult cuGetErrorString(CUresult code, const char** out) { return error_text(code, out, &ErrorText::text); }

// ---- Devices ----

CUDA_API CUresult cuInit(unsigned flags) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (visible_devices().empty()) return CUDA_ERROR_NO_DEVICE;
    install_fault_handler();
    initialized() = true;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetCount(int* count) {
    if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
    *count = static_cast<int>(visible_devices().size());
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
    if (!is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    if (length <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, static_cast<size_t>(length), "%s", DEVICE_NAME);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetUuid_v2(unsigned char* uuid, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    uuid_bytes(physical(device), uuid);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuDeviceGetUuid(unsigned char* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

CUDA_API CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    std::snprintf(text, static_cast<size_t>(length), "0000:%02X:00.0", physical(device) + 1);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetAttribute(int* value, int name, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *value = name == 33 ? physical(device) + 1 : attribute(name);  // 33: PCI bus
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = device_memory_total();
    return CUDA_SUCCESS;
}

// ---- Contexts ----

CUDA_API CUresult cuDevicePrimaryCtxRetain(ContextObject** context, CUdevice device) {
    if (!initialized()) return CUDA_ERROR_NOT_INITIALIZED;
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *context = primary_context(device);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }

CUDA_API CUresult cuCtxGetCurrent(ContextObject** context) {
    *context = current_context();
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuCtxSetCurrent(ContextObject* context) {
    current_context() = context;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuCtxGetDevice(CUdevice* device) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *device = current_context()->device;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuCtxSynchronize() {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    Wait wait;
    drain_all();
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuCtxSetFlags(unsigned) { return CUDA_SUCCESS; }
CUDA_API CUresult cuCtxSetLimit(int, size_t) { return CUDA_SUCCESS; }
CUDA_API CUresult cuCtxGetLimit(size_t* value, int) {
    *value = 0;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuCtxSetCacheConfig(int) { return CUDA_SUCCESS; }
CUDA_API CUresult cuCtxGetCacheConfig(int* config) {
    *config = 0;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuProfilerStart() { return CUDA_SUCCESS; }
CUDA_API CUresult cuProfilerStop() { return CUDA_SUCCESS; }

// ---- Streams ----

CUDA_API CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (flags > 1) return CUDA_ERROR_INVALID_VALUE;
    *stream = create_stream(current_device(), flags == 0);
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuStreamCreate(CUstream* stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

CUDA_API CUresult cuStreamDestroy_v2(CUstream handle) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr || handle != stream) return CUDA_ERROR_INVALID_HANDLE;
    destroy_stream(stream);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamSynchronize(CUstream handle) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    Wait wait;
    drain(*stream);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamQuery(CUstream handle) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    bool done = stream->completed == stream->submitted;
    // A query makes progress, as time does on a device: whoever polls sees the work complete at the second look.
    drain(*stream);
    return done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUDA_API CUresult cuStreamWaitEvent(CUstream handle, Event* event, unsigned) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr || event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    submit_to(*stream, "cuStreamWaitEvent", [point = *event] { drain_to(point); });
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuLaunchHostFunc(CUstream handle, void (*function)(void*), void* data) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    submit_to(*stream, "cuLaunchHostFunc", [=] { function(data); });
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamAttachMemAsync(CUstream, CUdeviceptr, size_t, unsigned) { return CUDA_SUCCESS; }

CUDA_API CUresult cuStreamIsCapturing(CUstream handle, int* status) {
    if (find_stream(handle) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    *status = 0;
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuStreamBeginCapture_v2(CUstream, int) { return CUDA_ERROR_NOT_SUPPORTED; }
CUDA_API CUresult cuStreamEndCapture(CUstream, void**) { return CUDA_ERROR_NOT_SUPPORTED; }
CUDA_API CUresult cuGraphInstantiateWithFlags(void**, void*, unsigned long long) { return CUDA_ERROR_NOT_SUPPORTED; }
CUDA_API CUresult cuGraphLaunch(void*, CUstream) { return CUDA_ERROR_NOT_SUPPORTED; }
CUDA_API CUresult cuGraphUpload(void*, CUstream) { return CUDA_ERROR_NOT_SUPPORTED; }
CUDA_API CUresult cuGraphDestroy(void*) { return CUDA_ERROR_NOT_SUPPORTED; }
CUDA_API CUresult cuGraphExecDestroy(void*) { return CUDA_ERROR_NOT_SUPPORTED; }

// ---- Events ----

CUDA_API CUresult cuEventCreate(Event** event, unsigned flags) {
    if (current_context() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *event = new Event;
    (*event)->timed = (flags & 2) == 0;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventDestroy_v2(Event* event) {
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    // A record that still waits in a queue will write to the event.
    if (is_complete(*event)) delete event;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventRecord(Event* event, CUstream handle) {
    Stream* stream = find_stream(handle);
    if (stream == nullptr || event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    submit_to(*stream, "cuEventRecord", [event] { event->time = std::chrono::steady_clock::now(); });
    event->stream = stream;
    event->position = stream->submitted;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventQuery(Event* event) {
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    bool done = is_complete(*event);
    drain_to(*event);
    return done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUDA_API CUresult cuEventSynchronize(Event* event) {
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    Wait wait;
    drain_to(*event);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventElapsedTime_v2(float* milliseconds, const Event* start, const Event* end) {
    if (start == nullptr || end == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!start->timed || !end->timed || start->stream == nullptr || end->stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!is_complete(*start) || !is_complete(*end)) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUDA_SUCCESS;
}
CUDA_API CUresult cuEventElapsedTime(float* milliseconds, const Event* start, const Event* end) { return cuEventElapsedTime_v2(milliseconds, start, end); }

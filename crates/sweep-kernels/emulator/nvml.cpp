// libnvidia-ml: name, UUID, memory and use of the emulated devices. NVML sees every device of the machine, whatever
// CUDA_VISIBLE_DEVICES says. Of memory it knows what the asking process itself has allocated.
#include <dlfcn.h>
#include <strings.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "identity.h"

#define NVML_API extern "C" __attribute__((visibility("default")))

using namespace emulated;

using nvmlReturn = unsigned;
enum : nvmlReturn {
    NVML_SUCCESS = 0,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
};

namespace {

constexpr int MAX_DEVICES = 16;

// A device handle points to the device's entry here.
int devices[MAX_DEVICES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

int number_of(const void* handle) { return *static_cast<const int*>(handle); }

unsigned long long total_memory() {
    const char* text = std::getenv("SWEEP_EMULATOR_MEMORY");
    return text == nullptr ? 4ull << 30 : std::strtoull(text, nullptr, 10);
}

// The emulated driver counts, if the process has it.
unsigned long long used_memory(int device) {
    auto* used = reinterpret_cast<size_t (*)(int)>(dlsym(RTLD_DEFAULT, "sweep_emulator_memory_used"));
    return used == nullptr ? 0 : used(device);
}

nvmlReturn write_text(const std::string& text, char* out, unsigned length) {
    if (out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
    if (text.size() >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    std::memcpy(out, text.c_str(), text.size() + 1);
    return NVML_SUCCESS;
}

// Domains have four digits in the driver's texts and eight in NVML's.
std::string bus_id(int device, bool long_domain) {
    char text[32];
    std::snprintf(text, sizeof text, long_domain ? "00000000:%02X:00.0" : "0000:%02X:00.0", device + 1);
    return text;
}

struct Memory {
    unsigned long long total, free, used;
};
struct MemoryV2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct Pci {
    char legacy_bus_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
struct Utilization {
    unsigned gpu, memory;
};
struct Process {
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
};

nvmlReturn find(void** handle, int device) {
    *handle = &devices[device];
    return NVML_SUCCESS;
}

}  // namespace

NVML_API nvmlReturn nvmlInit_v2() { return NVML_SUCCESS; }
NVML_API nvmlReturn nvmlInitWithFlags(unsigned) { return NVML_SUCCESS; }
NVML_API nvmlReturn nvmlShutdown() { return NVML_SUCCESS; }
NVML_API const char* nvmlErrorString(nvmlReturn code) {
    switch (code) {
        case NVML_SUCCESS: return "Success";
        case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
        case NVML_ERROR_NOT_FOUND: return "Not Found";
        case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
        default: return "Unknown Error";
    }
}
NVML_API nvmlReturn nvmlSystemGetDriverVersion(char* out, unsigned length) { return write_text(DRIVER_VERSION, out, length); }
NVML_API nvmlReturn nvmlSystemGetNVMLVersion(char* out, unsigned length) { return write_text(std::string("13.") + DRIVER_VERSION, out, length); }
NVML_API nvmlReturn nvmlSystemGetCudaDriverVersion_v2(int* version) {
    *version = 13000;
    return NVML_SUCCESS;
}

NVML_API nvmlReturn nvmlDeviceGetCount_v2(unsigned* count) {
    *count = static_cast<unsigned>(machine_devices());
    return NVML_SUCCESS;
}
NVML_API nvmlReturn nvmlDeviceGetHandleByIndex_v2(unsigned index, void** handle) {
    return index < static_cast<unsigned>(machine_devices()) ? find(handle, static_cast<int>(index)) : NVML_ERROR_INVALID_ARGUMENT;
}
NVML_API nvmlReturn nvmlDeviceGetHandleByUUID(const char* uuid, void** handle) {
    for (int device = 0; device < machine_devices(); ++device) {
        if (uuid_text(device) == uuid) return find(handle, device);
    }
    return NVML_ERROR_NOT_FOUND;
}
NVML_API nvmlReturn nvmlDeviceGetHandleByPciBusId_v2(const char* text, void** handle) {
    for (int device = 0; device < machine_devices(); ++device) {
        if (strcasecmp(text, bus_id(device, false).c_str()) == 0 || strcasecmp(text, bus_id(device, true).c_str()) == 0) return find(handle, device);
    }
    return NVML_ERROR_NOT_FOUND;
}

NVML_API nvmlReturn nvmlDeviceGetIndex(const void* handle, unsigned* index) {
    *index = static_cast<unsigned>(number_of(handle));
    return NVML_SUCCESS;
}
NVML_API nvmlReturn nvmlDeviceGetName(const void*, char* out, unsigned length) { return write_text(DEVICE_NAME, out, length); }
NVML_API nvmlReturn nvmlDeviceGetUUID(const void* handle, char* out, unsigned length) { return write_text(uuid_text(number_of(handle)), out, length); }
NVML_API nvmlReturn nvmlDeviceGetPciInfo_v3(const void* handle, Pci* pci) {
    int device = number_of(handle);
    *pci = Pci{};
    pci->bus = static_cast<unsigned>(device + 1);
    write_text(bus_id(device, false), pci->legacy_bus_id, sizeof pci->legacy_bus_id);
    return write_text(bus_id(device, true), pci->bus_id, sizeof pci->bus_id);
}
NVML_API nvmlReturn nvmlDeviceGetMemoryInfo(const void* handle, Memory* memory) {
    unsigned long long used = used_memory(number_of(handle));
    *memory = {total_memory(), total_memory() - used, used};
    return NVML_SUCCESS;
}
NVML_API nvmlReturn nvmlDeviceGetMemoryInfo_v2(const void* handle, MemoryV2* memory) {
    unsigned long long used = used_memory(number_of(handle));
    *memory = {memory->version, total_memory(), 0, total_memory() - used, used};
    return NVML_SUCCESS;
}
NVML_API nvmlReturn nvmlDeviceGetUtilizationRates(const void* handle, Utilization* utilization) {
    bool in_use = used_memory(number_of(handle)) > 0;
    *utilization = {in_use ? 100u : 0u, in_use ? 50u : 0u};
    return NVML_SUCCESS;
}
NVML_API nvmlReturn nvmlDeviceGetComputeRunningProcesses_v3(const void* handle, unsigned* count, Process* processes) {
    unsigned long long used = used_memory(number_of(handle));
    unsigned present = used > 0 ? 1 : 0, room = *count;
    *count = present;
    if (room < present) return NVML_ERROR_INSUFFICIENT_SIZE;
    constexpr unsigned none = 0xFFFFFFFFu;
    if (present > 0) processes[0] = {static_cast<unsigned>(getpid()), used, none, none};
    return NVML_SUCCESS;
}
NVML_API nvmlReturn nvmlDeviceGetComputeRunningProcesses_v2(const void* handle, unsigned* count, Process* processes) {
    return nvmlDeviceGetComputeRunningProcesses_v3(handle, count, processes);
}

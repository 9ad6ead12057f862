// How many devices the machine seems to have and what they are called: the same answers from the driver and from NVML.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace emulated {

constexpr const char* DEVICE_NAME = "Emulated";
constexpr const char* DRIVER_VERSION = "580.00.00";

// SWEEP_EMULATOR_DEVICES, at least 0 and at most 16; 1 when unset.
inline int machine_devices() {
    const char* text = std::getenv("SWEEP_EMULATOR_DEVICES");
    if (text == nullptr) return 1;
    int count = std::atoi(text);
    return count < 0 ? 0 : count > 16 ? 16 : count;
}

// The 16 bytes of a device's UUID; only the last one differs between devices.
inline void uuid_bytes(int device, unsigned char bytes[16]) {
    const unsigned char base[16] = {0x53, 0x77, 0x65, 0x65, 0x70, 0x00, 0x40, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};
    for (int i = 0; i < 16; ++i) bytes[i] = base[i];
    bytes[15] = static_cast<unsigned char>(device);
}

// As `nvidia-smi -L` prints it: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.
inline std::string uuid_text(int device) {
    unsigned char bytes[16];
    uuid_bytes(device, bytes);
    std::string text = "GPU-";
    for (int i = 0; i < 16; ++i) {
        char digits[3];
        std::snprintf(digits, sizeof digits, "%02x", bytes[i]);
        if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
        text += digits;
    }
    return text;
}

}  // namespace emulated

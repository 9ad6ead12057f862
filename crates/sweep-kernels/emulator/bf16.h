// bfloat16 and TF32 as bits: shared by the kernels' dialect and the emulated libraries.
#pragma once

#include <cstdint>
#include <cstring>

namespace emulated {

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float bf16_to_float(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }

// To nearest, ties to even. Every NaN becomes 0x7FFF, as CUDA's conversion gives it.
inline uint16_t float_to_bf16(float value) {
    uint32_t bits = float_to_bits(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
    return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// cvt.rna.tf32.f32: 10 bits of mantissa, to nearest, ties away from zero.
inline float round_to_tf32(float value) {
    uint32_t bits = float_to_bits(value);
    if ((bits & 0x7F800000u) == 0x7F800000u) return value;
    return bits_to_float((bits + 0x1000u) & 0xFFFFE000u);
}

}  // namespace emulated

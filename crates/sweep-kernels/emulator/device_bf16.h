// __nv_bfloat16 with the conversions and the arithmetic of cuda_bf16.h: every operation computes in f32 and rounds once.
#pragma once

#include "bf16.h"

struct __nv_bfloat16 {
    uint16_t bits;

    __nv_bfloat16() = default;
    __nv_bfloat16(float value) : bits(emulated::float_to_bf16(value)) {}
    __nv_bfloat16(double value) : bits(emulated::float_to_bf16(static_cast<float>(value))) {}
    __nv_bfloat16(int value) : bits(emulated::float_to_bf16(static_cast<float>(value))) {}
    operator float() const { return emulated::bf16_to_float(bits); }
    __nv_bfloat16& operator=(float value) { return *this = __nv_bfloat16(value); }
    __nv_bfloat16& operator+=(__nv_bfloat16 other) { return *this = __nv_bfloat16(float(*this) + float(other)); }
    __nv_bfloat16& operator-=(__nv_bfloat16 other) { return *this = __nv_bfloat16(float(*this) - float(other)); }
    __nv_bfloat16& operator*=(__nv_bfloat16 other) { return *this = __nv_bfloat16(float(*this) * float(other)); }
    __nv_bfloat16& operator/=(__nv_bfloat16 other) { return *this = __nv_bfloat16(float(*this) / float(other)); }
};
using nv_bfloat16 = __nv_bfloat16;

#define EMULATED_BF16_OPERATOR(symbol) \
    inline __nv_bfloat16 operator symbol(__nv_bfloat16 left, __nv_bfloat16 right) { return __nv_bfloat16(float(left) symbol float(right)); }
EMULATED_BF16_OPERATOR(+)
EMULATED_BF16_OPERATOR(-)
EMULATED_BF16_OPERATOR(*)
EMULATED_BF16_OPERATOR(/)
#define EMULATED_BF16_COMPARISON(symbol) \
    inline bool operator symbol(__nv_bfloat16 left, __nv_bfloat16 right) { return float(left) symbol float(right); }
EMULATED_BF16_COMPARISON(==)
EMULATED_BF16_COMPARISON(!=)
EMULATED_BF16_COMPARISON(<)
EMULATED_BF16_COMPARISON(>)
EMULATED_BF16_COMPARISON(<=)
EMULATED_BF16_COMPARISON(>=)

struct __align__(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;

    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __double2bfloat16(double value) { return __nv_bfloat16(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return float(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {__nv_bfloat16(low), __nv_bfloat16(high)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return __floats2bfloat162_rn(pair.x, pair.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float value) { return __floats2bfloat162_rn(value, value); }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {float(pair.x), float(pair.y)}; }
inline float __low2float(__nv_bfloat162 pair) { return float(pair.x); }
inline float __high2float(__nv_bfloat162 pair) { return float(pair.y); }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 value) { return {value, value}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
    __nv_bfloat16 value;
    value.bits = bits;
    return value;
}

inline __nv_bfloat16 __hadd(__nv_bfloat16 left, __nv_bfloat16 right) { return left + right; }
inline __nv_bfloat16 __hsub(__nv_bfloat16 left, __nv_bfloat16 right) { return left - right; }
inline __nv_bfloat16 __hmul(__nv_bfloat16 left, __nv_bfloat16 right) { return left * right; }
inline __nv_bfloat16 __hdiv(__nv_bfloat16 left, __nv_bfloat16 right) { return left / right; }
inline __nv_bfloat16 __hneg(__nv_bfloat16 value) { return __nv_bfloat16(-float(value)); }
inline __nv_bfloat16 __habs(__nv_bfloat16 value) { return __nv_bfloat16(fabsf(float(value))); }
inline __nv_bfloat16 __hmax(__nv_bfloat16 left, __nv_bfloat16 right) { return __nv_bfloat16(fmaxf(float(left), float(right))); }
inline __nv_bfloat16 __hmin(__nv_bfloat16 left, __nv_bfloat16 right) { return __nv_bfloat16(fminf(float(left), float(right))); }
inline __nv_bfloat16 __hfma(__nv_bfloat16 left, __nv_bfloat16 right, __nv_bfloat16 addend) { return __nv_bfloat16(fmaf(float(left), float(right), float(addend))); }
inline bool __hisnan(__nv_bfloat16 value) { return isnan(float(value)); }
inline __nv_bfloat162 __hadd2(__nv_bfloat162 left, __nv_bfloat162 right) { return {left.x + right.x, left.y + right.y}; }
inline __nv_bfloat162 __hsub2(__nv_bfloat162 left, __nv_bfloat162 right) { return {left.x - right.x, left.y - right.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 left, __nv_bfloat162 right) { return {left.x * right.x, left.y * right.y}; }
inline __nv_bfloat162 __hmax2(__nv_bfloat162 left, __nv_bfloat162 right) { return {__hmax(left.x, right.x), __hmax(left.y, right.y)}; }
inline __nv_bfloat162 __hfma2(__nv_bfloat162 left, __nv_bfloat162 right, __nv_bfloat162 addend) { return {__hfma(left.x, right.x, addend.x), __hfma(left.y, right.y, addend.y)}; }
inline __nv_bfloat16 atomicAdd(__nv_bfloat16* address, __nv_bfloat16 value) {
    uint16_t old = emulated_atomic(&address->bits, [=](uint16_t bits) { return (__ushort_as_bfloat16(bits) + value).bits; });
    return __ushort_as_bfloat16(old);
}

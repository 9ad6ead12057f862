// Arithmetic of the CUDA dialect: roundings, approximations (here as exact as the host's library), bits, loads and atomics.
#pragma once

// ---- Minimum and maximum of mixed types, as CUDA declares them in the global namespace ----

#define EMULATED_MIN_MAX(Type)                                        \
    inline Type min(Type left, Type right) { return right < left ? right : left; } \
    inline Type max(Type left, Type right) { return left < right ? right : left; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
inline unsigned min(int left, unsigned right) { return min(static_cast<unsigned>(left), right); }
inline unsigned min(unsigned left, int right) { return min(left, static_cast<unsigned>(right)); }
inline unsigned max(int left, unsigned right) { return max(static_cast<unsigned>(left), right); }
inline unsigned max(unsigned left, int right) { return max(left, static_cast<unsigned>(right)); }
// A NaN loses, as with fminf.
inline float min(float left, float right) { return fminf(left, right); }
inline float max(float left, float right) { return fmaxf(left, right); }
inline double min(double left, double right) { return fmin(left, right); }
inline double max(double left, double right) { return fmax(left, right); }

// ---- Single precision ----

inline float __fadd_rn(float left, float right) { return left + right; }
inline float __fsub_rn(float left, float right) { return left - right; }
inline float __fmul_rn(float left, float right) { return left * right; }
inline float __fdiv_rn(float left, float right) { return left / right; }
inline float __fmaf_rn(float left, float right, float addend) { return fmaf(left, right, addend); }
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float __fsqrt_rn(float value) { return sqrtf(value); }
inline float __frsqrt_rn(float value) { return static_cast<float>(1.0 / sqrt(static_cast<double>(value))); }
inline float __fdividef(float left, float right) { return left / right; }
inline float __saturatef(float value) { return fminf(fmaxf(value, 0.0f), 1.0f); }
inline float rsqrtf(float value) { return __frsqrt_rn(value); }
inline float normcdff(float value) { return 0.5f * erfcf(-value * static_cast<float>(M_SQRT1_2)); }
inline float emulated_exp(float value) { return expf(value); }
inline float emulated_exp10(float value) { return exp10f(value); }
inline float emulated_log(float value) { return logf(value); }
inline float emulated_log2(float value) { return log2f(value); }
inline float emulated_log10(float value) { return log10f(value); }
inline float emulated_sin(float value) { return sinf(value); }
inline float emulated_cos(float value) { return cosf(value); }
inline float emulated_tan(float value) { return tanf(value); }
inline float emulated_pow(float base, float exponent) { return powf(base, exponent); }
// glibc declares functions of these names itself.
#define __expf(value) emulated_exp(value)
#define __exp10f(value) emulated_exp10(value)
#define __logf(value) emulated_log(value)
#define __log2f(value) emulated_log2(value)
#define __log10f(value) emulated_log10(value)
#define __sinf(value) emulated_sin(value)
#define __cosf(value) emulated_cos(value)
#define __tanf(value) emulated_tan(value)
#define __powf(base, exponent) emulated_pow(base, exponent)
// tanh.approx.f32
inline float __tanhf_approx(float value) { return tanhf(value); }

// ---- Double precision ----

inline double __dadd_rn(double left, double right) { return left + right; }
inline double __dsub_rn(double left, double right) { return left - right; }
inline double __dmul_rn(double left, double right) { return left * right; }
inline double __ddiv_rn(double left, double right) { return left / right; }
inline double __dsqrt_rn(double value) { return sqrt(value); }
inline double __drcp_rn(double value) { return 1.0 / value; }
inline double __fma_rn(double left, double right, double addend) { return fma(left, right, addend); }
inline double rsqrt(double value) { return 1.0 / sqrt(value); }

// ---- Conversions; the `_rn` ones round to nearest, ties to even ----

inline float __double2float_rn(double value) { return static_cast<float>(value); }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
inline float __ll2float_rn(long long value) { return static_cast<float>(value); }
inline int __float2int_rn(float value) { return static_cast<int>(rintf(value)); }
inline int __float2int_rz(float value) { return static_cast<int>(value); }
inline int __float2int_rd(float value) { return static_cast<int>(floorf(value)); }
inline int __float2int_ru(float value) { return static_cast<int>(ceilf(value)); }
inline unsigned __float2uint_rn(float value) { return static_cast<unsigned>(rintf(value)); }
inline unsigned __float2uint_rz(float value) { return static_cast<unsigned>(value); }

template <typename To, typename From>
inline To emulated_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a reinterpretation keeps the size");
    To bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline unsigned __float_as_uint(float value) { return emulated_bits<unsigned>(value); }
inline int __float_as_int(float value) { return emulated_bits<int>(value); }
inline float __uint_as_float(unsigned value) { return emulated_bits<float>(value); }
inline float __int_as_float(int value) { return emulated_bits<float>(value); }
inline long long __double_as_longlong(double value) { return emulated_bits<long long>(value); }
inline double __longlong_as_double(long long value) { return emulated_bits<double>(value); }

// ---- Integers ----

inline int __mulhi(int left, int right) { return static_cast<int>((static_cast<long long>(left) * right) >> 32); }
inline unsigned __umulhi(unsigned left, unsigned right) { return static_cast<unsigned>((static_cast<unsigned long long>(left) * right) >> 32); }
inline unsigned long long __umul64hi(unsigned long long left, unsigned long long right) { return static_cast<unsigned long long>((static_cast<unsigned __int128>(left) * right) >> 64); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __clzll(long long value) { return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline unsigned __brev(unsigned value) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (value >> bit & 1u) << (31 - bit);
    return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift == 0 ? high : high << shift | low >> (32 - shift);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    shift &= 31;
    return shift == 0 ? low : low >> shift | high << (32 - shift);
}
// Byte i of the result is the byte of the pair (y:x) that nibble i of the selector names.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xFF) << (8 * i);
    return result;
}

// ---- Loads and stores with cache hints: plain ones ----

template <typename T> inline T __ldg(const T* address) { return *address; }
template <typename T> inline T __ldca(const T* address) { return *address; }
template <typename T> inline T __ldcg(const T* address) { return *address; }
template <typename T> inline T __ldcs(const T* address) { return *address; }
template <typename T> inline T __ldlu(const T* address) { return *address; }
template <typename T> inline void __stcg(T* address, T value) { *address = value; }
template <typename T> inline void __stcs(T* address, T value) { *address = value; }
template <typename T> inline void __stwb(T* address, T value) { *address = value; }
template <typename T> inline void __stwt(T* address, T value) { *address = value; }

// ---- Atomics: real ones, for blocks run on several OS threads. All return the old value ----

template <typename T, typename Change>
inline T emulated_atomic(T* address, Change change) {
    T old, desired;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
        desired = change(old);
    } while (!__atomic_compare_exchange(address, &old, &desired, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
#define EMULATED_ATOMICS(Type)                                                                                                              \
    inline Type atomicAdd(Type* address, Type value) { return emulated_atomic(address, [=](Type old) { return static_cast<Type>(old + value); }); } \
    inline Type atomicMax(Type* address, Type value) { return emulated_atomic(address, [=](Type old) { return max(old, value); }); }          \
    inline Type atomicMin(Type* address, Type value) { return emulated_atomic(address, [=](Type old) { return min(old, value); }); }          \
    inline Type atomicExch(Type* address, Type value) { return emulated_atomic(address, [=](Type) { return value; }); }
EMULATED_ATOMICS(int)
EMULATED_ATOMICS(unsigned)
EMULATED_ATOMICS(unsigned long long)
EMULATED_ATOMICS(float)
EMULATED_ATOMICS(double)
inline int atomicSub(int* address, int value) { return atomicAdd(address, -value); }
inline unsigned atomicOr(unsigned* address, unsigned value) { return emulated_atomic(address, [=](unsigned old) { return old | value; }); }
inline unsigned atomicAnd(unsigned* address, unsigned value) { return emulated_atomic(address, [=](unsigned old) { return old & value; }); }
// Counts up to `last`, then starts again at 0.
inline unsigned atomicInc(unsigned* address, unsigned last) { return emulated_atomic(address, [=](unsigned old) { return old >= last ? 0u : old + 1; }); }
template <typename T>
inline T atomicCAS(T* address, T compare, T value) {
    return emulated_atomic(address, [=](T old) { return old == compare ? value : old; });
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}
inline void __threadfence_system() { __threadfence(); }
inline void __nanosleep(unsigned) {}
inline long long clock64() { return 0; }
#define __trap() emulated::fail("__trap")
#define __builtin_assume(condition) ((void)0)

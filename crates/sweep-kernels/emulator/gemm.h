// Matrix products for the emulated libraries: element types, and one product over packed tiles on the emulator's OS threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bf16.h"

namespace emulated {

enum class Element { f32, f64, bf16 };
constexpr size_t size_of(Element type) { return type == Element::f64 ? 8 : type == Element::f32 ? 4 : 2; }

template <typename Real>
Real load(const void* base, Element type, long long index) {
    switch (type) {
        case Element::f32: return static_cast<Real>(static_cast<const float*>(base)[index]);
        case Element::f64: return static_cast<Real>(static_cast<const double*>(base)[index]);
        default: return static_cast<Real>(bf16_to_float(static_cast<const uint16_t*>(base)[index]));
    }
}

template <typename Real>
void store(void* base, Element type, long long index, Real value) {
    switch (type) {
        case Element::f32: static_cast<float*>(base)[index] = static_cast<float>(value); break;
        case Element::f64: static_cast<double*>(base)[index] = static_cast<double>(value); break;
        default: static_cast<uint16_t*>(base)[index] = float_to_bf16(static_cast<float>(value));
    }
}

// A matrix in memory: element (row, column) lies at row * row_step + column * column_step.
struct MatrixView {
    const void* data;
    Element type;
    long long row_step, column_step;
};

// out[row * columns + column] = sum over k of a(row, k) * b(k, column), in Real; with `tf32` the inputs are rounded to TF32 first.
// `out` is dense and row-major.
template <typename Real>
void multiply(long long rows, long long columns, long long depth, const MatrixView& a, const MatrixView& b, bool tf32, Real* out);

}  // namespace emulated

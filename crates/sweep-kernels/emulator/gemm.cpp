#include "gemm.h"

#include <algorithm>
#include <vector>

#include "runtime.h"

namespace emulated {

namespace {

// A tile of ROWS x LANES sums stays in registers while the whole depth passes by.
constexpr long long ROWS = 6;
// Rows of one piece of work, and depth of one packed panel (so that a panel of b stays in the cache).
constexpr long long BAND = 96, DEPTH = 256;

template <typename Real>
struct Lanes;
template <>
struct Lanes<float> {
    typedef float Vector __attribute__((vector_size(32)));
    static constexpr long long count = 16;
};
template <>
struct Lanes<double> {
    typedef double Vector __attribute__((vector_size(32)));
    static constexpr long long count = 8;
};

// Rounds to TF32 where the product asks for it.
float reduced(float value, bool tf32) { return tf32 ? round_to_tf32(value) : value; }
double reduced(double value, bool) { return value; }

// Panels of `width` rows (or columns): packed[panel][k][i]; what lies outside the matrix is zero. `step` goes from one row to the
// next, `depth_step` from one k to the next.
template <typename Real>
void pack(const MatrixView& view, long long step, long long depth_step, long long first, long long last, long long width,
          long long k_first, long long k_last, bool tf32, Real* packed) {
    for (long long panel = first; panel < last; panel += width) {
        for (long long k = k_first; k < k_last; ++k) {
            for (long long i = panel; i < panel + width; ++i) {
                *packed++ = i < last ? reduced(load<Real>(view.data, view.type, i * step + k * depth_step), tf32) : Real(0);
            }
        }
    }
}

// sums[ROWS][LANES] += a panel * b panel.
template <typename Real>
void multiply_tile(long long depth, const Real* a, const Real* b, Real* out, long long out_step, long long rows, long long columns) {
    using Vector = typename Lanes<Real>::Vector;
    constexpr long long lanes = Lanes<Real>::count, half = lanes / 2;
    Vector sums[ROWS][2] = {};
    for (long long k = 0; k < depth; ++k) {
        Vector left, right;
        __builtin_memcpy(&left, b + k * lanes, sizeof left);
        __builtin_memcpy(&right, b + k * lanes + half, sizeof right);
        for (long long row = 0; row < ROWS; ++row) {
            sums[row][0] += a[k * ROWS + row] * left;
            sums[row][1] += a[k * ROWS + row] * right;
        }
    }
    for (long long row = 0; row < rows; ++row) {
        for (long long column = 0; column < columns; ++column) out[row * out_step + column] += sums[row][column / half][column % half];
    }
}

}  // namespace

template <typename Real>
void multiply(long long rows, long long columns, long long depth, const MatrixView& a, const MatrixView& b, bool tf32, Real* out) {
    constexpr long long lanes = Lanes<Real>::count;
    std::fill(out, out + rows * columns, Real(0));
    long long column_panels = (columns + lanes - 1) / lanes;
    std::vector<Real> packed_b(static_cast<size_t>(column_panels * lanes * std::min(depth, DEPTH)));
    for (long long k = 0; k < depth; k += DEPTH) {
        long long deep = std::min(DEPTH, depth - k);
        parallel(static_cast<size_t>((column_panels + 15) / 16), [&](size_t piece) {
            long long first = static_cast<long long>(piece) * 16 * lanes, last = std::min(columns, first + 16 * lanes);
            pack(b, b.column_step, b.row_step, first, last, lanes, k, k + deep, tf32, packed_b.data() + first * deep);
        });
        parallel(static_cast<size_t>((rows + BAND - 1) / BAND), [&](size_t piece) {
            long long first = static_cast<long long>(piece) * BAND, last = std::min(rows, first + BAND);
            std::vector<Real> packed_a(static_cast<size_t>((last - first + ROWS - 1) / ROWS * ROWS * deep));
            pack(a, a.row_step, a.column_step, first, last, ROWS, k, k + deep, tf32, packed_a.data());
            for (long long column = 0; column < columns; column += lanes) {
                for (long long row = first; row < last; row += ROWS) {
                    multiply_tile(deep, packed_a.data() + (row - first) * deep, packed_b.data() + column * deep, out + row * columns + column,
                                  columns, std::min(ROWS, last - row), std::min(lanes, columns - column));
                }
            }
        });
    }
}

template void multiply<float>(long long, long long, long long, const MatrixView&, const MatrixView&, bool, float*);
template void multiply<double>(long long, long long, long long, const MatrixView&, const MatrixView&, bool, double*);

}  // namespace emulated

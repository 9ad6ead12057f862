// libcublas: handles and matrix products. Matrices are column-major; sums are in f32, or in f64 for f64 operands.
#include "blas.h"

#include <algorithm>
#include <vector>

using namespace emulated;

namespace {

enum : int { OP_N = 0, OP_T = 1, OP_C = 2 };
enum : int { POINTER_MODE_HOST = 0 };
constexpr int MATH_TF32 = 3;

struct Handle {
    void* stream = nullptr;
    int math_mode = 0, pointer_mode = POINTER_MODE_HOST, atomics_mode = 0;
};

struct Product {
    int transpose_a, transpose_b;
    long long m, n, k;
    const void *alpha, *beta;
    const void* a;
    int type_a;
    long long lda, stride_a;
    const void* b;
    int type_b;
    long long ldb, stride_b;
    void* c;
    int type_c;
    long long ldc, stride_c, batch;
    int compute_type;
};

bool aligned(const void* address, Element type) { return reinterpret_cast<uintptr_t>(address) % size_of(type) == 0; }

// What the library refuses: negative sizes, leading dimensions below the rows, null or misaligned operands.
cublasStatus check(const Product& p, Element a, Element b, Element c) {
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.batch < 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.transpose_a < OP_N || p.transpose_a > OP_C || p.transpose_b < OP_N || p.transpose_b > OP_C) return CUBLAS_STATUS_INVALID_VALUE;
    long long rows_a = p.transpose_a == OP_N ? p.m : p.k, rows_b = p.transpose_b == OP_N ? p.k : p.n;
    if (p.lda < std::max(1ll, rows_a) || p.ldb < std::max(1ll, rows_b) || p.ldc < std::max(1ll, p.m)) return CUBLAS_STATUS_INVALID_VALUE;
    if (p.alpha == nullptr || p.beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (!aligned(p.a, a) || !aligned(p.b, b) || !aligned(p.c, c)) return CUBLAS_STATUS_INVALID_VALUE;
    bool doubles = a == Element::f64 && b == Element::f64 && c == Element::f64;
    bool none = a != Element::f64 && b != Element::f64 && c != Element::f64;
    if (is_double(p.compute_type) ? !doubles : !(is_single(p.compute_type) && none)) return CUBLAS_STATUS_NOT_SUPPORTED;
    // bf16 products give bf16 or f32; f32 products give f32.
    if (a != b || (a == Element::f32 && c != Element::f32)) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

// Ends the process when an operand reaches beyond the memory it lies in. `rows` and `columns` are those in memory.
void check_reach(const char* name, const char* operand, const void* data, Element type, long long rows, long long columns, long long ld, long long stride, long long batch) {
    if (rows == 0 || columns == 0) return;
    long long elements = (batch - 1) * stride + (columns - 1) * ld + rows;
    if (!is_device_memory(data, static_cast<size_t>(elements) * size_of(type))) fail("%s: operand %s (%lld x %lld, leading dimension %lld) reaches beyond its memory", name, operand, rows, columns, ld);
}

void check_reaches(const char* name, const Product& p, Element a, Element b, Element c) {
    bool plain_a = p.transpose_a == OP_N, plain_b = p.transpose_b == OP_N;
    check_reach(name, "A", p.a, a, plain_a ? p.m : p.k, plain_a ? p.k : p.m, p.lda, p.stride_a, p.batch);
    check_reach(name, "B", p.b, b, plain_b ? p.k : p.n, plain_b ? p.n : p.k, p.ldb, p.stride_b, p.batch);
    check_reach(name, "C", p.c, c, p.m, p.n, p.ldc, p.stride_c, p.batch);
}

// Row-major (column of the result by row of the result): the transposed product, so that writing goes along the columns.
template <typename Real>
void run(const Product& p, Element type_a, Element type_b, Element type_c, Real alpha, Real beta, bool tf32) {
    std::vector<Real> product(static_cast<size_t>(p.m * p.n));
    for (long long i = 0; i < p.batch; ++i) {
        const char* a = static_cast<const char*>(p.a) + i * p.stride_a * static_cast<long long>(size_of(type_a));
        const char* b = static_cast<const char*>(p.b) + i * p.stride_b * static_cast<long long>(size_of(type_b));
        char* c = static_cast<char*>(p.c) + i * p.stride_c * static_cast<long long>(size_of(type_c));
        // op(b)ᵀ is n x k, op(a)ᵀ is k x m.
        MatrixView left{b, type_b, p.transpose_b == OP_N ? p.ldb : 1, p.transpose_b == OP_N ? 1 : p.ldb};
        MatrixView right{a, type_a, p.transpose_a == OP_N ? p.lda : 1, p.transpose_a == OP_N ? 1 : p.lda};
        if (alpha == Real(0)) {
            std::fill(product.begin(), product.end(), Real(0));
        } else {
            multiply(p.n, p.m, p.k, left, right, tf32, product.data());
        }
        for (long long column = 0; column < p.n; ++column) {
            for (long long row = 0; row < p.m; ++row) {
                long long at = column * p.ldc + row;
                Real value = alpha * product[static_cast<size_t>(column * p.m + row)];
                // With beta 0 the old values are not read: they may be NaN.
                if (beta != Real(0)) value += beta * load<Real>(c, type_c, at);
                store(c, type_c, at, value);
            }
        }
    }
}

cublasStatus submit_product(void* handle, const char* name, const Product& p) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const Handle& own = *static_cast<Handle*>(handle);
    Element a, b, c;
    if (!element_of(p.type_a, &a) || !element_of(p.type_b, &b) || !element_of(p.type_c, &c)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (own.pointer_mode != POINTER_MODE_HOST) return CUBLAS_STATUS_NOT_SUPPORTED;
    cublasStatus status = check(p, a, b, c);
    if (status != CUBLAS_STATUS_SUCCESS || p.m == 0 || p.n == 0 || p.batch == 0) return status;
    check_reaches(name, p, a, b, c);
    if (is_double(p.compute_type)) {
        double alpha = *static_cast<const double*>(p.alpha), beta = *static_cast<const double*>(p.beta);
        submit(own.stream, name, [=] { run<double>(p, a, b, c, alpha, beta, false); });
        return CUBLAS_STATUS_SUCCESS;
    }
    float alpha = *static_cast<const float*>(p.alpha), beta = *static_cast<const float*>(p.beta);
    bool tf32 = a == Element::f32 && (p.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32 || (p.compute_type == CUBLAS_COMPUTE_32F && (own.math_mode & 15) == MATH_TF32));
    submit(own.stream, name, [=] { run<float>(p, a, b, c, alpha, beta, tf32); });
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

// ---- Handles ----

CUDA_API cublasStatus cublasCreate_v2(void** handle) {
    *handle = new Handle;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasDestroy_v2(void* handle) {
    delete static_cast<Handle*>(handle);
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasSetStream_v2(void* handle, void* stream) {
    static_cast<Handle*>(handle)->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasGetStream_v2(void* handle, void** stream) {
    *stream = static_cast<Handle*>(handle)->stream;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasSetWorkspace_v2(void*, void* workspace, size_t) {
    return reinterpret_cast<uintptr_t>(workspace) % 16 == 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
CUDA_API cublasStatus cublasSetMathMode(void* handle, int mode) {
    static_cast<Handle*>(handle)->math_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasGetMathMode(void* handle, int* mode) {
    *mode = static_cast<Handle*>(handle)->math_mode;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasSetAtomicsMode(void* handle, int mode) {
    static_cast<Handle*>(handle)->atomics_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasGetAtomicsMode(void* handle, int* mode) {
    *mode = static_cast<Handle*>(handle)->atomics_mode;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasSetPointerMode_v2(void* handle, int mode) {
    static_cast<Handle*>(handle)->pointer_mode = mode;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasGetPointerMode_v2(void* handle, int* mode) {
    *mode = static_cast<Handle*>(handle)->pointer_mode;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasSetSmCountTarget(void*, int) { return CUBLAS_STATUS_SUCCESS; }
CUDA_API cublasStatus cublasGetVersion_v2(void*, int* version) {
    *version = 130100;
    return CUBLAS_STATUS_SUCCESS;
}

// ---- Products ----

CUDA_API cublasStatus cublasGemmStridedBatchedEx(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a, int type_a,
                                                 int lda, long long stride_a, const void* b, int type_b, int ldb, long long stride_b, const void* beta, void* c,
                                                 int type_c, int ldc, long long stride_c, int batch, int compute_type, int) {
    return submit_product(handle, "cublasGemmStridedBatchedEx",
                          {transpose_a, transpose_b, m, n, k, alpha, beta, a, type_a, lda, stride_a, b, type_b, ldb, stride_b, c, type_c, ldc, stride_c, batch, compute_type});
}

CUDA_API cublasStatus cublasGemmEx(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a, int type_a, int lda,
                                   const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int compute_type, int) {
    return submit_product(handle, "cublasGemmEx",
                          {transpose_a, transpose_b, m, n, k, alpha, beta, a, type_a, lda, 0, b, type_b, ldb, 0, c, type_c, ldc, 0, 1, compute_type});
}

#define EMULATED_GEMM(Letter, Real, Type, Compute)                                                                                                              \
    CUDA_API cublasStatus cublas##Letter##gemmStridedBatched(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const Real* alpha,            \
                                                             const Real* a, int lda, long long stride_a, const Real* b, int ldb, long long stride_b,            \
                                                             const Real* beta, Real* c, int ldc, long long stride_c, int batch) {                               \
        return submit_product(handle, "cublas" #Letter "gemmStridedBatched",                                                                                    \
                              {transpose_a, transpose_b, m, n, k, alpha, beta, a, Type, lda, stride_a, b, Type, ldb, stride_b, c, Type, ldc, stride_c, batch, Compute}); \
    }                                                                                                                                                           \
    CUDA_API cublasStatus cublas##Letter##gemm_v2(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const Real* alpha, const Real* a, int lda, \
                                                  const Real* b, int ldb, const Real* beta, Real* c, int ldc) {                                                 \
        return submit_product(handle, "cublas" #Letter "gemm",                                                                                                  \
                              {transpose_a, transpose_b, m, n, k, alpha, beta, a, Type, lda, 0, b, Type, ldb, 0, c, Type, ldc, 0, 1, Compute});                 \
    }
EMULATED_GEMM(S, float, CUDA_R_32F, CUBLAS_COMPUTE_32F)
EMULATED_GEMM(D, double, CUDA_R_64F, CUBLAS_COMPUTE_64F)

// libcublasLt: matrix products with descriptors, layouts and epilogues. One algorithm, without workspace.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "blas.h"

using namespace emulated;

namespace {

enum : int { ORDER_COLUMN = 0, ORDER_ROW = 1 };
// Epilogues are bits: what happens to the product before it is stored.
enum : int {
    EPILOGUE_DEFAULT = 1,
    EPILOGUE_RELU = 2,
    EPILOGUE_BIAS = 4,
    EPILOGUE_DRELU = 8,
    EPILOGUE_BGRAD = 16,
    EPILOGUE_GELU = 32,
    EPILOGUE_DGELU = 64,
    EPILOGUE_AUX = 128,
    EPILOGUE_BGRADA = 256,
    EPILOGUE_BGRADB = 512,
};

struct Description {
    int compute_type, scale_type;
    int pointer_mode = 0;
    int transpose_a = 0, transpose_b = 0;
    int epilogue = EPILOGUE_DEFAULT;
    void* bias = nullptr;
    long long bias_batch_stride = 0;
    int bias_type = -1;
    void* aux = nullptr;
    long long aux_ld = 0, aux_batch_stride = 0;
    int aux_type = -1;
};

struct Layout {
    int type;
    unsigned long long rows, columns;
    long long ld;
    int order = ORDER_COLUMN;
    int batch = 1;
    long long batch_stride = 0;

    long long row_step() const { return order == ORDER_COLUMN ? 1 : ld; }
    long long column_step() const { return order == ORDER_COLUMN ? ld : 1; }
    bool is_valid() const {
        unsigned long long along = order == ORDER_COLUMN ? rows : columns;
        return (order == ORDER_COLUMN || order == ORDER_ROW) && ld >= static_cast<long long>(along) && batch >= 1;
    }
};

struct Preference {
    size_t max_workspace = 0;
};

// Attributes are copied byte for byte, as the library does it.
template <typename Field>
cublasStatus read_into(Field* field, const void* from, size_t bytes) {
    if (from == nullptr || bytes < sizeof(Field)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(field, from, sizeof(Field));
    return CUBLAS_STATUS_SUCCESS;
}

struct Call {
    Description description;
    Layout a_layout, b_layout, c_layout, d_layout;
    const void *a = nullptr, *b = nullptr, *c = nullptr;
    void* d = nullptr;
    double alpha = 0, beta = 0;
    // Follow from the layouts.
    Element a_type{}, b_type{}, c_type{}, d_type{}, bias_type{}, aux_type{};
    long long m = 0, n = 0, k = 0;

    bool has(int bit) const { return (description.epilogue & bit) != 0; }
};

bool is_supported(int epilogue) {
    switch (epilogue) {
        case 1: case 2: case 4: case 6: case 32: case 36:  // none, ReLU, bias, GELU and their pairs
        case 160: case 164: case 192: case 208:            // GELU that keeps its input, and its derivative
        case EPILOGUE_BGRADA: case EPILOGUE_BGRADB: return true;
        default: return false;
    }
}

// cuBLAS takes GELU by tanh.
constexpr double GELU_SCALE = 0.7978845608028654, GELU_CUBIC = 0.044715;
template <typename Real>
Real gelu(Real x) {
    return Real(0.5) * x * (Real(1) + std::tanh(Real(GELU_SCALE) * (x + Real(GELU_CUBIC) * x * x * x)));
}
template <typename Real>
Real gelu_derivative(Real x) {
    Real t = std::tanh(Real(GELU_SCALE) * (x + Real(GELU_CUBIC) * x * x * x));
    return Real(0.5) * (Real(1) + t) + Real(0.5) * x * (Real(1) - t * t) * Real(GELU_SCALE) * (Real(1) + Real(3 * GELU_CUBIC) * x * x);
}

const char* shifted(const void* data, Element type, long long elements) { return static_cast<const char*>(data) + elements * static_cast<long long>(size_of(type)); }
char* shifted(void* data, Element type, long long elements) { return static_cast<char*>(data) + elements * static_cast<long long>(size_of(type)); }

// The operand after its transposition.
MatrixView operand(const void* data, const Layout& layout, Element type, int transpose) {
    long long row = layout.row_step(), column = layout.column_step();
    return {data, type, transpose == 0 ? row : column, transpose == 0 ? column : row};
}

template <typename Real>
Real finish_element(const Call& call, Real value, long long row, long long column, long long batch) {
    const Description& d = call.description;
    if (call.has(EPILOGUE_BIAS)) value += load<Real>(d.bias, call.bias_type, batch * d.bias_batch_stride + row);
    long long aux_at = batch * d.aux_batch_stride + column * d.aux_ld + row;
    if (call.has(EPILOGUE_DGELU)) return value * gelu_derivative(load<Real>(d.aux, call.aux_type, aux_at));
    if (call.has(EPILOGUE_AUX)) store(d.aux, call.aux_type, aux_at, value);
    if (call.has(EPILOGUE_RELU)) return std::max(value, Real(0));
    return call.has(EPILOGUE_GELU) ? gelu(value) : value;
}

// Sums over k of op(a) (one for each row) or op(b) (one for each column): the gradient of a bias.
template <typename Real>
void store_operand_sums(const Call& call, const MatrixView& view, bool of_a, long long batch) {
    long long count = of_a ? call.m : call.n;
    for (long long i = 0; i < count; ++i) {
        Real sum = 0;
        for (long long k = 0; k < call.k; ++k) sum += load<Real>(view.data, view.type, of_a ? i * view.row_step + k * view.column_step : k * view.row_step + i * view.column_step);
        store(call.description.bias, call.bias_type, batch * call.description.bias_batch_stride + i, sum);
    }
}

template <typename Real>
void run_one(const Call& call, long long batch, std::vector<Real>& product) {
    MatrixView a = operand(shifted(call.a, call.a_type, batch * call.a_layout.batch_stride), call.a_layout, call.a_type, call.description.transpose_a);
    MatrixView b = operand(shifted(call.b, call.b_type, batch * call.b_layout.batch_stride), call.b_layout, call.b_type, call.description.transpose_b);
    const char* c = shifted(call.c, call.c_type, batch * call.c_layout.batch_stride);
    char* d = shifted(call.d, call.d_type, batch * call.d_layout.batch_stride);
    bool tf32 = call.a_type == Element::f32 && call.description.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32;
    multiply(call.m, call.n, call.k, a, b, tf32, product.data());
    std::vector<Real> bias_gradient(call.has(EPILOGUE_BGRAD) ? static_cast<size_t>(call.m) : 0);
    for (long long row = 0; row < call.m; ++row) {
        for (long long column = 0; column < call.n; ++column) {
            Real value = Real(call.alpha) * product[static_cast<size_t>(row * call.n + column)];
            if (call.beta != 0) value += Real(call.beta) * load<Real>(c, call.c_type, row * call.c_layout.row_step() + column * call.c_layout.column_step());
            value = finish_element(call, value, row, column, batch);
            if (!bias_gradient.empty()) bias_gradient[static_cast<size_t>(row)] += value;
            store(d, call.d_type, row * call.d_layout.row_step() + column * call.d_layout.column_step(), value);
        }
    }
    for (size_t row = 0; row < bias_gradient.size(); ++row) store(call.description.bias, call.bias_type, batch * call.description.bias_batch_stride + static_cast<long long>(row), bias_gradient[row]);
    if (call.has(EPILOGUE_BGRADA)) store_operand_sums<Real>(call, a, true, batch);
    if (call.has(EPILOGUE_BGRADB)) store_operand_sums<Real>(call, b, false, batch);
}

template <typename Real>
void run(const Call& call) {
    std::vector<Real> product(static_cast<size_t>(call.m * call.n));
    for (long long batch = 0; batch < call.d_layout.batch; ++batch) run_one(call, batch, product);
}

// Fills in what follows from the layouts, and checks what the library checks.
cublasStatus check(Call& call) {
    const Description& d = call.description;
    for (const Layout* layout : {&call.a_layout, &call.b_layout, &call.c_layout, &call.d_layout}) {
        if (!layout->is_valid() || layout->batch != call.d_layout.batch) return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (!element_of(call.a_layout.type, &call.a_type) || !element_of(call.b_layout.type, &call.b_type) || !element_of(call.c_layout.type, &call.c_type) ||
        !element_of(call.d_layout.type, &call.d_type)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    call.bias_type = call.d_type;
    call.aux_type = call.d_type;
    if (d.bias_type >= 0 && !element_of(d.bias_type, &call.bias_type)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (d.aux_type >= 0 && !element_of(d.aux_type, &call.aux_type)) return CUBLAS_STATUS_NOT_SUPPORTED;
    auto rows = [](const Layout& l, int transpose) { return static_cast<long long>(transpose == 0 ? l.rows : l.columns); };
    auto columns = [](const Layout& l, int transpose) { return static_cast<long long>(transpose == 0 ? l.columns : l.rows); };
    call.m = rows(call.a_layout, d.transpose_a);
    call.k = columns(call.a_layout, d.transpose_a);
    call.n = columns(call.b_layout, d.transpose_b);
    bool shapes = rows(call.b_layout, d.transpose_b) == call.k && rows(call.d_layout, 0) == call.m && columns(call.d_layout, 0) == call.n &&
                  rows(call.c_layout, 0) == call.m && columns(call.c_layout, 0) == call.n;
    if (!shapes) return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported(d.epilogue) || d.pointer_mode != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    bool doubles = call.d_type == Element::f64;
    if (is_double(d.compute_type) != doubles || (!doubles && !is_single(d.compute_type))) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (call.a_type != call.b_type || call.c_type != call.d_type) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (call.a_type == Element::f32 && call.d_type != Element::f32) return CUBLAS_STATUS_NOT_SUPPORTED;
    // The epilogues with a bias or its gradient work on column-major results.
    if (d.epilogue != EPILOGUE_DEFAULT && call.d_layout.order != ORDER_COLUMN) return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

// Ends the process when an operand reaches beyond the memory it lies in.
void check_reach(const char* operand, const void* data, const Layout& layout, Element type) {
    long long elements = (layout.batch - 1) * layout.batch_stride + (static_cast<long long>(layout.rows) - 1) * layout.row_step() +
                         (static_cast<long long>(layout.columns) - 1) * layout.column_step() + 1;
    if (!is_device_memory(data, static_cast<size_t>(elements) * size_of(type))) fail("cublasLtMatmul: operand %s (%llu x %llu, leading dimension %lld) reaches beyond its memory", operand, layout.rows, layout.columns, layout.ld);
}

cublasStatus check_pointers(const Call& call) {
    bool needs_bias = call.has(EPILOGUE_BIAS | EPILOGUE_BGRAD | EPILOGUE_BGRADA | EPILOGUE_BGRADB), needs_aux = call.has(EPILOGUE_AUX | EPILOGUE_DGELU);
    if (needs_bias && call.description.bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (needs_aux && (call.description.aux == nullptr || call.description.aux_ld < call.m)) return CUBLAS_STATUS_INVALID_VALUE;
    for (const void* pointer : {call.a, call.b, static_cast<const void*>(call.d)}) {
        if (pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return CUBLAS_STATUS_INVALID_VALUE;
    }
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

CUDA_API cublasStatus cublasLtCreate(void** handle) {
    *handle = new char;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtDestroy(void* handle) {
    delete static_cast<char*>(handle);
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API size_t cublasLtGetVersion() { return 130100; }
CUDA_API size_t cublasLtGetCudartVersion() { return 13000; }

CUDA_API cublasStatus cublasLtMatmulDescCreate(Description** out, int compute_type, int scale_type) {
    *out = new Description;
    (*out)->compute_type = compute_type;
    (*out)->scale_type = scale_type;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtMatmulDescDestroy(Description* description) {
    delete description;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtMatmulDescSetAttribute(Description* d, int attribute, const void* from, size_t bytes) {
    switch (attribute) {
        case 0: return read_into(&d->compute_type, from, bytes);
        case 1: return read_into(&d->scale_type, from, bytes);
        case 2: return read_into(&d->pointer_mode, from, bytes);
        case 3: return read_into(&d->transpose_a, from, bytes);
        case 4: return read_into(&d->transpose_b, from, bytes);
        case 7: return read_into(&d->epilogue, from, bytes);
        case 8: return read_into(&d->bias, from, bytes);
        case 10: return read_into(&d->bias_batch_stride, from, bytes);
        case 11: return read_into(&d->aux, from, bytes);
        case 12: return read_into(&d->aux_ld, from, bytes);
        case 13: return read_into(&d->aux_batch_stride, from, bytes);
        case 22: return read_into(&d->aux_type, from, bytes);
        case 26: return read_into(&d->bias_type, from, bytes);
        default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

CUDA_API cublasStatus cublasLtMatrixLayoutCreate(Layout** out, int type, unsigned long long rows, unsigned long long columns, long long ld) {
    *out = new Layout{type, rows, columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* from, size_t bytes) {
    switch (attribute) {
        case 0: return read_into(&layout->type, from, bytes);
        case 1: return read_into(&layout->order, from, bytes);
        case 2: return read_into(&layout->rows, from, bytes);
        case 3: return read_into(&layout->columns, from, bytes);
        case 4: return read_into(&layout->ld, from, bytes);
        case 5: return read_into(&layout->batch, from, bytes);
        case 6: return read_into(&layout->batch_stride, from, bytes);
        default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

CUDA_API cublasStatus cublasLtMatmulPreferenceCreate(Preference** out) {
    *out = new Preference;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtMatmulPreferenceDestroy(Preference* preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
CUDA_API cublasStatus cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* from, size_t bytes) {
    // 1: workspace; the others choose among algorithms, and there is one.
    return attribute == 1 ? read_into(&preference->max_workspace, from, bytes) : CUBLAS_STATUS_SUCCESS;
}

namespace {
struct Heuristic {
    unsigned long long algorithm[8];
    size_t workspace;
    cublasStatus state;
    float waves;
    int reserved[4];
};
}  // namespace

CUDA_API cublasStatus cublasLtMatmulAlgoGetHeuristic(void*, const Description* description, const Layout* a, const Layout* b, const Layout* c, const Layout* d,
                                                     const Preference*, int requested, Heuristic* results, int* returned) {
    if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
    Call call{*description, *a, *b, *c, *d};
    cublasStatus status = check(call);
    *returned = status == CUBLAS_STATUS_SUCCESS ? 1 : 0;
    if (status == CUBLAS_STATUS_SUCCESS) results[0] = Heuristic{{1}, 0, CUBLAS_STATUS_SUCCESS, 1.0f, {}};
    return status;
}

CUDA_API cublasStatus cublasLtMatmul(void* handle, const Description* description, const void* alpha, const void* a, const Layout* a_layout, const void* b,
                                     const Layout* b_layout, const void* beta, const void* c, const Layout* c_layout, void* d, const Layout* d_layout, const void*,
                                     void* workspace, size_t, void* stream) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (alpha == nullptr || beta == nullptr || reinterpret_cast<uintptr_t>(workspace) % 16 != 0) return CUBLAS_STATUS_INVALID_VALUE;
    Call call{*description, *a_layout, *b_layout, *c_layout, *d_layout, a, b, c, d, 0, 0};
    cublasStatus status = check(call);
    if (status == CUBLAS_STATUS_SUCCESS) status = check_pointers(call);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    bool doubles = is_double(description->compute_type);
    call.alpha = doubles ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha);
    call.beta = doubles ? *static_cast<const double*>(beta) : *static_cast<const float*>(beta);
    if (call.beta != 0 && c == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    check_reach("A", a, call.a_layout, call.a_type);
    check_reach("B", b, call.b_layout, call.b_type);
    check_reach("D", d, call.d_layout, call.d_type);
    submit(stream, "cublasLtMatmul", [=] { doubles ? run<double>(call) : run<float>(call); });
    return CUBLAS_STATUS_SUCCESS;
}

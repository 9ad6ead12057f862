// libcudnn: descriptors and two-dimensional convolutions (forward, input gradient, filter gradient) with groups, any strides,
// NCHW and NHWC; data in f32, bf16 or f64, sums in f32 (f64 for f64 data). Names and values are those of cuDNN 9.
#include <algorithm>
#include <vector>

#include "gemm.h"
#include "runtime.h"

#define CUDA_API extern "C" EMULATED_EXPORT

using namespace emulated;

using cudnnStatus = int;
enum : cudnnStatus {
    CUDNN_STATUS_SUCCESS = 0,
    CUDNN_STATUS_NOT_INITIALIZED = 1001,
    CUDNN_STATUS_BAD_PARAM = 2000,
    CUDNN_STATUS_NOT_SUPPORTED = 3000,
};

namespace {

enum : int { FORMAT_NCHW = 0, FORMAT_NHWC = 1 };
enum : int { DATA_FLOAT = 0, DATA_DOUBLE = 1, DATA_BFLOAT16 = 9 };
constexpr int CROSS_CORRELATION = 1;

struct Handle {
    void* stream = nullptr;
};

// Sizes and strides in elements, in the order n, c, h, w (filters: k, c, h, w), whatever the layout in memory.
struct Tensor {
    Element type = Element::f32;
    long long size[4] = {0, 0, 0, 0};
    long long stride[4] = {0, 0, 0, 0};
};

struct Convolution {
    long long pad[2] = {0, 0}, stride[2] = {1, 1}, dilation[2] = {1, 1};
    long long groups = 1;
    int math_type = 0;
    int compute_type = DATA_FLOAT;
};

bool element_of(int type, Element* element) {
    switch (type) {
        case DATA_FLOAT: *element = Element::f32; return true;
        case DATA_DOUBLE: *element = Element::f64; return true;
        case DATA_BFLOAT16: *element = Element::bf16; return true;
        default: return false;
    }
}

void set_dense(Tensor& tensor, int format) {
    long long c = tensor.size[1], h = tensor.size[2], w = tensor.size[3];
    const long long nchw[] = {c * h * w, h * w, w, 1}, nhwc[] = {h * w * c, 1, w * c, c};
    std::copy_n(format == FORMAT_NHWC ? nhwc : nchw, 4, tensor.stride);
}

cudnnStatus set_tensor(Tensor* tensor, int type, const int* sizes, const int* strides, int format) {
    if (tensor == nullptr) return CUDNN_STATUS_BAD_PARAM;
    if (!element_of(type, &tensor->type) || (format != FORMAT_NCHW && format != FORMAT_NHWC)) return CUDNN_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < 4; ++i) {
        if (sizes[i] <= 0) return CUDNN_STATUS_BAD_PARAM;
        tensor->size[i] = sizes[i];
    }
    set_dense(*tensor, format);
    if (strides != nullptr) std::copy_n(strides, 4, tensor->stride);
    return CUDNN_STATUS_SUCCESS;
}

long long output_size(const Convolution& c, const Tensor& x, const Tensor& w, int axis) {
    long long covered = c.dilation[axis] * (w.size[2 + axis] - 1) + 1;
    return (x.size[2 + axis] + 2 * c.pad[axis] - covered) / c.stride[axis] + 1;
}

bool fits(const Convolution& c, const Tensor& x, const Tensor& w, const Tensor& y) {
    bool channels = x.size[1] == w.size[1] * c.groups && w.size[0] % c.groups == 0;
    bool outputs = y.size[0] == x.size[0] && y.size[1] == w.size[0];
    return channels && outputs && y.size[2] == output_size(c, x, w, 0) && y.size[3] == output_size(c, x, w, 1);
}

bool same_type(const Tensor& x, const Tensor& w, const Tensor& y) { return x.type == w.type && w.type == y.type; }

// Farthest element a descriptor reaches, in bytes.
size_t span(const Tensor& t) {
    long long last = 0;
    for (int i = 0; i < 4; ++i) last += (t.size[i] - 1) * t.stride[i];
    return static_cast<size_t>(last + 1) * size_of(t.type);
}

// One group of one image as a matrix product: the input unfolded to columns[(channel, kernel y, kernel x)][(y, x)].
template <typename Real>
class Unfolded {
    const Convolution& convolution_;
    const Tensor &x_, &w_, &y_;

  public:
    Unfolded(const Convolution& convolution, const Tensor& x, const Tensor& w, const Tensor& y)
        : convolution_(convolution), x_(x), w_(w), y_(y) {
        values.resize(static_cast<size_t>(depth() * places()));
    }

    long long depth() const { return w_.size[1] * w_.size[2] * w_.size[3]; }
    long long places() const { return y_.size[2] * y_.size[3]; }

    // Calls visit(index into values, offset of the channel in the input, row, column) for all elements; row and column are -1 in
    // the padding.
    template <typename Visit>
    void each(long long image, long long group, const Visit& visit) const {
        parallel(static_cast<size_t>(w_.size[1]), [&](size_t piece) {
            auto channel = static_cast<long long>(piece);
            long long base = image * x_.stride[0] + (group * w_.size[1] + channel) * x_.stride[1];
            size_t at = piece * static_cast<size_t>(w_.size[2] * w_.size[3] * places());
            for (long long ky = 0; ky < w_.size[2]; ++ky) {
                for (long long kx = 0; kx < w_.size[3]; ++kx) {
                    for (long long y = 0; y < y_.size[2]; ++y) {
                        for (long long x = 0; x < y_.size[3]; ++x) visit(at++, base, place(0, y, ky), place(1, x, kx));
                    }
                }
            }
        });
    }

    void read(const void* input, long long image, long long group) {
        each(image, group, [&](size_t at, long long base, long long row, long long column) {
            values[at] = row < 0 || column < 0 ? Real(0) : load<Real>(input, x_.type, base + row * x_.stride[2] + column * x_.stride[3]);
        });
    }

    // sums[channel of the group][row][column] += values; channels are independent, so they may run at once.
    void add_to(Real* sums, long long group) const {
        long long height = x_.size[2], width = x_.size[3];
        each(0, group, [&, this](size_t at, long long, long long row, long long column) {
            if (row < 0 || column < 0) return;
            long long channel = static_cast<long long>(at) / (w_.size[2] * w_.size[3] * places());
            sums[(channel * height + row) * width + column] += values[at];
        });
    }

    std::vector<Real> values;

  private:
    // Row or column of the input under an element of the kernel; -1 in the padding.
    long long place(int axis, long long output, long long kernel) const {
        long long at = output * convolution_.stride[axis] - convolution_.pad[axis] + kernel * convolution_.dilation[axis];
        return at < 0 || at >= x_.size[2 + axis] ? -1 : at;
    }
};

// Gathers the filters of a group as a dense matrix [output channel][(channel, ky, kx)].
template <typename Real>
std::vector<Real> read_filters(const void* w, const Tensor& d, long long group, long long groups) {
    long long outputs = d.size[0] / groups;
    std::vector<Real> dense;
    dense.reserve(static_cast<size_t>(outputs * d.size[1] * d.size[2] * d.size[3]));
    for (long long k = group * outputs; k < (group + 1) * outputs; ++k)
        for (long long c = 0; c < d.size[1]; ++c)
            for (long long y = 0; y < d.size[2]; ++y)
                for (long long x = 0; x < d.size[3]; ++x) dense.push_back(load<Real>(w, d.type, k * d.stride[0] + c * d.stride[1] + y * d.stride[2] + x * d.stride[3]));
    return dense;
}

// Channels of one image as a dense matrix [channel][place].
template <typename Real>
std::vector<Real> read_channels(const void* data, const Tensor& d, long long image, long long first, long long count) {
    std::vector<Real> dense(static_cast<size_t>(count * d.size[2] * d.size[3]));
    parallel(static_cast<size_t>(count), [&](size_t piece) {
        size_t at = piece * static_cast<size_t>(d.size[2] * d.size[3]);
        long long base = image * d.stride[0] + (first + static_cast<long long>(piece)) * d.stride[1];
        for (long long y = 0; y < d.size[2]; ++y)
            for (long long x = 0; x < d.size[3]; ++x) dense[at++] = load<Real>(data, d.type, base + y * d.stride[2] + x * d.stride[3]);
    });
    return dense;
}

// result = alpha * value + beta * result; with beta 0 the old value is not read.
template <typename Real>
void blend(void* data, Element type, long long at, Real value, Real alpha, Real beta) {
    Real result = alpha * value;
    if (beta != Real(0)) result += beta * load<Real>(data, type, at);
    store(data, type, at, result);
}

template <typename Real>
void write_channels(const Real* dense, void* data, const Tensor& d, long long image, long long first, long long count, Real alpha, Real beta) {
    parallel(static_cast<size_t>(count), [&](size_t piece) {
        size_t at = piece * static_cast<size_t>(d.size[2] * d.size[3]);
        long long base = image * d.stride[0] + (first + static_cast<long long>(piece)) * d.stride[1];
        for (long long y = 0; y < d.size[2]; ++y)
            for (long long x = 0; x < d.size[3]; ++x) blend(data, d.type, base + y * d.stride[2] + x * d.stride[3], dense[at++], alpha, beta);
    });
}

template <typename Real>
MatrixView dense_view(const std::vector<Real>& values, long long row_step, long long column_step) {
    return {values.data(), sizeof(Real) == 8 ? Element::f64 : Element::f32, row_step, column_step};
}

// A convolution as it is submitted: descriptors are copied, for the caller may destroy them before the stream gets there.
struct Call {
    Convolution convolution;
    Tensor x, w, y;
    const void *x_data, *w_data, *y_data;
    void* result;
    double alpha, beta;
    bool tf32;
};

template <typename Real>
void forward(const Call& c) {
    long long groups = c.convolution.groups, outputs = c.w.size[0] / groups;
    for (long long group = 0; group < groups; ++group) {
        auto filters = read_filters<Real>(c.w_data, c.w, group, groups);
        Unfolded<Real> columns(c.convolution, c.x, c.w, c.y);
        std::vector<Real> product(static_cast<size_t>(outputs * columns.places()));
        for (long long image = 0; image < c.x.size[0]; ++image) {
            columns.read(c.x_data, image, group);
            multiply(outputs, columns.places(), columns.depth(), dense_view(filters, columns.depth(), 1), dense_view(columns.values, columns.places(), 1), c.tf32, product.data());
            write_channels(product.data(), c.result, c.y, image, group * outputs, outputs, Real(c.alpha), Real(c.beta));
        }
    }
}

template <typename Real>
void backward_data(const Call& c) {
    long long groups = c.convolution.groups, outputs = c.w.size[0] / groups;
    for (long long group = 0; group < groups; ++group) {
        auto filters = read_filters<Real>(c.w_data, c.w, group, groups);
        Unfolded<Real> columns(c.convolution, c.x, c.w, c.y);
        std::vector<Real> sums(static_cast<size_t>(c.w.size[1] * c.x.size[2] * c.x.size[3]));
        for (long long image = 0; image < c.x.size[0]; ++image) {
            auto gradient = read_channels<Real>(c.y_data, c.y, image, group * outputs, outputs);
            multiply(columns.depth(), columns.places(), outputs, dense_view(filters, 1, columns.depth()), dense_view(gradient, columns.places(), 1), c.tf32, columns.values.data());
            std::fill(sums.begin(), sums.end(), Real(0));
            columns.add_to(sums.data(), group);
            write_channels(sums.data(), c.result, c.x, image, group * c.w.size[1], c.w.size[1], Real(c.alpha), Real(c.beta));
        }
    }
}

template <typename Real>
void backward_filter(const Call& c) {
    long long groups = c.convolution.groups, outputs = c.w.size[0] / groups;
    for (long long group = 0; group < groups; ++group) {
        Unfolded<Real> columns(c.convolution, c.x, c.w, c.y);
        std::vector<Real> product(static_cast<size_t>(outputs * columns.depth())), sums(product.size());
        for (long long image = 0; image < c.x.size[0]; ++image) {
            columns.read(c.x_data, image, group);
            auto gradient = read_channels<Real>(c.y_data, c.y, image, group * outputs, outputs);
            multiply(outputs, columns.depth(), columns.places(), dense_view(gradient, columns.places(), 1), dense_view(columns.values, 1, columns.places()), c.tf32, product.data());
            for (size_t i = 0; i < sums.size(); ++i) sums[i] += product[i];
        }
        size_t at = 0;
        for (long long k = group * outputs; k < (group + 1) * outputs; ++k)
            for (long long ch = 0; ch < c.w.size[1]; ++ch)
                for (long long y = 0; y < c.w.size[2]; ++y)
                    for (long long x = 0; x < c.w.size[3]; ++x)
                        blend(c.result, c.w.type, k * c.w.stride[0] + ch * c.w.stride[1] + y * c.w.stride[2] + x * c.w.stride[3], sums[at++], Real(c.alpha), Real(c.beta));
    }
}

// Checks what cuDNN checks, and that every operand lies in memory the device owns, then hands the work to the stream.
template <typename Single, typename Double>
cudnnStatus submit_convolution(void* handle, const char* name, const void* alpha, const void* beta, Call call, Single single, Double in_double) {
    if (handle == nullptr) return CUDNN_STATUS_NOT_INITIALIZED;
    if (alpha == nullptr || beta == nullptr) return CUDNN_STATUS_BAD_PARAM;
    if (!same_type(call.x, call.w, call.y)) return CUDNN_STATUS_NOT_SUPPORTED;
    if (!fits(call.convolution, call.x, call.w, call.y)) return CUDNN_STATUS_BAD_PARAM;
    const Tensor* tensors[] = {&call.x, &call.w, &call.y};
    const void* data[] = {call.x_data, call.w_data, call.y_data};
    for (int i = 0; i < 3; ++i) {
        if (!is_device_memory(data[i], span(*tensors[i]))) fail("%s: the descriptor of %s reaches beyond its memory", name, i == 0 ? "x" : i == 1 ? "the filter" : "y");
    }
    bool doubles = call.x.type == Element::f64;
    call.alpha = doubles ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha);
    call.beta = doubles ? *static_cast<const double*>(beta) : *static_cast<const float*>(beta);
    // CUDNN_DEFAULT_MATH and the tensor-operation modes may use TF32 for f32 data; CUDNN_FMA_MATH (3) forbids it. The emulation
    // rounds only where conversion was asked for (2), so that f32 tests do not depend on the choice of an algorithm.
    call.tf32 = call.x.type == Element::f32 && call.convolution.math_type == 2;
    submit(static_cast<Handle*>(handle)->stream, name, [=] { doubles ? in_double(call) : single(call); });
    return CUDNN_STATUS_SUCCESS;
}

template <typename Object>
cudnnStatus create(void** out) {
    *out = new Object;
    return CUDNN_STATUS_SUCCESS;
}
template <typename Object>
cudnnStatus destroy(void* object) {
    delete static_cast<Object*>(object);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus no_workspace(size_t* bytes) {
    *bytes = 0;
    return CUDNN_STATUS_SUCCESS;
}

}  // namespace

// ---- Handles ----

CUDA_API cudnnStatus cudnnCreate(void** handle) { return create<Handle>(handle); }
CUDA_API cudnnStatus cudnnDestroy(void* handle) { return destroy<Handle>(handle); }
CUDA_API cudnnStatus cudnnSetStream(void* handle, void* stream) {
    static_cast<Handle*>(handle)->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}
CUDA_API cudnnStatus cudnnGetStream(void* handle, void** stream) {
    *stream = static_cast<Handle*>(handle)->stream;
    return CUDNN_STATUS_SUCCESS;
}
CUDA_API size_t cudnnGetVersion() { return 91000; }
CUDA_API size_t cudnnGetCudartVersion() { return 13000; }
CUDA_API const char* cudnnGetErrorString(cudnnStatus status) {
    switch (status) {
        case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
        case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
        case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
        default: return "CUDNN_STATUS_NOT_SUPPORTED";
    }
}

// ---- Descriptors ----

CUDA_API cudnnStatus cudnnCreateTensorDescriptor(void** out) { return create<Tensor>(out); }
CUDA_API cudnnStatus cudnnDestroyTensorDescriptor(void* tensor) { return destroy<Tensor>(tensor); }
CUDA_API cudnnStatus cudnnSetTensor4dDescriptor(void* tensor, int format, int type, int n, int c, int h, int w) {
    const int sizes[] = {n, c, h, w};
    return set_tensor(static_cast<Tensor*>(tensor), type, sizes, nullptr, format);
}
CUDA_API cudnnStatus cudnnSetTensor4dDescriptorEx(void* tensor, int type, int n, int c, int h, int w, int n_stride, int c_stride, int h_stride, int w_stride) {
    const int sizes[] = {n, c, h, w}, strides[] = {n_stride, c_stride, h_stride, w_stride};
    return set_tensor(static_cast<Tensor*>(tensor), type, sizes, strides, FORMAT_NCHW);
}
CUDA_API cudnnStatus cudnnSetTensorNdDescriptor(void* tensor, int type, int dimensions, const int* sizes, const int* strides) {
    return dimensions == 4 ? set_tensor(static_cast<Tensor*>(tensor), type, sizes, strides, FORMAT_NCHW) : CUDNN_STATUS_NOT_SUPPORTED;
}

CUDA_API cudnnStatus cudnnCreateFilterDescriptor(void** out) { return create<Tensor>(out); }
CUDA_API cudnnStatus cudnnDestroyFilterDescriptor(void* filter) { return destroy<Tensor>(filter); }
CUDA_API cudnnStatus cudnnSetFilter4dDescriptor(void* filter, int type, int format, int k, int c, int h, int w) {
    const int sizes[] = {k, c, h, w};
    return set_tensor(static_cast<Tensor*>(filter), type, sizes, nullptr, format);
}
CUDA_API cudnnStatus cudnnSetFilterNdDescriptor(void* filter, int type, int format, int dimensions, const int* sizes) {
    return dimensions == 4 ? set_tensor(static_cast<Tensor*>(filter), type, sizes, nullptr, format) : CUDNN_STATUS_NOT_SUPPORTED;
}

CUDA_API cudnnStatus cudnnCreateConvolutionDescriptor(void** out) { return create<Convolution>(out); }
CUDA_API cudnnStatus cudnnDestroyConvolutionDescriptor(void* convolution) { return destroy<Convolution>(convolution); }
CUDA_API cudnnStatus cudnnSetConvolutionNdDescriptor(void* convolution, int dimensions, const int* pad, const int* stride, const int* dilation, int mode, int type) {
    if (dimensions != 2 || mode != CROSS_CORRELATION) return CUDNN_STATUS_NOT_SUPPORTED;
    auto& own = *static_cast<Convolution*>(convolution);
    for (int axis = 0; axis < 2; ++axis) {
        if (pad[axis] < 0 || stride[axis] <= 0 || dilation[axis] <= 0) return CUDNN_STATUS_BAD_PARAM;
        own.pad[axis] = pad[axis];
        own.stride[axis] = stride[axis];
        own.dilation[axis] = dilation[axis];
    }
    own.compute_type = type;
    return CUDNN_STATUS_SUCCESS;
}
CUDA_API cudnnStatus cudnnSetConvolution2dDescriptor(void* convolution, int pad_h, int pad_w, int stride_h, int stride_w, int dilation_h, int dilation_w, int mode, int type) {
    const int pad[] = {pad_h, pad_w}, stride[] = {stride_h, stride_w}, dilation[] = {dilation_h, dilation_w};
    return cudnnSetConvolutionNdDescriptor(convolution, 2, pad, stride, dilation, mode, type);
}
CUDA_API cudnnStatus cudnnSetConvolutionGroupCount(void* convolution, int groups) {
    if (groups <= 0) return CUDNN_STATUS_BAD_PARAM;
    static_cast<Convolution*>(convolution)->groups = groups;
    return CUDNN_STATUS_SUCCESS;
}
CUDA_API cudnnStatus cudnnSetConvolutionMathType(void* convolution, int math_type) {
    static_cast<Convolution*>(convolution)->math_type = math_type;
    return CUDNN_STATUS_SUCCESS;
}

// ---- Workspaces and algorithms: one algorithm each, without workspace ----

CUDA_API cudnnStatus cudnnGetConvolutionForwardWorkspaceSize(void*, void*, void*, void*, void*, int, size_t* bytes) { return no_workspace(bytes); }
CUDA_API cudnnStatus cudnnGetConvolutionBackwardDataWorkspaceSize(void*, void*, void*, void*, void*, int, size_t* bytes) { return no_workspace(bytes); }
CUDA_API cudnnStatus cudnnGetConvolutionBackwardFilterWorkspaceSize(void*, void*, void*, void*, void*, int, size_t* bytes) { return no_workspace(bytes); }

namespace {
struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math_type, reserved[3];
};
cudnnStatus one_algorithm(const void* convolution, int requested, int* returned, Performance* results) {
    if (requested < 1) return CUDNN_STATUS_BAD_PARAM;
    *returned = 1;
    // Algorithm 1 is IMPLICIT_PRECOMP_GEMM forward and the deterministic ALGO_1 backward.
    results[0] = {1, CUDNN_STATUS_SUCCESS, 0.0f, 0, 1, static_cast<const Convolution*>(convolution)->math_type, {0, 0, 0}};
    return CUDNN_STATUS_SUCCESS;
}
}  // namespace
CUDA_API cudnnStatus cudnnGetConvolutionForwardAlgorithm_v7(void*, void*, void*, void* convolution, void*, int requested, int* returned, Performance* results) { return one_algorithm(convolution, requested, returned, results); }
CUDA_API cudnnStatus cudnnGetConvolutionBackwardDataAlgorithm_v7(void*, void*, void*, void* convolution, void*, int requested, int* returned, Performance* results) { return one_algorithm(convolution, requested, returned, results); }
CUDA_API cudnnStatus cudnnGetConvolutionBackwardFilterAlgorithm_v7(void*, void*, void*, void* convolution, void*, int requested, int* returned, Performance* results) { return one_algorithm(convolution, requested, returned, results); }

// ---- Convolutions ----

CUDA_API cudnnStatus cudnnConvolutionForward(void* handle, const void* alpha, const Tensor* x_descriptor, const void* x, const Tensor* w_descriptor, const void* w,
                                             const Convolution* convolution, int, void*, size_t, const void* beta, const Tensor* y_descriptor, void* y) {
    return submit_convolution(handle, "cudnnConvolutionForward", alpha, beta, {*convolution, *x_descriptor, *w_descriptor, *y_descriptor, x, w, y, y, 0, 0, false},
                              forward<float>, forward<double>);
}
CUDA_API cudnnStatus cudnnConvolutionBackwardData(void* handle, const void* alpha, const Tensor* w_descriptor, const void* w, const Tensor* dy_descriptor, const void* dy,
                                                  const Convolution* convolution, int, void*, size_t, const void* beta, const Tensor* dx_descriptor, void* dx) {
    return submit_convolution(handle, "cudnnConvolutionBackwardData", alpha, beta, {*convolution, *dx_descriptor, *w_descriptor, *dy_descriptor, dx, w, dy, dx, 0, 0, false},
                              backward_data<float>, backward_data<double>);
}
CUDA_API cudnnStatus cudnnConvolutionBackwardFilter(void* handle, const void* alpha, const Tensor* x_descriptor, const void* x, const Tensor* dy_descriptor, const void* dy,
                                                    const Convolution* convolution, int, void*, size_t, const void* beta, const Tensor* dw_descriptor, void* dw) {
    return submit_convolution(handle, "cudnnConvolutionBackwardFilter", alpha, beta, {*convolution, *x_descriptor, *dw_descriptor, *dy_descriptor, x, dw, dy, dw, 0, 0, false},
                              backward_filter<float>, backward_filter<double>);
}

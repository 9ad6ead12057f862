// The self test of the emulated device: what a test kernel or a library computes against a direct loop, and what must end a
// process against a child that does it. Prints one line for each failed check; the exit status is 0 when all hold.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../bf16.h"

using Pointer = unsigned long long;
extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuCtxGetCurrent(void**);
int cuMemAlloc_v2(Pointer*, size_t);
int cuMemFree_v2(Pointer);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuMemcpyHtoD_v2(Pointer, const void*, size_t);
int cuMemcpyDtoH_v2(void*, Pointer, size_t);
int cuMemcpyHtoDAsync_v2(Pointer, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, Pointer, size_t, void*);
int cuMemsetD8_v2(Pointer, unsigned char, size_t);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuCtxSynchronize();
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamDestroy_v2(void*);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
int cuEventSynchronize(void*);
int cuEventDestroy_v2(void*);
unsigned long long sweep_emulator_synchronizations();
unsigned long long sweep_emulator_idle_waits();
unsigned long long sweep_emulator_launches();

int cublasCreate_v2(void**);
int cublasGemmStridedBatchedEx(void*, int, int, int, int, int, const void*, const void*, int, int, long long, const void*, int, int, long long, const void*, void*, int,
                               int, long long, int, int, int);
int cublasLtCreate(void**);
int cublasLtMatmulDescCreate(void**, int, int);
int cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t);
int cublasLtMatrixLayoutCreate(void**, int, unsigned long long, unsigned long long, long long);
int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*, void*, void*, const void*, void*, size_t, void*);

int cudnnCreate(void**);
int cudnnCreateTensorDescriptor(void**);
int cudnnSetTensor4dDescriptor(void*, int, int, int, int, int, int);
int cudnnCreateFilterDescriptor(void**);
int cudnnSetFilter4dDescriptor(void*, int, int, int, int, int, int);
int cudnnCreateConvolutionDescriptor(void**);
int cudnnSetConvolution2dDescriptor(void*, int, int, int, int, int, int, int, int);
int cudnnSetConvolutionGroupCount(void*, int);
int cudnnConvolutionForward(void*, const void*, void*, const void*, void*, const void*, void*, int, void*, size_t, const void*, void*, void*);
int cudnnConvolutionBackwardData(void*, const void*, void*, const void*, void*, const void*, void*, int, void*, size_t, const void*, void*, void*);
int cudnnConvolutionBackwardFilter(void*, const void*, void*, const void*, void*, const void*, void*, int, void*, size_t, const void*, void*, void*);
}

namespace {

int failures = 0;

void check(bool holds, const std::string& what) {
    if (holds) return;
    ++failures;
    std::printf("FAILED: %s\n", what.c_str());
}

void must(int status, const char* what) {
    if (status == 0) return;
    std::printf("FAILED: %s returned %d\n", what, status);
    std::exit(1);
}
#define MUST(call) must(call, #call)

// Device memory that holds a copy of a host vector.
template <typename T>
class Buffer {
  public:
    explicit Buffer(const std::vector<T>& values) : count_(values.size()) {
        MUST(cuMemAlloc_v2(&address, count_ * sizeof(T)));
        MUST(cuMemcpyHtoD_v2(address, values.data(), count_ * sizeof(T)));
    }
    ~Buffer() { cuMemFree_v2(address); }
    Buffer(const Buffer&) = delete;

    std::vector<T> read() const {
        std::vector<T> values(count_);
        MUST(cuMemcpyDtoH_v2(values.data(), address, count_ * sizeof(T)));
        return values;
    }
    void* get() const { return reinterpret_cast<void*>(address); }

    Pointer address = 0;

  private:
    size_t count_;
};

void* module_handle = nullptr;

void* function(const char* name) {
    void* handle;
    MUST(cuModuleGetFunction(&handle, module_handle, name));
    return handle;
}

struct Shape {
    unsigned x = 1, y = 1, z = 1;
};

template <typename... Arguments>
int launch(const char* name, Shape grid, Shape block, unsigned shared, Arguments... arguments) {
    void* parameters[] = {&arguments..., nullptr};
    return cuLaunchKernel(function(name), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, nullptr, parameters, nullptr);
}

std::mt19937 generator(7);

std::vector<float> random_values(size_t count) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> values(count);
    for (float& value : values) value = uniform(generator);
    return values;
}

// Whether a child that does this ends by a signal and says `message`.
bool dies(const std::function<void()>& deed, const char* message) {
    int channel[2];
    if (pipe(channel) != 0) return false;
    std::fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(channel[1], STDERR_FILENO);
        close(channel[0]);
        deed();
        std::_Exit(0);
    }
    close(channel[1]);
    std::string said;
    char part[512];
    for (ssize_t length; (length = read(channel[0], part, sizeof part)) > 0;) said.append(part, static_cast<size_t>(length));
    close(channel[0]);
    int status;
    waitpid(child, &status, 0);
    bool right = WIFSIGNALED(status) && said.find(message) != std::string::npos;
    if (!right) std::printf("child: status %d, said: %s\n", status, said.c_str());
    return right;
}

// ---- Threads ----

void test_barriers() {
    auto in = random_values(6 * 256);
    Buffer<float> source(in), target(std::vector<float>(in.size()));
    MUST(launch("test_reverse", {6}, {256}, 0, target.address, source.address));
    auto out = target.read();
    bool right = true;
    for (size_t i = 0; i < in.size(); ++i) right &= out[i] == in[i / 256 * 256 + 255 - i % 256];
    check(right, "a block reverses itself through shared memory");

    Buffer<int> counts(std::vector<int>(64, -1));
    MUST(launch("test_early_exit", {1}, {64}, 0, counts.address));
    auto counted = counts.read();
    right = true;
    for (int i = 0; i < 64; ++i) right &= counted[static_cast<size_t>(i)] == (i % 2 == 1 ? -1 : 16);
    check(right, "threads that have exited do not hold up a barrier");
}

void test_sum() {
    auto in = random_values(100000);
    double expected = 0;
    for (float value : in) expected += value;
    Buffer<float> source(in);
    Buffer<double> total(std::vector<double>{0});
    unsigned count = static_cast<unsigned>(in.size());
    MUST(launch("test_sum", {(count + 255) / 256}, {256}, 0, total.address, source.address, count));
    // Sums of 256 floats below 1 in a tree: far below this.
    check(std::abs(total.read()[0] - expected) < 1e-3, "sum by shuffles, a barrier and an atomic");
}

void test_exchanges() {
    Buffer<int> buffer(std::vector<int>(10 * 32));
    MUST(launch("test_exchanges", {1}, {32}, 0, buffer.address));
    auto out = buffer.read();
    unsigned thirds = 0;
    for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane) {
        const int expected[] = {50,
                                lane / 8 * 80 + 10,
                                (lane ^ 3) * 10,
                                lane < 2 ? lane * 10 : (lane - 2) * 10,
                                lane % 16 >= 14 ? lane * 10 : (lane + 2) * 10,
                                static_cast<int>(thirds),
                                1,
                                0,
                                lane < 16 ? lane ^ 1 : -(lane ^ 2),
                                496};
        for (int kind = 0; kind < 10; ++kind) {
            int got = out[static_cast<size_t>(kind * 32 + lane)];
            check(got == expected[kind], "exchange " + std::to_string(kind) + ", lane " + std::to_string(lane) + ": " + std::to_string(got));
        }
    }
}

void test_positions() {
    Buffer<unsigned> buffer(std::vector<unsigned>(2 * 3 * 4 * 5 * 3 * 2));
    MUST(launch("test_positions", {2, 3, 4}, {5, 3, 2}, 0, buffer.address));
    auto out = buffer.read();
    bool right = true;
    for (unsigned i = 0; i < out.size(); ++i) right &= out[i] == i / 30 * 1000 + i % 30;
    check(right, "three-dimensional positions");
}

void test_arguments() {
    Buffer<double> out(std::vector<double>(5));
    MUST(launch("test_arguments", {1}, {1}, 0, out.address, static_cast<unsigned char>(200), 1.5f, 2.25, size_t{1} << 40, static_cast<short>(-3)));
    check(out.read() == std::vector<double>({200, 1.5, 2.25, 1099511627776.0, -3}), "arguments of all sizes");
}

void test_shared_memory() {
    Buffer<int> fresh(std::vector<int>(4096));
    unsigned count = 4096;
    MUST(launch("test_fresh_shared", {1}, {128}, count * 4, fresh.address, count));
    auto out = fresh.read();
    check(std::count(out.begin(), out.end(), 1) == 4096, "fresh dynamic shared memory is NaN");
    for (int time = 0; time < 2; ++time) {
        MUST(launch("test_fresh_variable", {1}, {64}, 0, fresh.address));
        out = fresh.read();
        check(std::count(out.begin(), out.begin() + 64, 1) == 64, "shared variables are NaN when a launch begins");
    }
    void* kernel = function("test_fresh_shared");
    Pointer address = fresh.address;
    void* parameters[] = {&address, &count};
    auto with = [&](unsigned bytes) { return cuLaunchKernel(kernel, 1, 1, 1, 128, 1, 1, bytes, nullptr, parameters, nullptr); };
    check(with(48 * 1024 + 4) == 1, "more than 48 KiB of shared memory without opting in");
    MUST(cuFuncSetAttribute(kernel, 8, 200 * 1024));
    check(with(200 * 1024) == 0, "200 KiB of shared memory after opting in");
    check(cuFuncSetAttribute(kernel, 8, 232449) == 1, "more shared memory than the device has");
}

void test_limits() {
    Buffer<int> out(std::vector<int>(64));
    check(launch("test_early_exit", {1}, {1025}, 0, out.address) == 1, "1025 threads");
    check(launch("test_early_exit", {1, 65536}, {1}, 0, out.address) == 1, "a grid of 65536 rows");
    check(launch("test_early_exit", {0}, {1}, 0, out.address) == 1, "an empty grid");
    Pointer huge;
    check(cuMemAlloc_v2(&huge, size_t{1} << 50) == 2, "an allocation beyond the device's memory");
}

// ---- Tensor cores and bfloat16 ----

uint16_t to_bf16(float value) { return emulated::float_to_bf16(value); }
float from_bf16(uint16_t bits) { return emulated::bf16_to_float(bits); }

void test_tensor_cores() {
    auto a = random_values(16 * 16), b = random_values(16 * 8);
    std::vector<uint16_t> a_bits, b_bits;
    for (float value : a) a_bits.push_back(to_bf16(value));
    for (float value : b) b_bits.push_back(to_bf16(value));
    Buffer<uint16_t> a_buffer(a_bits), b_buffer(b_bits);
    Buffer<float> c(std::vector<float>(16 * 8));
    MUST(launch("test_mma_bf16", {1}, {32}, 0, c.address, a_buffer.address, b_buffer.address));
    auto out = c.read();
    // Sums of sixteen products below 1 in f32.
    constexpr double tolerance = 1e-5;
    for (size_t row = 0; row < 16; ++row) {
        for (size_t column = 0; column < 8; ++column) {
            double sum = 0.5;
            for (size_t k = 0; k < 16; ++k) sum += double(from_bf16(a_bits[row * 16 + k])) * from_bf16(b_bits[k * 8 + column]);
            check(std::abs(out[row * 8 + column] - sum) < tolerance, "mma bf16 at " + std::to_string(row) + ", " + std::to_string(column));
        }
    }
    auto a32 = random_values(16 * 8), b32 = random_values(8 * 8);
    Buffer<float> a32_buffer(a32), b32_buffer(b32);
    MUST(launch("test_mma_tf32", {1}, {32}, 0, c.address, a32_buffer.address, b32_buffer.address));
    out = c.read();
    for (size_t row = 0; row < 16; ++row) {
        for (size_t column = 0; column < 8; ++column) {
            double sum = 0;
            for (size_t k = 0; k < 8; ++k) sum += double(emulated::round_to_tf32(a32[row * 8 + k])) * emulated::round_to_tf32(b32[k * 8 + column]);
            check(std::abs(out[row * 8 + column] - sum) < tolerance, "mma tf32 at " + std::to_string(row) + ", " + std::to_string(column));
        }
    }
}

void test_bf16() {
    const std::vector<float> in = {1.0f,      1.00390625f, 1.01171875f, -1.00390625f, 3.3895314e38f, 3.4e38f, 1e-40f, INFINITY,
                                   -INFINITY, NAN,         0.0f,        -0.0f,        0.1f};
    // 1 + 1/256 lies between 1 and 1 + 1/128: to the even one; 1 + 3/256 likewise, upward. Subnormals go by steps of 2^-133.
    const std::vector<float> expected = {1.0f, 1.0f, 1.015625f, -1.0f, 3.3895314e38f, INFINITY, 9.18355e-41f, INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 0.10009765625f};
    Buffer<float> source(in), target(in);
    MUST(launch("test_bf16", {1}, {32}, 0, target.address, source.address, static_cast<unsigned>(in.size())));
    auto out = target.read();
    for (size_t i = 0; i < in.size(); ++i) {
        bool same = std::isnan(expected[i]) ? std::isnan(out[i]) : out[i] == expected[i] && std::signbit(out[i]) == std::signbit(expected[i]);
        check(same, "bf16 of value " + std::to_string(i));
    }
}

// ---- Libraries ----

constexpr int F32 = 0, F64 = 1, BF16 = 14;

// Column-major product of one transposition, with leading dimensions larger than the rows, two batches, alpha and beta.
void test_gemm(int type, int transpose_a, int transpose_b) {
    constexpr size_t m = 37, n = 21, k = 300, batch = 2;
    size_t rows_a = transpose_a ? k : m, rows_b = transpose_b ? n : k;
    size_t lda = rows_a + 3, ldb = rows_b + 1, ldc = m + 2;
    auto a = random_values(batch * lda * (transpose_a ? m : k)), b = random_values(batch * ldb * (transpose_b ? k : n)), c = random_values(batch * ldc * n);
    size_t stride_a = a.size() / batch, stride_b = b.size() / batch, stride_c = c.size() / batch;
    std::vector<double> a64(a.begin(), a.end()), b64(b.begin(), b.end()), c64(c.begin(), c.end());
    auto round_all = [](std::vector<double>& values) {
        for (double& value : values) value = from_bf16(to_bf16(static_cast<float>(value)));
    };
    if (type == BF16) {
        round_all(a64);
        round_all(b64);
        round_all(c64);
    }
    std::vector<double> expected = c64;
    for (size_t i = 0; i < batch; ++i)
        for (size_t column = 0; column < n; ++column)
            for (size_t row = 0; row < m; ++row) {
                double sum = 0;
                for (size_t x = 0; x < k; ++x)
                    sum += a64[i * stride_a + (transpose_a ? row * lda + x : x * lda + row)] * b64[i * stride_b + (transpose_b ? x * ldb + column : column * ldb + x)];
                double& out = expected[i * stride_c + column * ldc + row];
                out = 1.5 * sum + 0.5 * out;
            }
    void* handle;
    MUST(cublasCreate_v2(&handle));
    std::vector<double> got;
    auto multiply = [&](auto convert, auto back, const void* alpha, const void* beta, int compute) {
        using T = decltype(convert(0.0));
        auto converted = [&](const std::vector<double>& values) {
            std::vector<T> out;
            for (double value : values) out.push_back(convert(value));
            return out;
        };
        Buffer<T> da(converted(a64)), db(converted(b64)), dc(converted(c64));
        MUST(cublasGemmStridedBatchedEx(handle, transpose_a, transpose_b, m, n, k, alpha, da.get(), type, int(lda), (long long)stride_a, db.get(), type, int(ldb),
                                        (long long)stride_b, beta, dc.get(), type, int(ldc), (long long)stride_c, batch, compute, -1));
        for (T value : dc.read()) got.push_back(back(value));
    };
    float alpha32 = 1.5f, beta32 = 0.5f;
    double alpha64 = 1.5, beta64 = 0.5;
    if (type == F64) multiply([](double x) { return x; }, [](double x) { return x; }, &alpha64, &beta64, 70);
    if (type == F32) multiply([](double x) { return float(x); }, [](float x) { return double(x); }, &alpha32, &beta32, 68);
    if (type == BF16) multiply([](double x) { return to_bf16(float(x)); }, [](uint16_t x) { return double(from_bf16(x)); }, &alpha32, &beta32, 68);
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
    // Sums of 300 products below 1: f32 keeps five digits, and bf16 rounds results of up to 64 to steps of 1/4.
    double tolerance = type == F64 ? 1e-12 : type == F32 ? 1e-4 : 0.13;
    check(worst < tolerance, "gemm of type " + std::to_string(type) + ", transpositions " + std::to_string(transpose_a) + std::to_string(transpose_b) + ": off by " + std::to_string(worst));
}

void test_gemm_refusals() {
    void* handle;
    MUST(cublasCreate_v2(&handle));
    Buffer<float> data(std::vector<float>(64));
    float one = 1, zero = 0;
    auto multiply = [&](int lda, int ldc, int type_c) {
        return cublasGemmStridedBatchedEx(handle, 0, 0, 4, 4, 4, &one, data.get(), F32, lda, 0, data.get(), F32, 4, 0, &zero, data.get(), type_c, ldc, 0, 1, 68, -1);
    };
    check(multiply(3, 4, F32) == 7, "lda below the rows is refused");
    check(multiply(4, 3, F32) == 7, "ldc below the rows is refused");
    check(multiply(4, 4, BF16) == 15, "f32 products with a bf16 result are refused");
}

void test_linear_with_bias() {
    // y[4][5] = x[4][3] w[5][3]ᵀ + bias[5], row-major, as column-major yᵀ = w x ᵀ.
    auto x = random_values(4 * 3), w = random_values(5 * 3), bias = random_values(5);
    Buffer<float> dx(x), dw(w), dbias(bias), dy(std::vector<float>(32));
    void *handle, *description, *layout_w, *layout_x, *layout_y;
    MUST(cublasLtCreate(&handle));
    MUST(cublasLtMatmulDescCreate(&description, 68, F32));
    int transpose = 1, epilogue = 4;
    void* bias_pointer = dbias.get();
    MUST(cublasLtMatmulDescSetAttribute(description, 3, &transpose, sizeof transpose));
    MUST(cublasLtMatmulDescSetAttribute(description, 7, &epilogue, sizeof epilogue));
    MUST(cublasLtMatmulDescSetAttribute(description, 8, &bias_pointer, sizeof bias_pointer));
    MUST(cublasLtMatrixLayoutCreate(&layout_w, F32, 3, 5, 3));
    MUST(cublasLtMatrixLayoutCreate(&layout_x, F32, 3, 4, 3));
    MUST(cublasLtMatrixLayoutCreate(&layout_y, F32, 5, 4, 5));
    float one = 1, zero = 0;
    MUST(cublasLtMatmul(handle, description, &one, dw.get(), layout_w, dx.get(), layout_x, &zero, dy.get(), layout_y, dy.get(), layout_y, nullptr, nullptr, 0, nullptr));
    auto y = dy.read();
    for (size_t row = 0; row < 4; ++row)
        for (size_t column = 0; column < 5; ++column) {
            double sum = bias[column];
            for (size_t k = 0; k < 3; ++k) sum += double(x[row * 3 + k]) * w[column * 3 + k];
            check(std::abs(y[row * 5 + column] - sum) < 1e-5, "linear with bias");
        }
}

struct ConvolutionCase {
    int batch, channels, height, width, outputs, kernel_h, kernel_w, pad, stride, dilation, groups;
    bool channels_last;
};

// Sizes in n, c, h, w and where an element lies.
struct Layout {
    int size[4];
    bool channels_last;
    size_t count() const { return size_t(size[0]) * size_t(size[1]) * size_t(size[2]) * size_t(size[3]); }
    size_t at(int n, int c, int y, int x) const {
        return size_t(channels_last ? ((n * size[2] + y) * size[3] + x) * size[1] + c : ((n * size[1] + c) * size[2] + y) * size[3] + x);
    }
};

void test_convolution(const ConvolutionCase& t) {
    int out_h = (t.height + 2 * t.pad - t.dilation * (t.kernel_h - 1) - 1) / t.stride + 1;
    int out_w = (t.width + 2 * t.pad - t.dilation * (t.kernel_w - 1) - 1) / t.stride + 1;
    Layout x{{t.batch, t.channels, t.height, t.width}, t.channels_last};
    Layout w{{t.outputs, t.channels / t.groups, t.kernel_h, t.kernel_w}, t.channels_last};
    Layout y{{t.batch, t.outputs, out_h, out_w}, t.channels_last};
    auto x_values = random_values(x.count()), w_values = random_values(w.count()), y_values = random_values(y.count());
    std::vector<double> forward(y.count()), dx(x.count()), dw(w.count());
    for (int n = 0; n < t.batch; ++n)
        for (int k = 0; k < t.outputs; ++k)
            for (int c = 0; c < w.size[1]; ++c)
                for (int oy = 0; oy < out_h; ++oy)
                    for (int ox = 0; ox < out_w; ++ox)
                        for (int ky = 0; ky < t.kernel_h; ++ky)
                            for (int kx = 0; kx < t.kernel_w; ++kx) {
                                int iy = oy * t.stride - t.pad + ky * t.dilation, ix = ox * t.stride - t.pad + kx * t.dilation;
                                if (iy < 0 || ix < 0 || iy >= t.height || ix >= t.width) continue;
                                size_t at_x = x.at(n, k / (t.outputs / t.groups) * w.size[1] + c, iy, ix), at_w = w.at(k, c, ky, kx), at_y = y.at(n, k, oy, ox);
                                forward[at_y] += double(x_values[at_x]) * w_values[at_w];
                                dx[at_x] += double(y_values[at_y]) * w_values[at_w];
                                dw[at_w] += double(y_values[at_y]) * x_values[at_x];
                            }
    void *handle, *x_d, *w_d, *y_d, *convolution;
    int format = t.channels_last ? 1 : 0;
    MUST(cudnnCreate(&handle));
    MUST(cudnnCreateTensorDescriptor(&x_d));
    MUST(cudnnSetTensor4dDescriptor(x_d, format, 0, x.size[0], x.size[1], x.size[2], x.size[3]));
    MUST(cudnnCreateTensorDescriptor(&y_d));
    MUST(cudnnSetTensor4dDescriptor(y_d, format, 0, y.size[0], y.size[1], y.size[2], y.size[3]));
    MUST(cudnnCreateFilterDescriptor(&w_d));
    MUST(cudnnSetFilter4dDescriptor(w_d, 0, format, w.size[0], w.size[1], w.size[2], w.size[3]));
    MUST(cudnnCreateConvolutionDescriptor(&convolution));
    MUST(cudnnSetConvolution2dDescriptor(convolution, t.pad, t.pad, t.stride, t.stride, t.dilation, t.dilation, 1, 0));
    MUST(cudnnSetConvolutionGroupCount(convolution, t.groups));
    Buffer<float> x_buffer(x_values), w_buffer(w_values), y_buffer(y_values);
    Buffer<float> y_out(std::vector<float>(y.count(), NAN)), dx_out(std::vector<float>(x.count(), NAN)), dw_out(std::vector<float>(w.count(), 2.0f));
    float one = 1, zero = 0;
    MUST(cudnnConvolutionForward(handle, &one, x_d, x_buffer.get(), w_d, w_buffer.get(), convolution, 1, nullptr, 0, &zero, y_d, y_out.get()));
    MUST(cudnnConvolutionBackwardData(handle, &one, w_d, w_buffer.get(), y_d, y_buffer.get(), convolution, 1, nullptr, 0, &zero, x_d, dx_out.get()));
    // With beta 1 the gradient is added to what is there.
    MUST(cudnnConvolutionBackwardFilter(handle, &one, x_d, x_buffer.get(), y_d, y_buffer.get(), convolution, 1, nullptr, 0, &one, w_d, dw_out.get()));
    auto off = [](const std::vector<float>& got, const std::vector<double>& expected, double shift) {
        double worst = 0;
        for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::isnan(got[i]) ? INFINITY : std::abs(got[i] - expected[i] - shift));
        return worst;
    };
    // Sums of at most some hundred products below 1, in f32.
    constexpr double tolerance = 1e-4;
    std::string name = std::to_string(t.kernel_h) + "x" + std::to_string(t.kernel_w) + ", stride " + std::to_string(t.stride) + ", groups " + std::to_string(t.groups) + (t.channels_last ? ", NHWC" : ", NCHW");
    check(off(y_out.read(), forward, 0) < tolerance, "convolution forward " + name);
    check(off(dx_out.read(), dx, 0) < tolerance, "convolution backward data " + name);
    check(off(dw_out.read(), dw, 2) < tolerance, "convolution backward filter " + name);
}

// ---- What must not pass ----

void test_deaths() {
    check(dies([] {
              launch("test_deadlock", {1}, {64}, 0);
              cuCtxSynchronize();
          }, "kernel test_deadlock, block (0, 0, 0)"), "a deadlock ends the process");
    check(dies([] {
              Buffer<float> out(std::vector<float>(64));
              launch("test_overrun", {1}, {1}, 0, out.address, 64u);
              cuCtxSynchronize();
          }, "byte 256 of an allocation of 256 bytes"), "a write past the end ends the process");
    check(dies([] {
              Pointer address;
              {
                  Buffer<float> out(std::vector<float>(64));
                  address = out.address;
              }
              launch("test_overrun", {1}, {1}, 0, address, 0u);
              cuCtxSynchronize();
          }, "freed device memory"), "a write to freed memory ends the process");
    check(dies([] {
              Buffer<float> data(std::vector<float>(16));
              void* handle;
              float one = 1, zero = 0;
              cublasCreate_v2(&handle);
              cublasGemmStridedBatchedEx(handle, 0, 0, 4, 4, 5, &one, data.get(), F32, 4, 0, data.get(), F32, 5, 0, &zero, data.get(), F32, 4, 0, 1, 68, -1);
          }, "operand A (4 x 5, leading dimension 4) reaches beyond its memory"), "a product that reads past an operand ends the process");
    check(dies([] {
              launch("no_such_kernel", {1}, {1}, 0);
          }, "`no_such_kernel`"), "launching an unknown kernel ends the process");
}

// ---- Streams ----

void test_streams() {
    constexpr unsigned count = 1024;
    void *stream, *host;
    MUST(cuStreamCreate(&stream, 1));
    MUST(cuMemHostAlloc(&host, count * 4, 0));
    auto* values = static_cast<float*>(host);
    std::fill(values, values + count, 3.0f);
    Buffer<float> data(std::vector<float>(count, 0.0f));
    auto before = sweep_emulator_synchronizations(), launches = sweep_emulator_launches();
    MUST(cuMemcpyHtoDAsync_v2(data.address, host, count * 4, stream));
    Pointer address = data.address;
    unsigned n = count;
    void* parameters[] = {&address, &n};
    MUST(cuLaunchKernel(function("test_cheap"), 4, 1, 1, 256, 1, 1, 0, stream, parameters, nullptr));
    MUST(cuMemcpyDtoHAsync_v2(host, data.address, count * 4, stream));
    check(sweep_emulator_synchronizations() == before, "pinned copies and launches do not synchronise");
    check(sweep_emulator_launches() == launches + 1, "launches are counted");
    const char* mode = std::getenv("SWEEP_EMULATOR_STREAMS");
    if (mode != nullptr && std::strcmp(mode, "lazy") == 0) check(values[0] == 3.0f, "a lazy stream has done nothing before the host waits");
    MUST(cuStreamSynchronize(stream));
    check(sweep_emulator_synchronizations() == before + 1, "a stream synchronisation is counted");
    void* context;
    MUST(cuCtxGetCurrent(&context));
    std::thread([context] { MUST(cuCtxSetCurrent(context)); MUST(cuCtxSynchronize()); }).join();
    check(sweep_emulator_synchronizations() == before + 1, "another thread's synchronisation is its own");
    check(values[0] == 7.0f && values[count - 1] == 7.0f, "copy, kernel and copy in the order of the stream");
    void* event;
    MUST(cuEventCreate(&event, 2));
    MUST(cuEventRecord(event, stream));
    MUST(cuMemcpyDtoHAsync_v2(host, data.address, count * 4, stream));
    auto idle = sweep_emulator_idle_waits();
    MUST(cuEventSynchronize(event));
    bool lazy = mode != nullptr && std::strcmp(mode, "lazy") == 0;
    check(sweep_emulator_idle_waits() == idle, "a wait for a point with work after it leaves the device busy");
    MUST(cuStreamSynchronize(stream));
    check(sweep_emulator_idle_waits() == idle + (lazy ? 1 : 0), "a wait for everything leaves it idle");
    MUST(cuEventDestroy_v2(event));
    MUST(cuMemFreeHost(host));
    MUST(cuStreamDestroy_v2(stream));
}

// What a thread costs, for information.
void measure() {
    constexpr unsigned count = 1 << 22;
    Buffer<float> data(std::vector<float>(count, 1.0f));
    auto start = std::chrono::steady_clock::now();
    MUST(launch("test_cheap", {count / 256}, {256}, 0, data.address, count));
    cuCtxSynchronize();
    double cheap = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / count;
    Buffer<double> total(std::vector<double>{0});
    start = std::chrono::steady_clock::now();
    MUST(launch("test_sum", {count / 256}, {256}, 0, total.address, data.address, count));
    cuCtxSynchronize();
    double shuffled = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / count;
    std::printf("nanoseconds a thread: %.1f plain, %.1f with five shuffles and a barrier\n", cheap, shuffled);
}

}  // namespace

int main() {
    void* context;
    MUST(cuInit(0));
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    MUST(cuModuleLoadData(&module_handle, ""));
    // First, for a child has none of its parent's OS threads.
    test_deaths();
    test_barriers();
    test_sum();
    test_exchanges();
    test_positions();
    test_arguments();
    test_shared_memory();
    test_limits();
    test_tensor_cores();
    test_bf16();
    for (int type : {F32, F64, BF16})
        for (int transposition = 0; transposition < 4; ++transposition) test_gemm(type, transposition & 1, transposition >> 1);
    test_gemm_refusals();
    test_linear_with_bias();
    for (bool channels_last : {false, true}) {
        test_convolution({2, 3, 9, 8, 4, 3, 3, 1, 1, 1, 1, channels_last});
        test_convolution({2, 4, 11, 9, 6, 3, 2, 1, 2, 1, 2, channels_last});
        test_convolution({1, 3, 16, 16, 5, 4, 4, 0, 4, 1, 1, channels_last});
        test_convolution({2, 6, 10, 10, 6, 7, 7, 3, 1, 1, 6, channels_last});
        test_convolution({1, 2, 12, 12, 3, 3, 3, 2, 1, 2, 1, channels_last});
    }
    test_streams();
    measure();
    if (failures > 0) std::printf("%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}

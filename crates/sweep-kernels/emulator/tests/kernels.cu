// Kernels of the self test: each shows one thing of the dialect.
#include <cuda_bf16.h>

// out[i] = in[n - 1 - i] within each block, through shared memory: wrong without a barrier in any order of threads.
extern "C" __global__ void test_reverse(float* __restrict__ out, const float* __restrict__ in) {
    __shared__ float tile[256];
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    tile[threadIdx.x] = in[i];
    __syncthreads();
    out[i] = tile[blockDim.x - 1 - threadIdx.x];
}

// Sum of a block by shuffles and one barrier, added to one number for the whole grid.
extern "C" __global__ void test_sum(double* total, const float* in, unsigned n) {
    __shared__ float parts[32];
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = i < n ? in[i] : 0.0f;
    for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, delta);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    value = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0.0f;
    for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, mask);
    if (threadIdx.x == 0) atomicAdd(total, static_cast<double>(value));
}

// What each lane of one warp gets from every kind of exchange: out[kind * 32 + lane].
extern "C" __global__ void test_exchanges(int* out) {
    int lane = static_cast<int>(threadIdx.x);
    int kind = 0;
    auto put = [&](int value) { out[kind++ * 32 + lane] = value; };
    put(__shfl_sync(0xFFFFFFFFu, lane * 10, 5));
    put(__shfl_sync(0xFFFFFFFFu, lane * 10, 9, 8));
    put(__shfl_xor_sync(0xFFFFFFFFu, lane * 10, 3));
    put(__shfl_up_sync(0xFFFFFFFFu, lane * 10, 2));
    put(__shfl_down_sync(0xFFFFFFFFu, lane * 10, 2, 16));
    put(static_cast<int>(__ballot_sync(0xFFFFFFFFu, lane % 3 == 0)));
    put(__any_sync(0xFFFFFFFFu, lane == 31));
    put(__all_sync(0xFFFFFFFFu, lane < 31));
    // Two halves meet apart from each other.
    unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    put(lane < 16 ? __shfl_xor_sync(half, lane, 1) : __shfl_xor_sync(half, -lane, 2));
    put(__reduce_add_sync(0xFFFFFFFFu, lane));
}

// Threads that leave early do not hold up the barrier.
extern "C" __global__ void test_early_exit(int* out) {
    if (threadIdx.x % 2 == 1) return;
    __syncthreads();
    out[threadIdx.x] = __syncthreads_count(threadIdx.x % 4 == 0);
}

// Lane 0 waits for lanes that never come.
extern "C" __global__ void test_deadlock() {
    if (threadIdx.x == 0) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

// Writes one element past the end.
extern "C" __global__ void test_overrun(float* out, unsigned n) { out[n] = 1.0f; }

// Fresh dynamic shared memory is NaN.
extern "C" __global__ void test_fresh_shared(int* out, unsigned n) {
#ifdef SWEEP_EMULATED
    const float* values = static_cast<const float*>(emulated_dynamic_shared());
#else
    extern __shared__ float values[];
#endif
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) out[i] = isnan(values[i]);
}

// So are `__shared__` variables when a launch begins.
extern "C" __global__ void test_fresh_variable(int* out) {
    __shared__ float values[64];
    out[threadIdx.x] = isnan(values[threadIdx.x]);
    __syncthreads();
    values[threadIdx.x] = 0.0f;
}

// Positions of a three-dimensional launch: out[linear thread of the grid] = a number made of all coordinates.
extern "C" __global__ void test_positions(unsigned* out) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

// Arguments of all sizes arrive in their order.
extern "C" __global__ void test_arguments(double* out, unsigned char small, float single, double large, size_t size, short half) {
    out[0] = small;
    out[1] = single;
    out[2] = large;
    out[3] = static_cast<double>(size);
    out[4] = half;
}

// c (16x8, f32) = a (16x16, bf16, row-major) * b (16x8, bf16, row-major), a and b by ldmatrix from shared memory.
extern "C" __global__ void test_mma_bf16(float* c, const __nv_bfloat16* a, const __nv_bfloat16* b) {
    __shared__ __align__(16) __nv_bfloat16 tile_a[16 * 16], tile_b[16 * 8];
    for (unsigned i = threadIdx.x; i < 32; i += 32) emulated_cp_async_16(tile_a + i * 8, a + i * 8);
    if (threadIdx.x < 16) emulated_cp_async_16(tile_b + threadIdx.x * 8, b + threadIdx.x * 8);
    __syncwarp();
    unsigned lane = threadIdx.x;
    uint32_t a_registers[4], b_registers[2];
    // Matrices 0 to 3 are rows 0-7 and 8-15 of columns 0-7, then of columns 8-15.
    emulated_ldmatrix_x4(a_registers, tile_a + (lane % 16) * 16 + lane / 16 * 8);
    emulated_ldmatrix_x2_trans(b_registers, tile_b + (lane % 16) * 8);
    float sums[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    emulated_mma_m16n8k16_bf16(sums, a_registers, b_registers, sums);
    unsigned group = lane / 4, member = lane % 4;
    for (unsigned r = 0; r < 4; ++r) c[(group + 8 * (r / 2)) * 8 + 2 * member + r % 2] = sums[r];
}

// c (16x8) = a (16x8, row-major) * b (8x8, row-major) in TF32.
extern "C" __global__ void test_mma_tf32(float* c, const float* a, const float* b) {
    unsigned group = threadIdx.x / 4, member = threadIdx.x % 4;
    uint32_t a_registers[4], b_registers[2];
    for (unsigned r = 0; r < 4; ++r) a_registers[r] = emulated_to_tf32(a[(group + 8 * (r % 2)) * 8 + member + 4 * (r / 2)]);
    for (unsigned r = 0; r < 2; ++r) b_registers[r] = emulated_to_tf32(b[(member + 4 * r) * 8 + group]);
    float sums[4] = {};
    emulated_mma_m16n8k8_tf32(sums, a_registers, b_registers, sums);
    for (unsigned r = 0; r < 4; ++r) c[(group + 8 * (r / 2)) * 8 + 2 * member + r % 2] = sums[r];
}

// Rounds to bfloat16 and back.
extern "C" __global__ void test_bf16(float* out, const float* in, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __bfloat162float(__float2bfloat16_rn(in[i]));
}

// As little work as a thread can do, to see what a thread costs.
extern "C" __global__ void test_cheap(float* out, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = out[i] * 2.0f + 1.0f;
}

// Instructions of tensor cores and of the copies that feed them: products of 16 x 16 by 16 x 8 matrices of bf16 with sums
// in float, and fragments from shared memory.
//
// Fragments are as the PTX ISA lays them out for mma.m16n8k16. With group = lane / 4 and member = lane % 4, a lane holds of
// a 16 x 8 sum: c[0], c[1] at row group, columns 2 member and 2 member + 1; c[2], c[3] the same of row group + 8.
#pragma once

#include "common.cuh"

// sum += a b, where b is given by its two registers.
__device__ __forceinline__ void multiply_add(float sum[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef SWEEP_EMULATED
    emulated_mma_m16n8k16_bf16(sum, a, b, sum);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 8 matrices of bf16; lane i names row i % 8 of matrix i / 8, 16 aligned bytes in shared memory.
__device__ __forceinline__ void load_matrices(uint32_t r[4], const bf16* row) {
#ifdef SWEEP_EMULATED
    emulated_ldmatrix_x4(r, row);
#else
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
#endif
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t r[4], const bf16* row) {
#ifdef SWEEP_EMULATED
    emulated_ldmatrix_x4_trans(r, row);
#else
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
#endif
}

// Left operand: rows m.. and columns k.. (16 each) of a matrix stored [m][k].
__device__ __forceinline__ void load_left(uint32_t a[4], const bf16* matrix, int stride, int m, int k) {
    const int lane = threadIdx.x % WARP, part = lane / 8;
    load_matrices(a, matrix + (m + part % 2 * 8 + lane % 8) * stride + k + part / 2 * 8);
}

// The same of a matrix stored [k][m].
__device__ __forceinline__ void load_left_transposed(uint32_t a[4], const bf16* matrix, int stride, int m, int k) {
    const int lane = threadIdx.x % WARP, part = lane / 8;
    load_matrices_transposed(a, matrix + (k + part / 2 * 8 + lane % 8) * stride + m + part % 2 * 8);
}

// Two right operands: rows k.. and columns n.. n + 7 (b[0], b[1]) and n + 8.. n + 15 (b[2], b[3]) of a matrix stored [n][k].
__device__ __forceinline__ void load_right(uint32_t b[4], const bf16* matrix, int stride, int k, int n) {
    const int lane = threadIdx.x % WARP, part = lane / 8;
    load_matrices(b, matrix + (n + part / 2 * 8 + lane % 8) * stride + k + part % 2 * 8);
}

// The same of a matrix stored [k][n].
__device__ __forceinline__ void load_right_transposed(uint32_t b[4], const bf16* matrix, int stride, int k, int n) {
    const int lane = threadIdx.x % WARP, part = lane / 8;
    load_matrices_transposed(b, matrix + (k + part % 2 * 8 + lane % 8) * stride + n + part / 2 * 8);
}

// sum[0] and sum[1], side by side, += left times the two right operands of `load_right`.
__device__ __forceinline__ void multiply_add_16(float sum[2][4], const uint32_t a[4], const uint32_t b[4]) {
    multiply_add(sum[0], a, b);
    multiply_add(sum[1], a, b + 2);
}

// Two sums side by side as a left operand of bf16.
__device__ __forceinline__ void as_left(uint32_t a[4], const float sum[2][4]) {
    a[0] = two_bf16(sum[0][0], sum[0][1]);
    a[1] = two_bf16(sum[0][2], sum[0][3]);
    a[2] = two_bf16(sum[1][0], sum[1][1]);
    a[3] = two_bf16(sum[1][2], sum[1][3]);
}

// Writes factor times two sums side by side, 16 columns of bf16 that begin at `low` (row group) and `high` (row group + 8);
// a null pointer skips the row. Neighbouring lanes exchange halves first, so that a row is written as one sector of 32 bytes.
__device__ __forceinline__ void store_16(bf16* low, bf16* high, const float sum[2][4], float factor) {
    const int member = threadIdx.x % 4;
    const bool odd = member % 2 != 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const unsigned left = two_bf16(factor * sum[0][2 * half], factor * sum[0][2 * half + 1]);
        const unsigned right = two_bf16(factor * sum[1][2 * half], factor * sum[1][2 * half + 1]);
        const unsigned other = __shfl_xor_sync(ALL_LANES, odd ? left : right, 1);
        bf16* row = half == 0 ? low : high;
        if (row != nullptr)
            *reinterpret_cast<uint2*>(row + (odd ? 6 + 2 * member : 2 * member)) =
                odd ? make_uint2(other, right) : make_uint2(left, other);
    }
}

// Starts to copy 16 aligned bytes from global to shared memory; writes zeros where they are not valid.
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool valid) {
#ifdef SWEEP_EMULATED
    emulated_cp_async_16(shared, global, valid ? 16 : 0);
#else
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid ? 16 : 0) : "memory");
#endif
}

// Waits for the copies that this thread started.
__device__ __forceinline__ void wait_for_copies() {
#ifndef SWEEP_EMULATED
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// 2 to the power of x, with two units in the last place; one instruction.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef SWEEP_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

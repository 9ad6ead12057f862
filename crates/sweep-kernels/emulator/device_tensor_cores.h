// Tensor-core instructions as functions, with the registers of each lane laid out as the PTX ISA says (mma.m16n8k16,
// mma.m16n8k8, ldmatrix). In every table below, group = lane / 4 and member = lane % 4.
#pragma once

namespace emulated {

// The operands of one lane of an mma: d = a * b + c.
struct MatrixMultiply {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
    const float* c;
};

inline const MatrixMultiply& lane_operands(void* const operands[32], int lane) {
    if (operands[lane] == nullptr) fail("a tensor-core instruction lacks lane %d", lane);
    return *static_cast<const MatrixMultiply*>(operands[lane]);
}

// c and d, 16x8: register r of a lane is row group + 8 * (r / 2), column 2 * member + r % 2.
inline void accumulate_16x8(void* const operands[32], const float* a, const float* b, int depth) {
    for (int lane = 0; lane < 32; ++lane) {
        const MatrixMultiply& own = lane_operands(operands, lane);
        for (int r = 0; r < 4; ++r) {
            int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
            float sum = 0.0f;
            for (int k = 0; k < depth; ++k) sum += a[row * depth + k] * b[k * 8 + column];
            // The registers may be the same, so each is read just before it is written.
            own.d[r] = own.c[r] + sum;
        }
    }
}

// a, 16x16: register r holds row group + 8 * (r % 2), columns 2 * member + 8 * (r / 2) (low half) and the next one (high half).
// b, 16x8: register r holds column group, rows 2 * member + 8 * r (low half) and the next one (high half).
inline void mma_m16n8k16_bf16(void* const operands[32]) {
    float a[16 * 16], b[16 * 8];
    for (int lane = 0; lane < 32; ++lane) {
        const MatrixMultiply& own = lane_operands(operands, lane);
        int group = lane / 4, member = lane % 4;
        for (int r = 0; r < 4; ++r) {
            float* pair = a + (group + 8 * (r % 2)) * 16 + 2 * member + 8 * (r / 2);
            pair[0] = bf16_to_float(static_cast<uint16_t>(own.a[r]));
            pair[1] = bf16_to_float(static_cast<uint16_t>(own.a[r] >> 16));
        }
        for (int r = 0; r < 2; ++r) {
            int row = 2 * member + 8 * r;
            b[row * 8 + group] = bf16_to_float(static_cast<uint16_t>(own.b[r]));
            b[(row + 1) * 8 + group] = bf16_to_float(static_cast<uint16_t>(own.b[r] >> 16));
        }
    }
    accumulate_16x8(operands, a, b, 16);
}

// The tensor cores read the upper 19 bits of a TF32 operand.
inline float read_tf32(uint32_t bits) { return bits_to_float(bits & 0xFFFFE000u); }

// a, 16x8: register r is row group + 8 * (r % 2), column member + 4 * (r / 2). b, 8x8: register r is row member + 4 * r, column group.
inline void mma_m16n8k8_tf32(void* const operands[32]) {
    float a[16 * 8], b[8 * 8];
    for (int lane = 0; lane < 32; ++lane) {
        const MatrixMultiply& own = lane_operands(operands, lane);
        int group = lane / 4, member = lane % 4;
        for (int r = 0; r < 4; ++r) a[(group + 8 * (r % 2)) * 8 + member + 4 * (r / 2)] = read_tf32(own.a[r]);
        for (int r = 0; r < 2; ++r) b[(member + 4 * r) * 8 + group] = read_tf32(own.b[r]);
    }
    accumulate_16x8(operands, a, b, 8);
}

struct LoadMatrix {
    uint32_t* registers;
    const void* row;
};

// Matrix i has its eight rows of 16 bytes at the addresses of lanes 8 * i to 8 * i + 7; register i of a lane gets the elements
// 2 * member and 2 * member + 1 of row `group`, or of column `group` when transposed.
template <int Count, bool Transposed>
void load_matrices(void* const operands[32]) {
    for (int lane = 0; lane < 32; ++lane) {
        if (operands[lane] == nullptr) fail("ldmatrix lacks lane %d", lane);
    }
    auto element = [&](int matrix, int row, int column) {
        const void* address = static_cast<const LoadMatrix*>(operands[8 * matrix + row])->row;
        if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail("ldmatrix: the row of lane %d is not aligned to 16 bytes", 8 * matrix + row);
        return static_cast<uint32_t>(static_cast<const uint16_t*>(address)[column]);
    };
    for (int lane = 0; lane < 32; ++lane) {
        int group = lane / 4, first = 2 * (lane % 4);
        for (int matrix = 0; matrix < Count; ++matrix) {
            uint32_t low = Transposed ? element(matrix, first, group) : element(matrix, group, first);
            uint32_t high = Transposed ? element(matrix, first + 1, group) : element(matrix, group, first + 1);
            static_cast<const LoadMatrix*>(operands[lane])->registers[matrix] = low | high << 16;
        }
    }
}

}  // namespace emulated

// d = a * b + c of 16x16 by 16x8 bf16 with f32 sums; all 32 lanes call it together.
inline void emulated_mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4]) {
    emulated::MatrixMultiply operands{d, a, b, c};
    emulated::synchronize_warp(0xFFFFFFFFu, &emulated::mma_m16n8k16_bf16, &operands);
}
// d = a * b + c of 16x8 by 8x8 TF32; of each operand the upper 19 bits count, so round with `emulated_to_tf32` before.
inline void emulated_mma_m16n8k8_tf32(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4]) {
    emulated::MatrixMultiply operands{d, a, b, c};
    emulated::synchronize_warp(0xFFFFFFFFu, &emulated::mma_m16n8k8_tf32, &operands);
}
// cvt.rna.tf32.f32
inline uint32_t emulated_to_tf32(float value) { return emulated::float_to_bits(emulated::round_to_tf32(value)); }

template <int Count, bool Transposed>
inline void emulated_ldmatrix(uint32_t* registers, const void* row) {
    emulated::LoadMatrix operands{registers, row};
    emulated::synchronize_warp(0xFFFFFFFFu, &emulated::load_matrices<Count, Transposed>, &operands);
}
// ldmatrix.sync.aligned.m8n8.{x2,x4}{.trans}.shared.b16; `row` is the address of the lane's row, ignored from lanes without one.
inline void emulated_ldmatrix_x4(uint32_t r[4], const void* row) { emulated_ldmatrix<4, false>(r, row); }
inline void emulated_ldmatrix_x4_trans(uint32_t r[4], const void* row) { emulated_ldmatrix<4, true>(r, row); }
inline void emulated_ldmatrix_x2(uint32_t r[2], const void* row) { emulated_ldmatrix<2, false>(r, row); }
inline void emulated_ldmatrix_x2_trans(uint32_t r[2], const void* row) { emulated_ldmatrix<2, true>(r, row); }

// cp.async of 16 bytes from global to shared memory. The copy is done at once, so a missing wait does not show.
inline void emulated_cp_async_16(void* shared, const void* global) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0) emulated::fail("cp.async: %p and %p must be aligned to 16 bytes", shared, global);
    memcpy(shared, global, 16);
}
// With `bytes` below 16 the rest is filled with zeros, as the instruction's source size does.
inline void emulated_cp_async_16(void* shared, const void* global, int bytes) {
    if (bytes == 16) return emulated_cp_async_16(shared, global);
    memset(shared, 0, 16);
    memcpy(shared, global, static_cast<size_t>(bytes));
}
inline void emulated_cp_async_commit() {}
template <int Pending>
inline void emulated_cp_async_wait() {}
inline void emulated_cp_async_wait_all() {}

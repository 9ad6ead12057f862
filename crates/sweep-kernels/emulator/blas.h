// What the emulated cuBLAS and cuBLASLt share. Names and values are those of CUDA 13's cuBLAS.
#pragma once

#include "gemm.h"
#include "runtime.h"

#define CUDA_API extern "C" EMULATED_EXPORT

using cublasStatus = int;
enum : cublasStatus {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
};

enum : int { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16BF = 14 };
enum : int {
    CUBLAS_COMPUTE_32F = 68,
    CUBLAS_COMPUTE_32F_PEDANTIC = 69,
    CUBLAS_COMPUTE_64F = 70,
    CUBLAS_COMPUTE_64F_PEDANTIC = 71,
    CUBLAS_COMPUTE_32F_FAST_16F = 74,
    CUBLAS_COMPUTE_32F_FAST_16BF = 75,
    CUBLAS_COMPUTE_32F_FAST_TF32 = 77,
};

namespace emulated {

// The element type behind a cudaDataType; false when the emulation does not have it.
inline bool element_of(int type, Element* element) {
    switch (type) {
        case CUDA_R_32F: *element = Element::f32; return true;
        case CUDA_R_64F: *element = Element::f64; return true;
        case CUDA_R_16BF: *element = Element::bf16; return true;
        default: return false;
    }
}

inline bool is_double(int compute_type) { return compute_type == CUBLAS_COMPUTE_64F || compute_type == CUBLAS_COMPUTE_64F_PEDANTIC; }
inline bool is_single(int compute_type) {
    return compute_type == CUBLAS_COMPUTE_32F || compute_type == CUBLAS_COMPUTE_32F_PEDANTIC ||
           (compute_type >= CUBLAS_COMPUTE_32F_FAST_16F && compute_type <= CUBLAS_COMPUTE_32F_FAST_TF32);
}

}  // namespace emulated

//! Products of matrices: cuBLAS, and cuBLASLt where a bias is added on the way.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use candle_core::cuda_backend::cudarc::cublas::{result as blas, sys as blas_sys};
use candle_core::cuda_backend::cudarc::cublaslt::{result as lt, sys as lt_sys};
use candle_core::{DType, Tensor};

use super::{Gpu, failure};
use crate::parameters::Compute;
use crate::{Error, Result};

/// A row-major matrix inside a contiguous tensor.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    tensor: &'a Tensor,
    /// Element of the tensor that it begins with.
    first: usize,
    /// Rows and columns as they lie in memory.
    rows: usize,
    columns: usize,
    /// Elements from one row to the next.
    row_stride: usize,
    is_transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The first `rows · columns` elements of `tensor`.
    pub(crate) fn new(tensor: &'a Tensor, rows: usize, columns: usize) -> Self {
        Self { tensor, first: 0, rows, columns, row_stride: columns, is_transposed: false }
    }

    /// The same from element `first` on, with `row_stride` elements from one row to the next.
    pub(crate) fn strided(self, first: usize, row_stride: usize) -> Self {
        Self { first, row_stride, ..self }
    }

    /// The transposed matrix; nothing is moved.
    pub(crate) fn transposed(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    /// Rows and columns as they count in a product.
    fn dims(&self) -> (usize, usize) {
        if self.is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// Checks that it lies inside the tensor, and that cuBLAS can count its rows and columns.
    fn check(&self) -> Result<()> {
        let last_row = (self.rows.max(1) - 1) * self.row_stride;
        let is_inside = self.first + last_row + self.columns <= self.tensor.elem_count();
        let most = c_int::MAX as usize;
        let is_counted = self.rows.max(self.columns).max(self.row_stride) <= most;
        if is_inside && is_counted && self.row_stride >= self.columns {
            return Ok(());
        }
        let got = vec![self.rows, self.columns, self.row_stride];
        let expected = format!("(rows, columns, row stride) inside {:?}", self.tensor.dims());
        Err(Error::Shape { operation: "product", got, expected })
    }

    fn address(&self, gpu: &Gpu) -> Result<u64> {
        let bytes = self.first * self.tensor.dtype().size_in_bytes();
        Ok(gpu.address(self.tensor)? + bytes as u64)
    }
}

/// `out = left · right (+ out) (+ bias in every row)`, accumulated in F32.
///
/// `left` and `right` have one dtype, F32 or BF16; `out` may be F32 where they are BF16.
pub(crate) struct Product<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    adds: bool,
    compute: Compute,
}

impl<'a> Product<'a> {
    /// `compute` decides how F32 is multiplied: exactly, or rounded to TF32.
    pub(crate) fn new(left: Matrix<'a>, right: Matrix<'a>, compute: Compute) -> Self {
        Self { left, right, adds: false, compute }
    }

    /// Adds to what `out` holds.
    pub(crate) fn adding(self) -> Self {
        Self { adds: true, ..self }
    }

    /// Enqueues the product; `out` is not transposed.
    ///
    /// # Errors
    /// [`Error::Shape`] where the sizes disagree; failures of cuBLAS.
    pub(crate) fn into(self, gpu: &Gpu, out: Matrix<'_>) -> Result<()> {
        let sizes = self.sizes(&out)?;
        let (alpha, beta) = (1.0_f32, if self.adds { 1.0_f32 } else { 0.0 });
        let (left, right) = (&self.left, &self.right);
        let kind = data_type(left.tensor.dtype())?;
        let out_kind = data_type(out.tensor.dtype())?;
        // cuBLAS is column-major: a row-major matrix is its own transpose there, and outᵀ = rightᵀ · leftᵀ.
        let (m, n, k) = (sizes.columns as c_int, sizes.rows as c_int, sizes.inner as c_int);
        let (a, b, c) = (right.address(gpu)?, left.address(gpu)?, out.address(gpu)?);
        let (lda, ldb, ldc) = (right.row_stride as c_int, left.row_stride as c_int, out.row_stride as c_int);
        let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
        let (turn_a, turn_b) = (operation(right), operation(left));
        let compute = compute_type(left.tensor.dtype(), self.compute);
        let algorithm = blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        let (a, b, c) = (a as *const c_void, b as *const c_void, c as *mut c_void);
        // SAFETY: the addresses lie in tensors that are alive, `sizes` checked the matrices against them, and the scalars
        // outlive the call.
        unsafe {
            blas::gemm_ex(
                gpu.blas(),
                turn_a,
                turn_b,
                m,
                n,
                k,
                alpha,
                a,
                kind,
                lda,
                b,
                kind,
                ldb,
                beta,
                c,
                out_kind,
                ldc,
                compute,
                algorithm,
            )
        }
        .map_err(failure)
    }

    /// Enqueues `out = left · right + bias`, with `bias` (columns of `out`, in the dtype of `out`) added to every row before
    /// the result leaves the registers. `left` and `out` not transposed.
    ///
    /// # Errors
    /// As [`Product::into`].
    pub(crate) fn into_with_bias(self, gpu: &Gpu, out: Matrix<'_>, bias: &Tensor) -> Result<()> {
        let sizes = self.sizes(&out)?;
        if bias.elem_count() != sizes.columns || bias.dtype() != out.tensor.dtype() {
            let expected = format!("({}) in {:?}", sizes.columns, out.tensor.dtype());
            return Err(Error::Shape { operation: "bias", got: bias.dims().to_vec(), expected });
        }
        let key = PlanKey {
            sizes,
            right_is_transposed: self.right.is_transposed,
            left_is_transposed: self.left.is_transposed,
            strides: [self.left.row_stride, self.right.row_stride, out.row_stride],
            dtypes: [self.left.tensor.dtype(), out.tensor.dtype()],
            compute: self.compute,
            alignment: self.alignment(gpu, &out)?,
        };
        let mut plans = gpu.plans().borrow_mut();
        let bias = gpu.address(bias)?;
        let plan = match plans.by_key.entry(key) {
            std::collections::hash_map::Entry::Occupied(plan) => plan.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => slot.insert(Plan::new(gpu, &key, bias)?),
        };
        plan.description
            .set(lt_sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (workspace, bytes) = gpu.workspace()?;
        let out_address = out.address(gpu)?;
        // SAFETY: as in `into`; descriptors and algorithm belong to the plan, which is borrowed here.
        unsafe {
            lt::matmul(
                gpu.lt(),
                plan.description.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                self.right.address(gpu)? as *const c_void,
                plan.right.0,
                self.left.address(gpu)? as *const c_void,
                plan.left.0,
                out_address as *const c_void,
                plan.out.0,
                out_address as *mut c_void,
                plan.out.0,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                bytes,
                gpu.stream().cu_stream().cast(),
            )
        }
        .map_err(failure)
    }

    /// Whether [`Product::into_with_bias`] can do it well: cuBLASLt has no fast algorithm, and for some sizes none at all,
    /// where rows do not begin at multiples of 16 bytes.
    pub(crate) fn takes_bias(&self, gpu: &Gpu, out: &Matrix<'_>) -> Result<bool> {
        Ok(self.alignment(gpu, out)? >= 16)
    }

    /// The largest power of two, at most 256, that divides the addresses and the row strides in bytes of all matrices.
    fn alignment(&self, gpu: &Gpu, out: &Matrix<'_>) -> Result<u32> {
        let mut bits = 256;
        for matrix in [&self.left, &self.right, out] {
            let bytes = matrix.row_stride * matrix.tensor.dtype().size_in_bytes();
            bits |= matrix.address(gpu)? | bytes as u64;
        }
        Ok(1 << bits.trailing_zeros())
    }

    fn sizes(&self, out: &Matrix<'_>) -> Result<Sizes> {
        let ((rows, inner), (other_inner, columns)) = (self.left.dims(), self.right.dims());
        if inner != other_inner || out.dims() != (rows, columns) || out.is_transposed {
            let got = vec![rows, inner, other_inner, columns];
            let expected = format!("(rows, inner, inner, columns) for an output {:?}", out.dims());
            return Err(Error::Shape { operation: "product", got, expected });
        }
        if self.right.tensor.dtype() != self.left.tensor.dtype() {
            return Err(Error::UnsupportedDtype { operation: "product", dtype: self.right.tensor.dtype() });
        }
        for matrix in [&self.left, &self.right, out] {
            matrix.check()?;
        }
        Ok(Sizes { rows, columns, inner })
    }
}

/// Sizes of one product as it counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sizes {
    rows: usize,
    columns: usize,
    inner: usize,
}

fn operation(matrix: &Matrix<'_>) -> blas_sys::cublasOperation_t {
    if matrix.is_transposed {
        blas_sys::cublasOperation_t::CUBLAS_OP_T
    } else {
        blas_sys::cublasOperation_t::CUBLAS_OP_N
    }
}

fn data_type(dtype: DType) -> Result<blas_sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(blas_sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(blas_sys::cudaDataType::CUDA_R_16BF),
        _ => Err(Error::UnsupportedDtype { operation: "product", dtype }),
    }
}

fn compute_type(dtype: DType, compute: Compute) -> blas_sys::cublasComputeType_t {
    match (dtype, compute) {
        (DType::F32, Compute::Tf32) => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        _ => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    }
}

/// Prepared products with a bias, one for each shape that was asked for.
#[derive(Default)]
pub(super) struct Plans {
    by_key: HashMap<PlanKey, Plan>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PlanKey {
    sizes: Sizes,
    left_is_transposed: bool,
    right_is_transposed: bool,
    /// Row strides of left, right and out.
    strides: [usize; 3],
    /// Of the operands and of out.
    dtypes: [DType; 2],
    compute: Compute,
    /// Power of two that divides all addresses and row strides in bytes.
    alignment: u32,
}

/// Descriptors and the algorithm that cuBLASLt proposed.
struct Plan {
    description: Description,
    left: MatrixLayout,
    right: MatrixLayout,
    out: MatrixLayout,
    algorithm: lt_sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// `bias` is any address as well aligned as later ones.
    fn new(gpu: &Gpu, key: &PlanKey, bias: u64) -> Result<Self> {
        use lt_sys::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = if key.dtypes[0] == DType::F32 && key.compute == Compute::Tf32 {
            lt_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            lt_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let description =
            Description(lt::create_matmul_desc(compute, lt_sys::cudaDataType::CUDA_R_32F).map_err(failure)?);
        let code = |is_transposed: bool| {
            if is_transposed {
                blas_sys::cublasOperation_t::CUBLAS_OP_T
            } else {
                blas_sys::cublasOperation_t::CUBLAS_OP_N
            }
        };
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, code(key.right_is_transposed))?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, code(key.left_is_transposed))?;
        let epilogue = lt_sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
        description.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        let Sizes { rows, columns, inner } = key.sizes;
        let [left_stride, right_stride, out_stride] = key.strides;
        let [operands, result] = key.dtypes;
        let turned = |is_transposed: bool, rows, columns| {
            if is_transposed { (columns, rows) } else { (rows, columns) }
        };
        let (left_rows, left_columns) = turned(key.left_is_transposed, rows, inner);
        let (right_rows, right_columns) = turned(key.right_is_transposed, inner, columns);
        let left = MatrixLayout::new(operands, left_rows, left_columns, left_stride)?;
        let right = MatrixLayout::new(operands, right_rows, right_columns, right_stride)?;
        let out = MatrixLayout::new(result, rows, columns, out_stride)?;
        let preference = Preference::new(gpu.workspace()?.1, key.alignment)?;
        // SAFETY: all descriptors are alive.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(
                gpu.lt(),
                description.0,
                right.0,
                left.0,
                out.0,
                out.0,
                preference.0,
            )
        };
        let algorithm = found.map_err(failure)?.algo;
        Ok(Self { description, left, right, out, algorithm })
    }
}

/// Owned description of a product.
struct Description(lt_sys::cublasLtMatmulDesc_t);

impl Description {
    fn set<T: Copy>(&self, attribute: lt_sys::cublasLtMatmulDescAttributes_t, value: T) -> Result<()> {
        // SAFETY: cuBLASLt copies the value, whose type is the one documented for the attribute.
        unsafe { lt::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(failure)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `Plan::new`, dropped once. A failure would only leak it.
        let _ = unsafe { lt::destroy_matmul_desc(self.0) };
    }
}

/// Owned layout of a matrix.
struct MatrixLayout(lt_sys::cublasLtMatrixLayout_t);

impl MatrixLayout {
    /// Of a row-major matrix, which cuBLASLt sees as its column-major transpose.
    fn new(dtype: DType, rows: usize, columns: usize, row_stride: usize) -> Result<Self> {
        let kind = match dtype {
            DType::F32 => lt_sys::cudaDataType::CUDA_R_32F,
            DType::BF16 => lt_sys::cudaDataType::CUDA_R_16BF,
            _ => return Err(Error::UnsupportedDtype { operation: "product", dtype }),
        };
        let layout = lt::create_matrix_layout(kind, columns as u64, rows as u64, row_stride as i64);
        Ok(Self(layout.map_err(failure)?))
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: as for `Description`.
        let _ = unsafe { lt::destroy_matrix_layout(self.0) };
    }
}

/// Owned wishes for the search of an algorithm.
struct Preference(lt_sys::cublasLtMatmulPreference_t);

/// Of the ways to add up a product that is split, only that in the type of the computation
/// (`CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`): others add in BF16.
const SUMS_IN_F32: u32 = 2;

impl Preference {
    /// Algorithms that need at most `workspace` bytes, and no better alignment of any matrix than `alignment` bytes.
    fn new(workspace: usize, alignment: u32) -> Result<Self> {
        use lt_sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(lt::create_matmul_pref().map_err(failure)?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, SUMS_IN_F32)?;
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(attribute, alignment)?;
        }
        Ok(preference)
    }

    fn set<T: Copy>(&self, attribute: lt_sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Result<()> {
        // SAFETY: as for `Description::set`.
        unsafe { lt::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
            .map_err(failure)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: as for `Description`.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests;

//! Convolutions by cuDNN, on maps whose channels lie side by side.
//!
//! The functions of cuDNN's legacy interface are used, which choose among compiled kernels and keep no state of their own
//! between calls. What is assumed of cuDNN 9, from its documentation, and what this module does where it does not hold:
//! - maps (N, H, W, C) and filters (O, height, width, C) in F32 and in BF16 with sums in F32 have deterministic algorithms
//!   for all three products. Where the library proposes none, [`plan`] says so and the caller packs patches instead;
//! - `CUDNN_FMA_MATH` keeps products of F32 exact, `CUDNN_DEFAULT_MATH` lets them be rounded to TF32;
//! - proposals are sorted by the expected time, and `memory` of a proposal is the workspace it needs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::rc::Rc;

use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result as dnn, sys};
use candle_core::{DType, Tensor};

use super::{Gpu, failure};
use crate::parameters::Compute;
use crate::{Error, Result};

/// Algorithms that need more scratch memory than this are not considered.
const MOST_WORKSPACE: usize = 256 << 20;
/// Proposals asked for: as many as there are algorithms of any kind.
const MOST_PROPOSALS: usize = 10;

/// The sizes of a convolution of maps (N, H, W, C) to (N, H', W', O).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConvolutionSizes {
    pub(crate) images: usize,
    /// Height, width and channels.
    pub(crate) input: [usize; 3],
    /// The same of the output.
    pub(crate) output: [usize; 3],
    /// Height and width.
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) groups: usize,
}

/// One of the three products of a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pass {
    /// Of input and filter.
    Forward,
    /// The input gradient, of filter and output gradient.
    Data,
    /// The filter gradient, of input and output gradient, added to what is there if so asked.
    Filter { adds: bool },
}

/// cuDNN for one stream, and what was prepared for the shapes that were asked for.
pub(super) struct Library {
    handle: sys::cudnnHandle_t,
    plans: RefCell<HashMap<Key, Option<Rc<Plan>>>>,
}

type Key = (ConvolutionSizes, DType, Compute);

impl Library {
    pub(super) fn new(stream: sys::cudaStream_t) -> Result<Self> {
        let handle = dnn::create_handle().map_err(failure)?;
        let library = Self { handle, plans: RefCell::default() };
        // SAFETY: the handle was just made, and the stream lives as long as the context that owns this.
        unsafe { dnn::set_stream(handle, stream) }.map_err(failure)?;
        Ok(library)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.plans.get_mut().clear();
        // SAFETY: made by `new`, used by nobody else.
        let _ = unsafe { dnn::destroy_handle(self.handle) };
    }
}

/// What cuDNN does for a shape: `None` if it has no deterministic algorithm for one of its products.
///
/// # Errors
/// Failures of cuDNN.
pub(crate) fn plan(
    gpu: &Gpu,
    sizes: ConvolutionSizes,
    dtype: DType,
    compute: Compute,
) -> Result<Option<Rc<Plan>>> {
    let library = gpu.dnn()?;
    let key = (sizes, dtype, compute);
    if let Some(plan) = library.plans.borrow().get(&key) {
        return Ok(plan.clone());
    }
    let plan = Plan::new(library.handle, sizes, dtype, compute)?.map(Rc::new);
    library.plans.borrow_mut().insert(key, plan.clone());
    Ok(plan)
}

/// Descriptors and algorithms for one shape.
pub(crate) struct Plan {
    input: TensorDescription,
    output: TensorDescription,
    filter: FilterDescription,
    forward: (ConvolutionDescription, Algorithm<sys::cudnnConvolutionFwdAlgo_t>),
    data: (ConvolutionDescription, Algorithm<sys::cudnnConvolutionBwdDataAlgo_t>),
    gradient: (ConvolutionDescription, Algorithm<sys::cudnnConvolutionBwdFilterAlgo_t>),
}

/// What cuDNN proposed.
#[derive(Clone, Copy)]
struct Algorithm<A> {
    kind: A,
    workspace: usize,
    math: sys::cudnnMathType_t,
}

impl Plan {
    fn new(
        handle: sys::cudnnHandle_t,
        sizes: ConvolutionSizes,
        dtype: DType,
        compute: Compute,
    ) -> Result<Option<Self>> {
        let kind = data_type(dtype)?;
        let math = math_type(dtype, compute);
        let [height, width, channels] = sizes.input;
        let [out_height, out_width, outputs] = sizes.output;
        let input = TensorDescription::new(kind, [sizes.images, channels, height, width])?;
        let output = TensorDescription::new(kind, [sizes.images, outputs, out_height, out_width])?;
        let filter_dims = [outputs, channels / sizes.groups, sizes.kernel[0], sizes.kernel[1]];
        let filter = FilterDescription::new(kind, filter_dims)?;
        let asked = ConvolutionDescription::new(&sizes, math)?;
        let found = (
            forward_algorithm(handle, &input, &filter, &asked, &output)?,
            data_algorithm(handle, &filter, &output, &asked, &input)?,
            filter_algorithm(handle, &input, &output, &asked, &filter)?,
        );
        let (Some(forward), Some(data), Some(gradient)) = found else { return Ok(None) };
        // The scratch memory of a proposal is that of its kind of arithmetic.
        let rounds = |proposed| proposed == sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH;
        if is_exact(math) && [forward.math, data.math, gradient.math].into_iter().any(rounds) {
            return Ok(None);
        }
        // A proposal holds for its own kind of arithmetic; exact products stay exact.
        let with =
            |proposed| ConvolutionDescription::new(&sizes, if is_exact(math) { math } else { proposed });
        Ok(Some(Self {
            forward: (with(forward.math)?, forward),
            data: (with(data.math)?, data),
            gradient: (with(gradient.math)?, gradient),
            input,
            output,
            filter,
        }))
    }

    /// Enqueues one of the products; `input`, `filter` and `output` are the tensors themselves or their gradients, the result
    /// of `pass` among them.
    ///
    /// # Errors
    /// Failures of cuDNN and of the driver.
    pub(crate) fn run(
        &self,
        gpu: &Gpu,
        pass: Pass,
        input: &Tensor,
        filter: &Tensor,
        output: &Tensor,
    ) -> Result<()> {
        let handle = gpu.dnn()?.handle;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let (one, zero) = ((&raw const one).cast::<c_void>(), (&raw const zero).cast::<c_void>());
        let (x, w, y) = (gpu.address(input)?, gpu.address(filter)?, gpu.address(output)?);
        let needed = match pass {
            Pass::Forward => self.forward.1.workspace,
            Pass::Data => self.data.1.workspace,
            Pass::Filter { .. } => self.gradient.1.workspace,
        };
        // Scratch memory of its own may be freed at once: that is ordered after the kernels that use it.
        let (shared, shared_bytes) = gpu.workspace()?;
        let own = if needed > shared_bytes { Some(gpu.empty(needed, DType::U8)?) } else { None };
        let scratch = own.as_ref().map_or(Ok(shared), |own| gpu.address(own))? as *mut c_void;
        // SAFETY: descriptors and handle are alive, the tensors have the shapes they describe (the caller made both of the
        // same sizes), the scratch memory is as large as the algorithm asked for, and the scalars outlive the calls.
        let done = unsafe {
            match pass {
                Pass::Forward => dnn::convolution_forward(
                    handle,
                    one,
                    self.input.0,
                    x as *const c_void,
                    self.filter.0,
                    w as *const c_void,
                    self.forward.0.0,
                    self.forward.1.kind,
                    scratch,
                    needed,
                    zero,
                    self.output.0,
                    y as *mut c_void,
                ),
                Pass::Data => dnn::convolution_backward_data(
                    handle,
                    one,
                    self.filter.0,
                    w as *const c_void,
                    self.output.0,
                    y as *const c_void,
                    self.data.0.0,
                    self.data.1.kind,
                    scratch,
                    needed,
                    zero,
                    self.input.0,
                    x as *mut c_void,
                ),
                Pass::Filter { adds } => dnn::convolution_backward_filter(
                    handle,
                    one,
                    self.input.0,
                    x as *const c_void,
                    self.output.0,
                    y as *const c_void,
                    self.gradient.0.0,
                    self.gradient.1.kind,
                    scratch,
                    needed,
                    if adds { one } else { zero },
                    self.filter.0,
                    w as *mut c_void,
                ),
            }
        };
        done.map_err(failure)
    }
}

fn data_type(dtype: DType) -> Result<sys::cudnnDataType_t> {
    match dtype {
        DType::F32 => Ok(sys::cudnnDataType_t::CUDNN_DATA_FLOAT),
        DType::BF16 => Ok(sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16),
        _ => Err(Error::UnsupportedDtype { operation: "Convolution", dtype }),
    }
}

fn math_type(dtype: DType, compute: Compute) -> sys::cudnnMathType_t {
    match (dtype, compute) {
        (DType::BF16, _) => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        (_, Compute::Tf32) => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        _ => sys::cudnnMathType_t::CUDNN_FMA_MATH,
    }
}

fn is_exact(math: sys::cudnnMathType_t) -> bool {
    math == sys::cudnnMathType_t::CUDNN_FMA_MATH
}

/// Whether a status says that a shape or a setting is not for cuDNN: its parameters (2000 and up) or its support (3000 and up,
/// with the reason in the last digits).
fn is_refusal(status: sys::cudnnStatus_t) -> bool {
    matches!(status as u32, 2000..=3999)
}

/// Takes the first proposal that can be used: without error, deterministic, with little enough scratch memory. A shape that
/// cuDNN does not support has none.
macro_rules! choose {
    ($kind:ty, $proposals:ident, $count:ident => $ask:expr) => {{
        // SAFETY: all fields of a proposal are numbers, enumerations that have a variant 0, or arrays of numbers.
        let mut $proposals: [$kind; MOST_PROPOSALS] = unsafe { std::mem::zeroed() };
        let mut $count: c_int = 0;
        // SAFETY: handle and descriptors are alive, and there is room for as many proposals as are asked for.
        match unsafe { $ask } {
            Ok(()) => {}
            Err(CudnnError(status)) if is_refusal(status) => return Ok(None),
            Err(error) => return Err(failure(error)),
        }
        let usable = $proposals.iter().take($count.max(0) as usize).find(|proposal| {
            proposal.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && proposal.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                && proposal.memory <= MOST_WORKSPACE
        });
        Ok(usable.map(|found| Algorithm { kind: found.algo, workspace: found.memory, math: found.mathType }))
    }};
}

fn forward_algorithm(
    handle: sys::cudnnHandle_t,
    x: &TensorDescription,
    filter: &FilterDescription,
    convolution: &ConvolutionDescription,
    y: &TensorDescription,
) -> Result<Option<Algorithm<sys::cudnnConvolutionFwdAlgo_t>>> {
    choose!(sys::cudnnConvolutionFwdAlgoPerf_t, proposals, count => dnn::get_convolution_forward_algorithm(
        handle, x.0, filter.0, convolution.0, y.0, MOST_PROPOSALS as c_int, &raw mut count, proposals.as_mut_ptr(),
    ))
}

fn data_algorithm(
    handle: sys::cudnnHandle_t,
    filter: &FilterDescription,
    dy: &TensorDescription,
    convolution: &ConvolutionDescription,
    dx: &TensorDescription,
) -> Result<Option<Algorithm<sys::cudnnConvolutionBwdDataAlgo_t>>> {
    choose!(sys::cudnnConvolutionBwdDataAlgoPerf_t, proposals, count => dnn::get_convolution_backward_data_algorithm(
        handle, filter.0, dy.0, convolution.0, dx.0, MOST_PROPOSALS as c_int, &raw mut count, proposals.as_mut_ptr(),
    ))
}

fn filter_algorithm(
    handle: sys::cudnnHandle_t,
    x: &TensorDescription,
    dy: &TensorDescription,
    convolution: &ConvolutionDescription,
    filter: &FilterDescription,
) -> Result<Option<Algorithm<sys::cudnnConvolutionBwdFilterAlgo_t>>> {
    choose!(sys::cudnnConvolutionBwdFilterAlgoPerf_t, proposals, count => dnn::get_convolution_backward_filter_algorithm(
        handle, x.0, dy.0, convolution.0, filter.0, MOST_PROPOSALS as c_int, &raw mut count, proposals.as_mut_ptr(),
    ))
}

/// Owned description of a map.
struct TensorDescription(sys::cudnnTensorDescriptor_t);

impl TensorDescription {
    /// Of images, channels, height and width, in channels-last order.
    fn new(kind: sys::cudnnDataType_t, dims: [usize; 4]) -> Result<Self> {
        let description = Self(dnn::create_tensor_descriptor().map_err(failure)?);
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let dims = dims.map(|size| size as c_int);
        // SAFETY: just made.
        unsafe { dnn::set_tensor4d_descriptor(description.0, format, kind, dims) }.map_err(failure)?;
        Ok(description)
    }
}

impl Drop for TensorDescription {
    fn drop(&mut self) {
        // SAFETY: made by `new`, dropped once. A failure would only leak it.
        let _ = unsafe { dnn::destroy_tensor_descriptor(self.0) };
    }
}

/// Owned description of filters (O, height, width, C / groups).
struct FilterDescription(sys::cudnnFilterDescriptor_t);

impl FilterDescription {
    /// Of outputs, channels, height and width.
    fn new(kind: sys::cudnnDataType_t, dims: [usize; 4]) -> Result<Self> {
        let description = Self(dnn::create_filter_descriptor().map_err(failure)?);
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let dims = dims.map(|size| size as c_int);
        // SAFETY: just made.
        unsafe { dnn::set_filter4d_descriptor(description.0, kind, format, dims) }.map_err(failure)?;
        Ok(description)
    }
}

impl Drop for FilterDescription {
    fn drop(&mut self) {
        // SAFETY: as for `TensorDescription`.
        let _ = unsafe { dnn::destroy_filter_descriptor(self.0) };
    }
}

/// Owned description of a convolution with sums in F32.
struct ConvolutionDescription(sys::cudnnConvolutionDescriptor_t);

impl ConvolutionDescription {
    fn new(sizes: &ConvolutionSizes, math: sys::cudnnMathType_t) -> Result<Self> {
        let description = Self(dnn::create_convolution_descriptor().map_err(failure)?);
        let (padding, stride) = (sizes.padding as c_int, sizes.stride as c_int);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: just made.
        unsafe {
            dnn::set_convolution2d_descriptor(
                description.0,
                padding,
                padding,
                stride,
                stride,
                1,
                1,
                mode,
                sums,
            )
            .and_then(|()| dnn::set_convolution_group_count(description.0, sizes.groups as c_int))
            .and_then(|()| dnn::set_convolution_math_type(description.0, math))
        }
        .map_err(failure)?;
        Ok(description)
    }
}

impl Drop for ConvolutionDescription {
    fn drop(&mut self) {
        // SAFETY: as for `TensorDescription`.
        let _ = unsafe { dnn::destroy_convolution_descriptor(self.0) };
    }
}

//! What one thread holds of one GPU: its stream, loaded kernels and handles of libraries.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublaslt::sys as lt;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdeviceptr, CUfunction, CUmemPool_attribute, CUmemoryPool, CUmodule, cuDeviceGetDefaultMemPool,
    cuMemPoolSetAttribute, cuMemPoolTrimTo,
};
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr, result};
use candle_core::cuda_backend::cudarc::{cublas, cublaslt};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, DeviceId};
use candle_core::{DType, Device, Shape, Storage, Tensor};

use super::dnn::Library;
use super::locked::Locked;
use super::product::Plans;
use super::{Argument, Grid};
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

thread_local! {
    /// The contexts of this thread. Streams are per thread, so handles that enqueue on them are too.
    static CONTEXTS: RefCell<HashMap<DeviceId, Rc<Context>>> = RefCell::new(HashMap::new());
}

/// Scratch memory of matrix products; what cuBLAS' documentation recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// No less memory is page-locked at once: a page.
const LEAST_LOCKED: usize = 4096;

/// Shared memory of a block that needs no permission.
const SHARED_WITHOUT_PERMISSION: u32 = 48 << 10;

/// A failure of the driver or of one of its libraries, as candle reports them.
pub(crate) fn failure(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Tensor(candle_core::Error::Cuda(Box::new(error)))
}

/// One GPU as this thread uses it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gpu {
    device: Device,
    context: Rc<Context>,
}

/// What [`Gpu`] shares. Fields are dropped in their order: the workspace outlives what uses it.
struct Context {
    stream: Arc<CudaStream>,
    modules: RefCell<HashMap<&'static str, CUmodule>>,
    /// Kernels by name, and the dynamic shared memory each may use.
    functions: RefCell<HashMap<String, (CUfunction, u32)>>,
    /// cuBLAS on our stream, with our workspace.
    blas: cublas::sys::cublasHandle_t,
    /// cuBLASLt, for products with an epilogue.
    lt: lt::cublasLtHandle_t,
    plans: RefCell<Plans>,
    /// cuDNN, loaded by the first convolution that needs it.
    dnn: OnceCell<Library>,
    /// Page-locked memory that no download uses now.
    locked: RefCell<Vec<Locked>>,
    workspace: Tensor,
}

/// Gives up what this thread holds of every GPU, once its work there is done.
pub(crate) fn leave_devices() {
    for context in CONTEXTS.take().into_values() {
        if context.stream.synchronize().is_err() {
            // On a GPU in an error state nothing can be freed, and candle's handles panic where that fails.
            std::mem::forget(context);
        }
    }
}

impl Gpu {
    /// The GPU that `tensor` lives on.
    ///
    /// # Errors
    /// [`Error::UnsupportedDevice`] for a tensor elsewhere; failures of the driver.
    pub(crate) fn of(tensor: &Tensor) -> Result<Self> {
        Self::new(tensor.device())
    }

    /// `device`, which must be a GPU.
    ///
    /// # Errors
    /// As [`Gpu::of`].
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let Device::Cuda(cuda) = device else {
            return Err(Error::UnsupportedDevice { operation: "CUDA", device: device.location() });
        };
        // Libraries make their handles in whatever context is bound.
        cuda.cuda_stream().context().bind_to_thread().map_err(failure)?;
        let known = CONTEXTS.with_borrow(|contexts| contexts.get(&cuda.id()).cloned());
        let context = if let Some(context) = known {
            context
        } else {
            let context = Rc::new(Context::new(device, cuda)?);
            CONTEXTS.with_borrow_mut(|contexts| contexts.insert(cuda.id(), context.clone()));
            context
        };
        Ok(Self { device: device.clone(), context })
    }

    /// The stream that all work is enqueued on.
    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.context.stream
    }

    /// cuBLAS, bound to the stream.
    pub(super) fn blas(&self) -> cublas::sys::cublasHandle_t {
        self.context.blas
    }

    /// cuBLASLt.
    pub(super) fn lt(&self) -> lt::cublasLtHandle_t {
        self.context.lt
    }

    /// cuDNN, bound to the stream.
    pub(super) fn dnn(&self) -> Result<&Library> {
        if let Some(library) = self.context.dnn.get() {
            return Ok(library);
        }
        let library = Library::new(self.context.stream.cu_stream().cast())?;
        Ok(self.context.dnn.get_or_init(|| library))
    }

    /// Products with an epilogue that were prepared before.
    pub(super) fn plans(&self) -> &RefCell<Plans> {
        &self.context.plans
    }

    /// Scratch memory and its size in bytes; whatever is enqueued may use it, one after the other.
    pub(crate) fn workspace(&self) -> Result<(CUdeviceptr, usize)> {
        Ok((self.address(&self.context.workspace)?, WORKSPACE_BYTES))
    }

    /// Page-locked memory of at least `bytes` bytes that the GPU is done with: the smallest that is spare, else new memory, a
    /// power of two so that it serves others after this.
    pub(super) fn take_locked(&self, bytes: usize) -> Result<Locked> {
        let mut spare = self.context.locked.borrow_mut();
        let fitting = |buffer: &Locked| buffer.bytes() >= bytes && buffer.is_free();
        let found = spare.iter().enumerate().filter(|(_, buffer)| fitting(buffer));
        match found.min_by_key(|(_, buffer)| buffer.bytes()).map(|(index, _)| index) {
            Some(index) => Ok(spare.swap_remove(index)),
            None => Locked::new(self.stream().context(), bytes.next_power_of_two().max(LEAST_LOCKED)),
        }
    }

    /// Takes page-locked memory back.
    pub(super) fn keep_locked(&self, buffer: Locked) {
        self.context.locked.borrow_mut().push(buffer);
    }

    /// Gives memory back to the system that was freed. Waits.
    pub(crate) fn release_memory(&self) -> Result<()> {
        self.stream().synchronize().map_err(failure)?;
        let Some(pool) = pool(self.stream())? else { return Ok(()) };
        // SAFETY: the pool is the device's own, and what is in use stays.
        unsafe { cuMemPoolTrimTo(pool, 0) }.result().map_err(failure)
    }

    /// A tensor whose elements are whatever the memory held: for outputs that are written completely.
    pub(crate) fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        // SAFETY: the memory is allocated; the caller enqueues a kernel that writes all of it before anything reads it.
        Ok(unsafe { Tensor::empty(shape, dtype, &self.device) }?)
    }

    /// A tensor of zeros.
    pub(crate) fn zeros(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let tensor = self.empty(shape, dtype)?;
        let bytes = tensor.elem_count() * dtype.size_in_bytes();
        let address = self.address(&tensor)?;
        // SAFETY: `address` begins an allocation of at least `bytes` bytes, which `tensor` keeps alive; frees are ordered
        // after it on the same stream.
        unsafe { result::memset_d8_async(address, 0, bytes, self.context.stream.cu_stream()) }
            .map_err(failure)?;
        Ok(tensor)
    }

    /// Numbers of the host, copied to the GPU through page-locked memory: however many they are, nothing waits.
    pub(crate) fn upload_locked<T: candle_core::WithDType>(&self, values: &[T]) -> Result<Tensor> {
        let tensor = self.empty(values.len(), T::DTYPE)?;
        let mut buffer = self.take_locked(size_of_val(values))?;
        buffer.send(values, &tensor, self)?;
        self.keep_locked(buffer);
        Ok(tensor)
    }

    /// Numbers of the host, copied to the GPU: some kilobytes, which the driver takes a copy of before the call returns.
    pub(crate) fn upload<T: candle_core::WithDType>(&self, values: &[T]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, values.len(), &self.device)?)
    }

    /// Where the elements of a contiguous tensor begin on the device.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor that is not contiguous, [`Error::UnsupportedDevice`] for one elsewhere,
    /// [`Error::UnsupportedDtype`] for types that no kernel uses.
    pub(crate) fn address(&self, tensor: &Tensor) -> Result<CUdeviceptr> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            let (got, expected) = (layout.stride().to_vec(), "contiguous strides".to_owned());
            return Err(Error::Shape { operation: "CUDA", got, expected });
        };
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::UnsupportedDevice { operation: "CUDA", device: tensor.device().location() });
        };
        let stream = &self.context.stream;
        let start_of_storage = match &storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(stream).0,
            CudaStorageSlice::F64(slice) => slice.device_ptr(stream).0,
            CudaStorageSlice::U32(slice) => slice.device_ptr(stream).0,
            CudaStorageSlice::I64(slice) => slice.device_ptr(stream).0,
            CudaStorageSlice::U8(slice) => slice.device_ptr(stream).0,
            _ => return Err(Error::UnsupportedDtype { operation: "CUDA", dtype: storage.dtype() }),
        };
        Ok(start_of_storage + (start * tensor.dtype().size_in_bytes()) as u64)
    }

    /// `tensor` as an argument of a kernel.
    pub(crate) fn at(&self, tensor: &Tensor) -> Result<Argument> {
        Ok(Argument::Pointer(self.address(tensor)?))
    }

    /// An optional tensor as an argument: a null pointer where there is none.
    pub(crate) fn at_or_none(&self, tensor: Option<&Tensor>) -> Result<Argument> {
        tensor.map_or(Ok(Argument::NONE), |tensor| self.at(tensor))
    }

    /// Enqueues the kernel `name` with the suffix of `dtype`: `add` is `add_f32` or `add_bf16`.
    ///
    /// # Errors
    /// As [`Gpu::launch`]; [`Error::UnsupportedDtype`] for other types.
    pub(crate) fn launch_typed(
        &self,
        name: &'static str,
        dtype: DType,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            _ => return Err(Error::UnsupportedDtype { operation: name, dtype }),
        };
        self.launch(&format!("{name}_{suffix}"), grid, arguments)
    }

    /// Enqueues the kernel `name` of `cuda/*.cu`. Its arguments must be those it declares, in order and kind; tensors must
    /// be alive now, and may be dropped afterwards (memory is freed in the order of the stream).
    ///
    /// # Errors
    /// Failures of the driver, with the name of the kernel.
    pub(crate) fn launch(&self, name: &str, grid: Grid, arguments: &[Argument]) -> Result<()> {
        let function = self.function(name, grid.shared)?;
        let mut values = arguments.to_vec();
        let mut addresses: Vec<_> = values.iter_mut().map(Argument::address).collect();
        let stream = self.context.stream.cu_stream();
        // SAFETY: the addresses point to `values`, which outlive the call; each kernel is started in one place, with the
        // arguments it declares.
        let launched = unsafe {
            result::launch_kernel(function, grid.blocks, grid.threads, grid.shared, stream, &mut addresses)
        };
        launched.map_err(|error| failure(Launch { kernel: name.to_owned(), grid, error }))
    }

    /// The kernel called `name`, allowed to use `shared` bytes of dynamic shared memory.
    fn function(&self, name: &str, shared: u32) -> Result<CUfunction> {
        let known = self.context.functions.borrow().get(name).copied();
        let (function, allowed) = match known {
            Some(entry) => entry,
            None => (self.context.find(name)?, SHARED_WITHOUT_PERMISSION),
        };
        let allowed = if shared > allowed { self.context.permit(function)? } else { allowed };
        self.context.functions.borrow_mut().insert(name.to_owned(), (function, allowed));
        Ok(function)
    }
}

impl Context {
    fn new(device: &Device, cuda: &CudaDevice) -> Result<Self> {
        // SAFETY: everything this crate enqueues goes to one stream per thread, and tensors stay on the thread that made
        // them, so candle needs no events to order uses of a tensor.
        unsafe { cuda.disable_event_tracking() };
        let stream = cuda.cuda_stream();
        keep_freed_memory(&stream)?;
        // SAFETY: as in `Gpu::empty`; nothing reads the workspace before something wrote it.
        let workspace = unsafe { Tensor::empty(WORKSPACE_BYTES, DType::U8, device) }?;
        let blas = cublas::result::create_handle().map_err(failure)?;
        // SAFETY: the handle was just made and the stream lives as long as the context.
        unsafe { cublas::result::set_stream(blas, stream.cu_stream().cast()) }.map_err(failure)?;
        lend_workspace(blas, &stream, &workspace)?;
        // Sums of BF16 products stay in F32 to their end, also where cuBLAS splits them.
        let mode = cublas::sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
        // SAFETY: the handle was just made.
        unsafe { cublas::sys::cublasSetMathMode(blas, mode) }.result().map_err(failure)?;
        let lt = cublaslt::result::create_handle().map_err(failure)?;
        Ok(Self {
            stream,
            modules: RefCell::default(),
            functions: RefCell::default(),
            blas,
            lt,
            plans: RefCell::default(),
            dnn: OnceCell::new(),
            locked: RefCell::default(),
            workspace,
        })
    }

    /// Looks for a kernel in all modules, which are loaded when they are first asked.
    fn find(&self, name: &str) -> Result<CUfunction> {
        let mut last = None;
        for (module_name, code) in MODULES {
            let module = self.module(module_name, code)?;
            let symbol = CString::new(name).expect("names of kernels hold no NUL");
            // SAFETY: the module was loaded and is never unloaded.
            match unsafe { result::module::get_function(module, symbol) } {
                Ok(function) => return Ok(function),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(failure(error)),
            None => Err(candle_core::Error::Msg("this build has no CUDA kernels".to_owned()).into()),
        }
    }

    fn module(&self, name: &'static str, code: &'static [u8]) -> Result<CUmodule> {
        if let Some(module) = self.modules.borrow().get(name) {
            return Ok(*module);
        }
        self.stream.context().bind_to_thread().map_err(failure)?;
        // SAFETY: the image is what nvcc wrote when this crate was built.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }.map_err(failure)?;
        self.modules.borrow_mut().insert(name, module);
        Ok(module)
    }

    /// Allows a kernel to use as much shared memory as the GPU has for one block.
    fn permit(&self, function: CUfunction) -> Result<u32> {
        use candle_core::cuda_backend::cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
        let most = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most = self.stream.context().attribute(most).map_err(failure)?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function belongs to a loaded module.
        unsafe { result::function::set_function_attribute(function, attribute, most) }.map_err(failure)?;
        Ok(most.cast_unsigned())
    }
}

/// Lets cuBLAS use our workspace instead of one of its own, after its stream was set (which would undo it).
fn lend_workspace(
    blas: cublas::sys::cublasHandle_t,
    stream: &Arc<CudaStream>,
    workspace: &Tensor,
) -> Result<()> {
    let (storage, _) = workspace.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::UnsupportedDevice { operation: "CUDA", device: workspace.device().location() });
    };
    let address = storage.as_cuda_slice::<u8>()?.device_ptr(stream).0;
    // SAFETY: the workspace lives as long as the handle, in the same context, and all its uses are on one stream.
    unsafe { cublas::sys::cublasSetWorkspace_v2(blas, address as *mut std::ffi::c_void, WORKSPACE_BYTES) }
        .result()
        .map_err(failure)
}

/// The pool that memory comes from, where there is one.
fn pool(stream: &CudaStream) -> Result<Option<CUmemoryPool>> {
    if !stream.context().has_async_alloc() {
        return Ok(None);
    }
    let mut pool = std::ptr::null_mut();
    // SAFETY: the call writes to a local of the type that the driver documents for it.
    unsafe { cuDeviceGetDefaultMemPool(&raw mut pool, stream.context().cu_device()) }
        .result()
        .map_err(failure)?;
    Ok(Some(pool))
}

/// Lets the driver keep memory that was freed, instead of giving it back to the system whenever somebody waits.
fn keep_freed_memory(stream: &CudaStream) -> Result<()> {
    let Some(pool) = pool(stream)? else { return Ok(()) };
    let mut threshold = u64::MAX;
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the call reads a local of the type that the driver documents for the attribute.
    unsafe { cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()) }.result().map_err(failure)
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the handles were made by `new` and are used by nobody else. Failures at the end of a thread, when the
        // driver may be gone already, change nothing.
        unsafe {
            let _ = cublas::result::destroy_handle(self.blas);
            let _ = cublaslt::result::destroy_handle(self.lt);
        }
    }
}

/// A kernel that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("kernel {kernel} with {grid:?}: {error}")]
struct Launch {
    kernel: String,
    grid: Grid,
    error: candle_core::cuda_backend::cudarc::driver::DriverError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_lie_where_words_may_lie() {
        assert!(!MODULES.is_empty());
        for (name, code) in MODULES {
            assert!(code.as_ptr().addr().is_multiple_of(16), "{name}");
        }
    }
}

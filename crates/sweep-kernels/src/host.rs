//! Reading candle tensors as slices and making tensors of buffers, without copies where the layout allows it.

use std::cell::RefCell;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, StorageRef, Tensor};

use crate::element::Element;
use crate::{Error, Result};

/// Runs `$body` with the type alias `$T` standing for the element type of `$tensor`, which must be on the CPU.
///
/// With `cuda => $cuda` after it, returns `$cuda` from the function around it where `$tensor` is on a GPU.
macro_rules! with_element {
    ($operation:expr, $tensor:expr, $T:ident => $body:expr, cuda => $cuda:expr) => {{
        #[cfg(feature = "cuda")]
        if $tensor.device().is_cuda() {
            return $cuda;
        }
        $crate::host::with_element!($operation, $tensor, $T => $body)
    }};
    ($operation:expr, $tensor:expr, $T:ident => $body:expr) => {
        match $crate::host::supported_dtype($operation, $tensor)? {
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// The dtype of a tensor that the layers can work on: F32 or F64 on the CPU.
pub(crate) fn supported_dtype(operation: &'static str, tensor: &Tensor) -> Result<DType> {
    if !matches!(tensor.device(), Device::Cpu) {
        return Err(Error::UnsupportedDevice { operation, device: tensor.device().location() });
    }
    match tensor.dtype() {
        dtype @ (DType::F32 | DType::F64) => Ok(dtype),
        dtype => Err(Error::UnsupportedDtype { operation, dtype }),
    }
}

/// A tensor with row-major elements of a known type, readable as a slice.
pub(crate) struct Host(Tensor);

impl Host {
    /// `tensor` itself if its elements lie in order, else an ordered copy.
    pub(crate) fn new(tensor: &Tensor) -> Result<Self> {
        Ok(Self(tensor.contiguous()?))
    }

    /// Locks the storage for reading.
    pub(crate) fn read<T: Element>(&self) -> Result<Elements<'_, T>> {
        let (storage, layout) = self.0.storage_and_layout();
        let start = layout.start_offset();
        let end = start + layout.shape().elem_count();
        if let Storage::Cpu(cpu) = &*storage {
            // The dtype is checked here once, so that `deref` cannot fail.
            T::cpu_storage_as_slice(cpu)?;
        } else {
            return Err(Error::UnsupportedDevice { operation: "read", device: self.0.device().location() });
        }
        Ok(Elements { storage, start, end, element: std::marker::PhantomData })
    }
}

/// The elements of a [`Host`] tensor.
pub(crate) struct Elements<'a, T> {
    storage: StorageRef<'a>,
    start: usize,
    end: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Deref for Elements<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(cpu) => &T::cpu_storage_as_slice(cpu)
                .expect("the dtype was checked when reading began")[self.start..self.end],
            _ => unreachable!("the device was checked when reading began"),
        }
    }
}

/// A tensor that takes over `buffer`.
pub(crate) fn tensor<T: Element>(buffer: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(buffer, shape.into(), &Device::Cpu)?)
}

/// Lets `change` overwrite the elements of a tensor where they are, for everyone who shares its storage.
pub(crate) fn overwrite<T: Element>(
    operation: &'static str,
    tensor: &Tensor,
    change: impl FnMut(&mut [T]),
) -> Result<()> {
    let change = RefCell::new(change);
    Ok(tensor.inplace_op1(&Overwrite { operation, change, element: std::marker::PhantomData })?)
}

struct Overwrite<F, T> {
    operation: &'static str,
    /// Called once; the cell is there because candle hands operations out by shared reference.
    change: RefCell<F>,
    element: std::marker::PhantomData<T>,
}

impl<T: Element, F: FnMut(&mut [T])> InplaceOp1 for Overwrite<F, T> {
    fn name(&self) -> &'static str {
        self.operation
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{}: the tensor is not contiguous", self.operation)
        };
        let Some(buffer) = T::buffer(storage) else {
            candle_core::bail!("{}: the tensor has another dtype than expected", self.operation)
        };
        (self.change.borrow_mut())(&mut buffer[start..end]);
        Ok(())
    }
}

//! What a kernel is started with.

/// An argument of a kernel, as `cuda/common.cuh` declares them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Argument {
    /// Address on the device; 0 for "none".
    Pointer(u64),
    /// `Size`, a 64-bit integer.
    Size(i64),
    /// `float`.
    Scalar(f32),
    /// `double`.
    Double(f64),
}

impl Argument {
    /// A pointer that points nowhere, for an optional tensor that is not there.
    pub(crate) const NONE: Self = Self::Pointer(0);

    /// Where the value lies, for the driver.
    pub(super) fn address(&mut self) -> *mut std::ffi::c_void {
        match self {
            Self::Pointer(value) => std::ptr::from_mut(value).cast(),
            Self::Size(value) => std::ptr::from_mut(value).cast(),
            Self::Scalar(value) => std::ptr::from_mut(value).cast(),
            Self::Double(value) => std::ptr::from_mut(value).cast(),
        }
    }
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::Size(value as i64)
    }
}

impl From<u64> for Argument {
    /// The bits of the value, which a kernel may read as unsigned again.
    fn from(value: u64) -> Self {
        Self::Size(value.cast_signed())
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Scalar(value)
    }
}

impl From<f64> for Argument {
    /// Rounded once to what kernels compute in.
    fn from(value: f64) -> Self {
        Self::Scalar(value as f32)
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Blocks.
    pub(crate) blocks: (u32, u32, u32),
    /// Threads of a block, at most 1024 together.
    pub(crate) threads: (u32, u32, u32),
    /// Dynamic shared memory of a block in bytes.
    pub(crate) shared: u32,
}

/// Threads per block where nothing else is said; `THREADS` of `cuda/common.cuh`.
const THREADS: u32 = 256;
/// More blocks than this bring nothing: a thread then handles several elements.
const MOST_BLOCKS: usize = 132 * 16;

impl Grid {
    /// One thread for each of `count` elements or packs of elements, in a loop over the grid.
    pub(crate) fn over(count: usize) -> Self {
        let blocks = count.div_ceil(THREADS as usize).clamp(1, MOST_BLOCKS);
        Self::blocks(blocks as u32, THREADS)
    }

    /// `blocks` blocks of `threads` threads.
    pub(crate) fn blocks(blocks: u32, threads: u32) -> Self {
        Self { blocks: (blocks, 1, 1), threads: (threads, 1, 1), shared: 0 }
    }

    /// The same with `bytes` of dynamic shared memory for each block.
    pub(crate) fn with_shared(self, bytes: usize) -> Self {
        Self { shared: bytes as u32, ..self }
    }
}

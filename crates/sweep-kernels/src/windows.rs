//! Cutting maps (N, H, W, C) into square windows for attention, and putting them together again.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use candle_core::Tensor;

use crate::gather::Gather;
use crate::host::with_element;
use crate::{Error, Gradients, Layer, Mode, Parameters, Result, Tape};

/// How a map is cut into windows (Liu et al. 2021, "Swin Transformer"; the details follow timm's
/// `SwinTransformerBlock`).
///
/// The map is first rolled up and to the left by `shift`, pixels that leave on one side coming back on the other, and
/// then padded with zeros at the bottom and at the right up to whole windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    height: usize,
    width: usize,
    window: usize,
    shift: usize,
}

impl Windows {
    /// Windows of `window` × `window` pixels on maps of `height` × `width`, after a cyclic shift by `shift` pixels.
    ///
    /// timm shrinks windows to maps that are smaller and does not shift where one window covers the map; that is left
    /// to the caller.
    ///
    /// # Errors
    /// [`Error::Setting`] if a size is 0 or `shift` is not below `window`.
    pub fn new(height: usize, width: usize, window: usize, shift: usize) -> Result<Self> {
        for (name, value) in [("height of a map", height), ("width of a map", width), ("window", window)] {
            if value == 0 {
                return Err(Error::Setting { name, value: 0.0, expected: "at least 1" });
            }
        }
        if shift >= window {
            let expected = "less than the side of the window";
            return Err(Error::Setting { name: "shift of windows", value: shift as f64, expected });
        }
        Ok(Self { height, width, window, shift })
    }

    /// Number of windows of one map, counted row by row.
    pub fn count(&self) -> usize {
        self.rows() * self.columns()
    }

    /// Number of tokens of one window: its pixels row by row.
    pub fn tokens(&self) -> usize {
        self.window * self.window
    }

    /// Side of a window.
    pub(crate) fn side(&self) -> usize {
        self.window
    }

    pub(crate) fn shift(&self) -> usize {
        self.shift
    }

    /// Windows of one column of them.
    pub(crate) fn rows(&self) -> usize {
        self.height.div_ceil(self.window)
    }

    /// Windows of one row of them.
    pub(crate) fn columns(&self) -> usize {
        self.width.div_ceil(self.window)
    }

    /// Whether a window (counted over all maps) is in the last row, and in the last column, of its map.
    pub(crate) fn is_last(&self, window: usize) -> (bool, bool) {
        let window = window % self.count();
        (window / self.columns() + 1 == self.rows(), window % self.columns() + 1 == self.columns())
    }

    /// The pixel that a token (counted over the windows of a map) holds; `None` in the padding.
    fn pixel(&self, token: usize) -> Option<usize> {
        let (window, token) = (token / self.tokens(), token % self.tokens());
        let y = window / self.columns() * self.window + token / self.window;
        let x = window % self.columns() * self.window + token % self.window;
        let rolled = |at: usize, size: usize| (at + self.shift) % size;
        let inside = y < self.height && x < self.width;
        inside.then(|| rolled(y, self.height) * self.width + rolled(x, self.width))
    }

    fn partition(&self) -> Gather {
        let tokens = self.count() * self.tokens();
        Gather::new((0..tokens).map(|token| self.pixel(token)).collect(), self.height * self.width)
    }

    fn merge(&self) -> Gather {
        let tokens = self.count() * self.tokens();
        let mut places = vec![None; self.height * self.width];
        for token in 0..tokens {
            if let Some(pixel) = self.pixel(token) {
                places[pixel] = Some(token);
            }
        }
        Gather::new(places.into(), tokens)
    }
}

/// The two ways between maps and windows. Each is the backward pass of the other: what one copies, the other copies
/// back; the padding gets zeros one way and is dropped the other.
#[derive(Clone, Debug)]
struct Paths {
    windows: Windows,
    partition: Gather,
    merge: Gather,
}

impl Paths {
    fn new(windows: Windows) -> Self {
        Self { windows, partition: windows.partition(), merge: windows.merge() }
    }

    fn to_windows(&self, x: &Tensor) -> Result<Tensor> {
        let Windows { height, width, .. } = self.windows;
        match *x.dims() {
            [images, rows, columns, channels] if (rows, columns) == (height, width) && channels > 0 => {
                let shape = (images * self.windows.count(), self.windows.tokens(), channels);
                with_element!(
                    "WindowPartition", x, T => self.partition.apply::<T>(x, channels, shape),
                    cuda => cuda::partition(self.windows, x, channels, shape)
                )
            }
            ref dims => {
                let expected = format!("(N, {height}, {width}, C)");
                Err(Error::Shape { operation: "WindowPartition", got: dims.to_vec(), expected })
            }
        }
    }

    fn to_map(&self, x: &Tensor) -> Result<Tensor> {
        let (count, tokens) = (self.windows.count(), self.windows.tokens());
        match *x.dims() {
            [windows, length, channels]
                if length == tokens && windows.is_multiple_of(count) && channels > 0 =>
            {
                let shape = (windows / count, self.windows.height, self.windows.width, channels);
                with_element!(
                    "WindowMerge", x, T => self.merge.apply::<T>(x, channels, shape),
                    cuda => cuda::merge(self.windows, x, channels, shape)
                )
            }
            ref dims => {
                let expected = format!("(N · {count}, {tokens}, C)");
                Err(Error::Shape { operation: "WindowMerge", got: dims.to_vec(), expected })
            }
        }
    }
}

/// Cuts maps into windows: (N, H, W, C) → (N · windows, window², C), the windows of an image one after the other.
#[derive(Clone, Debug)]
pub struct WindowPartition(Paths);

impl WindowPartition {
    /// Cuts maps as `windows` says.
    pub fn new(windows: Windows) -> Self {
        Self(Paths::new(windows))
    }
}

impl Layer for WindowPartition {
    fn forward(&self, _: &Parameters, x: Tensor, _: &mut Tape, _: Mode) -> Result<Tensor> {
        self.0.to_windows(&x)
    }

    fn backward(&self, _: &Parameters, dy: Tensor, _: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        self.0.to_map(&dy)
    }
}

/// Puts windows together again: (N · windows, window², C) → (N, H, W, C). Drops the padding and undoes the shift.
#[derive(Clone, Debug)]
pub struct WindowMerge(Paths);

impl WindowMerge {
    /// The inverse of the partition by `windows`.
    pub fn new(windows: Windows) -> Self {
        Self(Paths::new(windows))
    }
}

impl Layer for WindowMerge {
    fn forward(&self, _: &Parameters, x: Tensor, _: &mut Tape, _: Mode) -> Result<Tensor> {
        self.0.to_map(&x)
    }

    fn backward(&self, _: &Parameters, dy: Tensor, _: &mut Tape, _: &mut Gradients) -> Result<Tensor> {
        self.0.to_windows(&dy)
    }
}

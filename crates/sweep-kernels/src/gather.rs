//! Copying whole rows of channels from one place of a map to another: one pass over memory for any rearrangement.

use std::sync::Arc;

use candle_core::{Shape, Tensor};

use crate::Result;
use crate::element::Element;
use crate::host::{Host, tensor};
use crate::native::{build, rows_per_task};

/// Which row of the input each row of the output is a copy of, the same for every image.
///
/// A row is what one place of a map holds: all its channels.
#[derive(Clone, Debug)]
pub(crate) struct Gather {
    /// One entry per output row; `None` stands for a row of zeros.
    sources: Arc<[Option<usize>]>,
    /// Rows of one image of the input.
    inputs: usize,
}

impl Gather {
    /// `sources` names rows below `inputs`.
    pub(crate) fn new(sources: Arc<[Option<usize>]>, inputs: usize) -> Self {
        assert!(sources.iter().flatten().all(|source| *source < inputs), "a source row outside its image");
        Self { sources, inputs }
    }

    /// The rearranged rows of `x`, which holds whole images of rows of `width` elements, as a tensor of `shape`.
    pub(crate) fn apply<T: Element>(
        &self,
        x: &Tensor,
        width: usize,
        shape: impl Into<Shape>,
    ) -> Result<Tensor> {
        let host = Host::new(x)?;
        let input = host.read::<T>()?;
        let input = &*input;
        let outputs = self.sources.len();
        let images = input.len() / (self.inputs * width);
        let y = build(images * outputs * width, rows_per_task(width) * width, |at, out| {
            for (row, out) in (at / width..).zip(out.chunks_exact_mut(width)) {
                if let Some(source) = self.sources[row % outputs] {
                    let start = (row / outputs * self.inputs + source) * width;
                    out.copy_from_slice(&input[start..start + width]);
                }
            }
        });
        tensor(y, shape)
    }
}

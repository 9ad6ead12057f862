//! Weights that others have stored: file formats, names, and position embeddings of another size.

mod archive;
mod file;
mod names;
mod pickle;
mod pytorch;
mod resample;

use std::path::Path;

use candle_core::{DType, Tensor};

pub(crate) use self::names::to_timm;
pub(crate) use self::resample::{can_be_resampled, resample};
use crate::{Architecture, Error, Head, Model, Result};

impl Model {
    /// A network with the weights of a file: safetensors, or a PyTorch state dictionary (`.bin`, `.pt`, `.pth`), of
    /// which no code is executed. The content decides which, not the extension. A state dictionary may lie under the
    /// key `state_dict` or `model` of a larger one.
    ///
    /// Weights of any float type are converted to `dtype`. Names are those of timm, with these exceptions:
    /// - A prefix `module.` (PyTorch's data-parallel wrappers) is removed when all names have it.
    /// - open_clip: of a file with names under `visual.`, only those count; the text tower is skipped. A vision
    ///   transformer has open_clip's own names there (`visual.transformer.resblocks.N.attn.in_proj_weight`), other
    ///   towers timm's under `visual.trunk.`. The projection to the embedding (`visual.proj`, transposed, or
    ///   `visual.head.proj`) becomes the classifier, with a bias of zeros, as timm does.
    /// - The original Swin release: the step between two stages is stored with the earlier one, and the classifier is
    ///   called `head` instead of `head.fc`. The buffers `relative_position_index` and `attn_mask`, which follow from
    ///   the architecture, are ignored under any naming.
    /// - ConvNeXt: MLP weights stored as 1 × 1 convolutions become matrices.
    /// - Batch norm: a missing `num_batches_tracked` is 0.
    ///
    /// With [`Head::Fresh`] whatever the file holds for the classifier is ignored, under any name and of any shape.
    ///
    /// Position embeddings of vision transformers and relative position tables of Swin transformers are resampled where
    /// they were made for another image or window size, by timm's methods (`resample_abs_pos_embed` with bicubic
    /// interpolation and antialiasing, `resize_rel_pos_bias_table`); both must stand for square grids.
    ///
    /// A file takes no more memory than it has bytes, four times over, whatever it says of itself.
    ///
    /// # Errors
    /// Those of [`Model::from_tensors`]; [`Error::File`] or [`Error::Weights`] where the file cannot be read, and where a
    /// weight is no finite number in `dtype`.
    pub fn load(architecture: Architecture, dtype: DType, weights: &Path, head: Head<'_>) -> Result<Self> {
        let model = Self::from_tensors(architecture, dtype, file::read(weights)?, head)?;
        for (_, name, tensor) in model.parameters().iter() {
            if !is_finite(tensor)? {
                let problem = format!("`{name}` has values that are no finite numbers in {dtype:?}");
                return Err(Error::Weights { path: weights.to_owned(), problem });
            }
        }
        Ok(model)
    }
}

/// Whether all elements are finite. A sum of finite ones can only overflow where weights are no weights.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    Ok(!tensor.dtype().is_float() || tensor.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite())
}

/// Text out of a file, short enough for a message and without what would move a terminal's cursor.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut characters =
        text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character });
    let mut short: String = characters.by_ref().take(LONGEST).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

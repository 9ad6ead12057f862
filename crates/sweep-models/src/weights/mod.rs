//! Weights that others have stored: file formats, names, and position embeddings of another size.

mod file;
mod names;
mod resample;

use std::path::Path;

use candle_core::DType;

pub(crate) use self::names::to_timm;
pub(crate) use self::resample::{can_be_resampled, resample};
use crate::{Architecture, Head, Model, Result};

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
    /// # Errors
    /// Those of [`Model::from_tensors`], or why the file cannot be read.
    pub fn load(architecture: Architecture, dtype: DType, weights: &Path, head: Head<'_>) -> Result<Self> {
        Self::from_tensors(architecture, dtype, file::read(weights)?, head)
    }
}

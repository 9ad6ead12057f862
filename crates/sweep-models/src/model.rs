//! A backbone with its head and its parameters.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use sweep_kernels::{Chain, Classifier, Gradients, Layer, Linear, Mode, Parameters, Tape};

use crate::initialize::{Builder, Head, Uniforms, Values, is_head};
use crate::{Result, VitConfig};

/// The numbers of a network of any supported family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum Architecture {
    /// A vision transformer, CLIP image towers included.
    Vit(VitConfig),
}

impl Architecture {
    /// The same network with another number of classes.
    #[must_use]
    pub fn with_classes(self, num_classes: usize) -> Self {
        match self {
            Self::Vit(config) => Self::Vit(VitConfig { num_classes, ..config }),
        }
    }

    /// Number of logits.
    pub fn num_classes(&self) -> usize {
        match self {
            Self::Vit(config) => config.num_classes,
        }
    }

    /// Number of features that the head gets.
    pub fn num_features(&self) -> usize {
        match self {
            Self::Vit(config) => config.embed_dim,
        }
    }

    /// Height and width of the input in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Vit(config) => config.image_size,
        }
    }

    fn compose(&self, builder: &mut Builder<'_>) -> Result<(Chain, Linear)> {
        match self {
            Self::Vit(config) => config.compose(builder),
        }
    }
}

/// A network that classifies images (N, 3, H, W) with pixels in [0, 1]; normalisation is its first layer.
pub struct Model {
    architecture: Architecture,
    parameters: Parameters,
    trunk: Chain,
    head: Linear,
}

/// What a forward pass returns.
#[derive(Clone, Debug)]
pub struct Output {
    /// Input of the head (N, features).
    pub features: Tensor,
    /// Logits (N, classes).
    pub logits: Tensor,
}

impl Model {
    /// A network with freshly drawn parameters: the backbone as timm initialises it, the head as in A.4 of the paper.
    ///
    /// `dtype` is F32, or F64 for checking. Parameters are drawn in timm's order, so the same uniforms give the same
    /// network.
    pub fn new(architecture: Architecture, dtype: DType, uniforms: Uniforms<'_>) -> Result<Self> {
        Self::build(architecture, dtype, Values::Random(uniforms))
    }

    /// A network with the tensors of a checkpoint under timm's names, converted to `dtype`.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) with every missing, unexpected and mis-shaped tensor.
    pub fn from_tensors(
        architecture: Architecture,
        dtype: DType,
        tensors: HashMap<String, Tensor>,
        head: Head<'_>,
    ) -> Result<Self> {
        Self::build(
            architecture,
            dtype,
            Values::Checkpoint { tensors, head, mismatch: crate::Mismatch::default() },
        )
    }

    fn build(architecture: Architecture, dtype: DType, values: Values<'_>) -> Result<Self> {
        let mut builder = Builder::new(dtype, values);
        let (trunk, head) = architecture.compose(&mut builder)?;
        Ok(Self { architecture, parameters: builder.finish()?, trunk, head })
    }

    /// The numbers the network was built from.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The parameters under timm's names, in timm's order.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters, for an optimizer.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Whether the parameter called `name` belongs to the head, not to the backbone.
    pub fn is_head(&self, name: &str) -> bool {
        is_head(name)
    }

    /// Features and logits of `images` (N, 3, H, W) with pixels in [0, 1], in the dtype of the parameters.
    pub fn forward(&self, images: &Tensor, tape: &mut Tape, mode: Mode) -> sweep_kernels::Result<Output> {
        let features = self.trunk.forward(&self.parameters, images.clone(), tape, mode)?;
        let logits = self.head.forward(&self.parameters, features.clone(), tape, mode)?;
        Ok(Output { features, logits })
    }

    /// The gradient with respect to the images of the scalar whose gradient with respect to the logits is
    /// `logits_gradient`; adds the parameter gradients that `gradients` wants.
    pub fn backward(
        &self,
        logits_gradient: Tensor,
        mut tape: Tape,
        gradients: &mut Gradients,
    ) -> sweep_kernels::Result<Tensor> {
        let features = self.head.backward(&self.parameters, logits_gradient, &mut tape, gradients)?;
        let images = self.trunk.backward(&self.parameters, features, &mut tape, gradients)?;
        tape.finish()?;
        Ok(images)
    }
}

impl Classifier for Model {
    fn logits(&self, images: &Tensor) -> sweep_kernels::Result<Tensor> {
        Ok(self.forward(images, &mut Tape::off(), Mode::Evaluation)?.logits)
    }

    fn record(&self, images: &Tensor) -> sweep_kernels::Result<(Tensor, Tape)> {
        let mut tape = Tape::recording();
        let output = self.forward(images, &mut tape, Mode::Evaluation)?;
        Ok((output.logits, tape))
    }

    fn input_gradient(&self, tape: Tape, logits_gradient: Tensor) -> sweep_kernels::Result<Tensor> {
        self.backward(logits_gradient, tape, &mut Gradients::none())
    }
}

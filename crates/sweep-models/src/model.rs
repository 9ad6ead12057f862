//! A backbone with its head and its parameters.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sweep_kernels::{
    BatchStatistics, Chain, Classifier, Compute, Gradients, Layer, Linear, Mode, Parameters, Tape,
    activations_to_full, full_to_activations,
};

use crate::initialize::{Builder, Head, Uniforms, Values, is_head};
use crate::{Architecture, Mismatch, Result, weights};

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

    /// A network with the tensors of a checkpoint, converted to `dtype`. Their names may be those of timm, of an
    /// open_clip image tower or of the original Swin release; [`Model::load`] tells the rules.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) with every missing, unexpected and mis-shaped tensor.
    pub fn from_tensors(
        architecture: Architecture,
        dtype: DType,
        tensors: HashMap<String, Tensor>,
        head: Head<'_>,
    ) -> Result<Self> {
        let tensors = weights::to_timm(&architecture, tensors, &head)?;
        let mismatch = Mismatch::default();
        Self::build(architecture, dtype, Values::Checkpoint { tensors, head, mismatch })
    }

    fn build(architecture: Architecture, dtype: DType, values: Values<'_>) -> Result<Self> {
        // Numbers that lie are refused before anything of their size has memory.
        architecture.compose(&mut Builder::new(dtype, Values::Counted))?;
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

    /// Moves the running statistics of the batch norms towards what a forward pass in training mode saw; take them
    /// from its tape with [`Tape::take_statistics`] before the backward pass consumes it. Without effect on networks
    /// without batch norm, which note nothing.
    pub fn update_statistics(&mut self, statistics: &[BatchStatistics]) -> Result<()> {
        Ok(self.parameters.update_statistics(statistics)?)
    }

    /// Whether the parameter called `name` belongs to the head, not to the backbone.
    pub fn is_head(&self, name: &str) -> bool {
        is_head(name)
    }

    /// The same network on `device`, whose layers compute in `compute`.
    ///
    /// # Errors
    /// Another `compute` than [`Compute::Full`] on the CPU; failures of the device, which may lack memory.
    pub fn to_device(&self, device: &Device, compute: Compute) -> Result<Self> {
        // Layers are positions of parameters and settings, which the architecture gives again.
        let (trunk, head) = self.architecture.compose(&mut Builder::new(DType::F32, Values::Counted))?;
        let parameters = self.parameters.to_device(device, compute)?;
        Ok(Self { architecture: self.architecture.clone(), parameters, trunk, head })
    }

    /// Features and logits of `images` (N, 3, H, W) with pixels in [0, 1], which are where the parameters are and have
    /// their dtype. So do features and logits, whatever the layers compute in.
    pub fn forward(&self, images: &Tensor, tape: &mut Tape, mode: Mode) -> sweep_kernels::Result<Output> {
        let features = self.trunk.forward(&self.parameters, images.clone(), tape, mode)?;
        let logits = self.head.forward(&self.parameters, features.clone(), tape, mode)?;
        Ok(Output { features: activations_to_full(features)?, logits: activations_to_full(logits)? })
    }

    /// The gradient with respect to the images of the scalar whose gradient with respect to the logits is
    /// `logits_gradient`; adds the parameter gradients that `gradients` wants. All gradients have the dtype of the
    /// parameters.
    pub fn backward(
        &self,
        logits_gradient: Tensor,
        mut tape: Tape,
        gradients: &mut Gradients,
    ) -> sweep_kernels::Result<Tensor> {
        let logits_gradient = full_to_activations(logits_gradient, &self.parameters)?;
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

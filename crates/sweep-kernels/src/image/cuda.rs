//! Normalisation and patch embedding on a GPU.

use candle_core::{DType, Tensor};

use super::{Grid as Patches, Normalize, PatchEmbedding};
use crate::cuda::{Argument, Gpu, Grid, Matrix, Product, column_sums};
use crate::linear::affine;
use crate::{Error, Gradients, Parameters, Result, Tape};

/// Channels of one launch of the normalisation; `CHANNELS` of `cuda/images.cu`.
const CHANNELS: usize = 4;
/// Elements that one of its threads handles at once.
const FOUR: usize = 4;
/// Most blocks in y.
const MOST_BLOCKS_Y: usize = 65_535;

/// Blocks in x over `count` elements or packs, in y over `slices` planes or images.
fn grid(count: usize, slices: usize) -> Grid {
    let flat = Grid::over(count);
    Grid { blocks: (flat.blocks.0, slices.min(MOST_BLOCKS_Y) as u32, 1), ..flat }
}

impl Normalize {
    /// F32 pixels to activations.
    pub(super) fn forward_cuda(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        if x.dtype() != DType::F32 {
            return Err(Error::UnsupportedDtype { operation: "Normalize", dtype: x.dtype() });
        }
        let dtype = parameters.compute().activations(DType::F32);
        self.map_planes("normalize", dtype, x, dtype)
    }

    /// The gradient of activations to that of pixels, in F32.
    pub(super) fn backward_cuda(&self, dy: &Tensor) -> Result<Tensor> {
        self.map_planes("normalize_backward", dy.dtype(), dy, DType::F32)
    }

    /// The kernel `name` for activations of dtype `of`, from `from` to a new tensor of dtype `to`.
    fn map_planes(&self, name: &'static str, of: DType, from: &Tensor, to: DType) -> Result<Tensor> {
        let (images, channels, plane) = self.sizes(from)?;
        let gpu = Gpu::of(from)?;
        let out = gpu.empty(from.shape(), to)?;
        let constants = self.mean.chunks(CHANNELS).zip(self.deviation.chunks(CHANNELS));
        for (index, (means, deviations)) in constants.enumerate() {
            let count = means.len();
            let mut arguments =
                vec![gpu.at(from)?, gpu.at(&out)?, images.into(), channels.into(), plane.into()];
            arguments.extend([Argument::from(index * CHANNELS), count.into()]);
            for values in [means, deviations] {
                // Those past the last channel are used by none.
                arguments.extend((0..CHANNELS).map(|at| Argument::from(*values.get(at).unwrap_or(&1.0))));
            }
            gpu.launch_typed(name, of, grid(plane.div_ceil(FOUR), images * count), &arguments)?;
        }
        Ok(out)
    }
}

impl PatchEmbedding {
    pub(super) fn forward_cuda(self, parameters: &Parameters, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let (gpu, dtype) = (Gpu::of(x)?, x.dtype());
        let sizes = self.grid(parameters, x)?;
        let (rows, row_len) = (sizes.images * sizes.patches(), sizes.row_len());
        let patches = gpu.empty((sizes.images, sizes.down, sizes.across, row_len), dtype)?;
        sizes.cut(&gpu, "cut_patches", x, &patches)?;
        let weight = parameters.converted(self.weight, dtype)?;
        let width = weight.dim(0)?;
        let y = gpu.empty(self.shape(sizes, width), dtype)?;
        let product = Product::new(
            Matrix::new(&patches, rows, row_len),
            Matrix::new(&weight, width, row_len).transposed(),
            parameters.compute(),
        );
        affine(&gpu, product, &y, [rows, width], parameters, self.bias)?;
        tape.push(patches);
        Ok(y)
    }

    pub(super) fn backward_cuda(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let patches = tape.pop()?;
        let (gpu, dtype, compute) = (Gpu::of(dy)?, dy.dtype(), parameters.compute());
        let weight = parameters.converted(self.weight, dtype)?;
        let (width, channels, patch, _) = weight.dims4()?;
        let (images, down, across, row_len) = patches.dims4()?;
        let rows = images * down * across;
        let dy_matrix = Matrix::new(dy, rows, width);
        if gradients.wants(self.weight) {
            let dw = gpu.empty(weight.shape(), DType::F32)?;
            let product = Product::new(dy_matrix.transposed(), Matrix::new(&patches, rows, row_len), compute);
            product.into(&gpu, Matrix::new(&dw, width, row_len))?;
            gradients.add(self.weight, dw)?;
        }
        if let Some(bias) = self.bias.filter(|id| gradients.wants(*id)) {
            gradients.add(bias, column_sums(dy, width)?)?;
        }
        let dpatches = gpu.empty(patches.shape(), dtype)?;
        let product = Product::new(dy_matrix, Matrix::new(&weight, width, row_len), compute);
        product.into(&gpu, Matrix::new(&dpatches, rows, row_len))?;
        let sizes = Patches { images, channels, down, across, patch };
        let dx = gpu.empty((images, channels, down * patch, across * patch), dtype)?;
        sizes.cut(&gpu, "join_patches", &dpatches, &dx)?;
        Ok(dx)
    }
}

impl Patches {
    /// Copies between images and rows of patches by the kernel `name`, in units of as many bytes as stay together.
    fn cut(self, gpu: &Gpu, name: &str, from: &Tensor, to: &Tensor) -> Result<()> {
        let line_bytes = self.patch * from.dtype().size_in_bytes();
        let unit = [16, 8, 4, 2].into_iter().find(|unit| line_bytes.is_multiple_of(*unit));
        let Some(unit) = unit else {
            return Err(Error::UnsupportedDtype { operation: "PatchEmbedding", dtype: from.dtype() });
        };
        let line = line_bytes / unit;
        let units = self.row_len() / self.patch * line * self.patches();
        if i32::try_from(units).is_err() {
            let expected = "images of less than 2^31 pixels".to_owned();
            return Err(Error::Shape { operation: "PatchEmbedding", got: from.dims().to_vec(), expected });
        }
        let mut arguments = vec![gpu.at(from)?, gpu.at(to)?];
        let sizes = [self.images, self.channels, self.down, self.across, self.patch, line];
        arguments.extend(sizes.map(Argument::from));
        gpu.launch(&format!("{name}_{unit}"), grid(units, self.images), &arguments)
    }
}

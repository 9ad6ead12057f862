//! Convolutions on the GPU: cuBLAS for pixels, cuBLAS or cuDNN for patches.
//!
//! A 1×1 kernel with stride 1 is a product of matrices as it stands, and so is its weight gradient, because channels lie
//! side by side. Patches that do not overlap (ConvNeXt's 2×2 with stride 2, ResNet's 1×1 with stride 2) are packed into
//! rows by one pass over memory and multiplied by cuBLAS; so are maps whose channels are no multiple of 8 (images), which
//! tensor cores cannot read as they lie. Everything else is cuDNN's. Which of both is faster where has not been measured;
//! either can do all of it.

use std::rc::Rc;

use candle_core::{DType, Tensor};

use super::{Convolution, Geometry};
use crate::cuda::{
    Argument, ChannelGrid, ConvolutionSizes, Gpu, Grid, Matrix, Pass, Plan, Product, column_sums, plan,
};
use crate::parameters::Compute;
use crate::{Gradients, Parameters, Result, Tape};

/// Rows of patches and of filters begin on 16-byte boundaries in both dtypes.
const ALIGNMENT: usize = 8;
/// Bytes of patches that are packed at once.
const MOST_PACKED: usize = 512 << 20;
/// Elements that cuDNN's indices reach.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// How a convolution is done.
enum Route {
    Pixels,
    Packed,
    Library(Rc<Plan>),
}

/// One convolution on one GPU.
struct Job<'a> {
    layer: Convolution,
    geometry: Geometry,
    gpu: &'a Gpu,
    parameters: &'a Parameters,
    dtype: DType,
}

impl Convolution {
    pub(super) fn forward_cuda(self, parameters: &Parameters, x: Tensor, tape: &mut Tape) -> Result<Tensor> {
        let geometry = self.geometry(parameters.get(self.weight), x.dims())?;
        let gpu = Gpu::of(&x)?;
        let job = Job { layer: self, geometry, gpu: &gpu, parameters, dtype: x.dtype() };
        let Geometry { images, out_height, out_width, outputs, .. } = geometry;
        let y = gpu.empty((images, out_height, out_width, outputs), x.dtype())?;
        match job.route()? {
            Route::Pixels => job.pixels(&x, &y)?,
            Route::Packed => job.packed(&x, &y)?,
            Route::Library(plan) => {
                let filter = job.filter(geometry.patch_len())?;
                job.in_parts(&plan, Pass::Forward, &x, &filter, &y)?;
                job.add_bias(&y)?;
            }
        }
        tape.push(x);
        Ok(y)
    }

    pub(super) fn backward_cuda(
        self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let x = tape.pop()?;
        let geometry = self.geometry(parameters.get(self.weight), x.dims())?;
        let gpu = Gpu::of(&x)?;
        let job = Job { layer: self, geometry, gpu: &gpu, parameters, dtype: x.dtype() };
        let route = job.route()?;
        if gradients.wants(self.weight) {
            let dw = match &route {
                Route::Pixels => job.pixels_weight_gradient(&x, dy)?,
                Route::Packed => job.packed_weight_gradient(&x, dy)?,
                Route::Library(plan) => job.library_weight_gradient(plan, &x, dy)?,
            };
            gradients.add(self.weight, dw)?;
        }
        if let Some(id) = self.bias.filter(|id| gradients.wants(*id)) {
            gradients.add(id, column_sums(dy, geometry.outputs)?)?;
        }
        let dx = gpu.empty(x.shape(), x.dtype())?;
        match route {
            Route::Pixels => job.pixels_input_gradient(dy, &dx)?,
            Route::Packed => job.packed_input_gradient(dy, &dx)?,
            Route::Library(plan) => {
                let filter = job.filter(geometry.patch_len())?;
                job.in_parts(&plan, Pass::Data, &dx, &filter, dy)?;
            }
        }
        Ok(dx)
    }

    /// As [`Convolution::is_by_cudnn`], of parameters on a GPU.
    pub(super) fn is_by_cudnn_on_gpu(self, parameters: &Parameters, shape: &[usize]) -> Result<bool> {
        let weight = parameters.get(self.weight);
        let geometry = self.geometry(weight, shape)?;
        let (gpu, dtype) = (Gpu::new(weight.device())?, parameters.compute().activations(DType::F32));
        let job = Job { layer: self, geometry, gpu: &gpu, parameters, dtype };
        Ok(matches!(job.route()?, Route::Library(_)))
    }
}

impl Job<'_> {
    fn route(&self) -> Result<Route> {
        let Geometry { groups, kernel, stride, padding, .. } = self.geometry;
        if self.layer.is_pointwise(self.parameters.get(self.layer.weight)) {
            return Ok(Route::Pixels);
        }
        let is_alone = groups == 1 && padding == [0; 2] && kernel.iter().all(|side| *side <= stride);
        let suits_tensor_cores = |channels: usize| channels.is_multiple_of(ALIGNMENT);
        let Geometry { channels, outputs, .. } = self.geometry;
        if is_alone || !suits_tensor_cores(channels / groups) || !suits_tensor_cores(outputs / groups) {
            return Ok(Route::Packed);
        }
        let sizes = self.sizes(self.images_at_once());
        let plan = plan(self.gpu, sizes, self.dtype, self.compute())?;
        Ok(plan.map_or(Route::Packed, Route::Library))
    }

    fn compute(&self) -> Compute {
        self.parameters.compute()
    }

    /// What cuDNN needs to know.
    fn sizes(&self, images: usize) -> ConvolutionSizes {
        let g = self.geometry;
        ConvolutionSizes {
            images,
            input: [g.height, g.width, g.channels],
            output: [g.out_height, g.out_width, g.outputs],
            kernel: g.kernel,
            stride: g.stride,
            padding: g.padding[0],
            groups: g.groups,
        }
    }

    // By cuDNN.

    /// Images whose maps cuDNN can index.
    fn images_at_once(&self) -> usize {
        let g = self.geometry;
        let largest = (g.height * g.width * g.channels).max(g.out_height * g.out_width * g.outputs);
        (MOST_ELEMENTS / largest).min(g.images).max(1)
    }

    /// Runs a pass over as many images at a time as cuDNN can index; `plan` is for the first part.
    fn in_parts(&self, plan: &Plan, pass: Pass, x: &Tensor, filter: &Tensor, y: &Tensor) -> Result<()> {
        let (images, at_once) = (self.geometry.images, self.images_at_once());
        for first in (0..images).step_by(at_once) {
            let count = at_once.min(images - first);
            let (x, y) = (x.narrow(0, first, count)?, y.narrow(0, first, count)?);
            let pass =
                if matches!(pass, Pass::Filter { .. }) { Pass::Filter { adds: first > 0 } } else { pass };
            if count == at_once {
                plan.run(self.gpu, pass, &x, filter, &y)?;
            } else {
                let rest = crate::cuda::plan(self.gpu, self.sizes(count), self.dtype, self.compute())?;
                let rest = rest.ok_or_else(|| refused(count))?;
                rest.run(self.gpu, pass, &x, filter, &y)?;
            }
        }
        Ok(())
    }

    /// The gradient in the dtype of activations, as cuDNN gives it, summed in F32 within a part of the batch.
    fn library_weight_gradient(&self, plan: &Plan, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let g = self.geometry;
        let dw = self.gpu.empty((g.outputs, g.patch_len()), self.dtype)?;
        self.in_parts(plan, Pass::Filter { adds: false }, x, &dw, dy)?;
        self.order_of_parameters(&dw, g.patch_len())
    }

    // Pixel by pixel.

    fn pixels(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let Geometry { channels, outputs, .. } = self.geometry;
        let weight = self.parameters.converted(self.layer.weight, self.dtype)?;
        let weight = Matrix::new(&weight, outputs, channels).transposed();
        let product = Product::new(Matrix::new(x, self.geometry.pixels(), channels), weight, self.compute());
        self.finish(product, Matrix::new(y, self.geometry.pixels(), outputs), y)
    }

    /// `out = product + bias`, where `out` is all of `y`.
    fn finish(&self, product: Product<'_>, out: Matrix<'_>, y: &Tensor) -> Result<()> {
        match self.layer.bias {
            Some(id) if product.takes_bias(self.gpu, &out)? => {
                product.into_with_bias(self.gpu, out, &self.parameters.converted(id, self.dtype)?)
            }
            _ => {
                product.into(self.gpu, out)?;
                self.add_bias(y)
            }
        }
    }

    fn pixels_weight_gradient(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let Geometry { channels, outputs, .. } = self.geometry;
        let pixels = self.geometry.pixels();
        let dw = self.gpu.empty(self.parameters.get(self.layer.weight).shape(), DType::F32)?;
        let dy = Matrix::new(dy, pixels, outputs).transposed();
        let product = Product::new(dy, Matrix::new(x, pixels, channels), self.compute());
        product.into(self.gpu, Matrix::new(&dw, outputs, channels))?;
        Ok(dw)
    }

    fn pixels_input_gradient(&self, dy: &Tensor, dx: &Tensor) -> Result<()> {
        let Geometry { channels, outputs, .. } = self.geometry;
        let pixels = self.geometry.pixels();
        let weight = self.parameters.converted(self.layer.weight, self.dtype)?;
        let dy = Matrix::new(dy, pixels, outputs);
        let product = Product::new(dy, Matrix::new(&weight, outputs, channels), self.compute());
        product.into(self.gpu, Matrix::new(dx, pixels, channels))
    }

    // By packed patches.

    /// Length of a row of patches.
    fn row(&self) -> usize {
        self.geometry.patch_len().next_multiple_of(ALIGNMENT)
    }

    /// Patches of one image in elements.
    fn packed_per_image(&self) -> usize {
        self.geometry.out_height * self.geometry.out_width * self.row()
    }

    /// Calls `each` with first image, number of images and group, for parts of the batch that are packed at once.
    fn each_part(&self, mut each: impl FnMut(usize, usize, usize) -> Result<()>) -> Result<()> {
        let images = self.geometry.images;
        let at_once = self.packed_at_once();
        for first in (0..images).step_by(at_once) {
            for group in 0..self.geometry.groups {
                each(first, at_once.min(images - first), group)?;
            }
        }
        Ok(())
    }

    fn packed_at_once(&self) -> usize {
        (MOST_PACKED / (self.packed_per_image() * size_of::<f32>())).min(self.geometry.images).max(1)
    }

    /// The part of a map, `per_image` rows of `columns` elements for each image, that belongs to some images and a group.
    fn part<'t>(&self, map: &'t Tensor, first: usize, images: usize, group: usize) -> Matrix<'t> {
        let g = self.geometry;
        let (per_image, columns) = (g.out_height * g.out_width, g.group_outputs());
        let start = first * per_image * g.outputs + group * columns;
        Matrix::new(map, images * per_image, columns).strided(start, g.outputs)
    }

    /// The filters of a group: one row for each of its outputs.
    fn filters_of<'t>(&self, filter: &'t Tensor, group: usize) -> Matrix<'t> {
        let (outputs, row) = (self.geometry.group_outputs(), self.row());
        Matrix::new(filter, outputs, row).strided(group * outputs * row, row)
    }

    fn packed(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let filter = self.filter(self.row())?;
        let is_whole = self.geometry.groups == 1 && self.packed_at_once() == self.geometry.images;
        self.each_part(|first, images, group| {
            let patches = self.unfold(x, first, images, group)?;
            let rows = Matrix::new(&patches, patches.dim(0)?, self.row());
            let filters = self.filters_of(&filter, group).transposed();
            let product = Product::new(rows, filters, self.compute());
            let out = self.part(y, first, images, group);
            if is_whole { self.finish(product, out, y) } else { product.into(self.gpu, out) }
        })?;
        if is_whole { Ok(()) } else { self.add_bias(y) }
    }

    fn packed_weight_gradient(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let dw = self.gpu.empty((self.geometry.outputs, self.row()), DType::F32)?;
        self.each_part(|first, images, group| {
            let patches = self.unfold(x, first, images, group)?;
            let rows = Matrix::new(&patches, patches.dim(0)?, self.row());
            let dy = self.part(dy, first, images, group).transposed();
            let product = Product::new(dy, rows, self.compute());
            let product = if first > 0 { product.adding() } else { product };
            product.into(self.gpu, self.filters_of(&dw, group))
        })?;
        self.order_of_parameters(&dw, self.row())
    }

    fn packed_input_gradient(&self, dy: &Tensor, dx: &Tensor) -> Result<()> {
        let filter = self.filter(self.row())?;
        let Geometry { kernel, stride, .. } = self.geometry;
        let overlap = kernel.iter().any(|side| *side > stride);
        let dtype = if overlap { DType::F32 } else { self.dtype };
        self.each_part(|first, images, group| {
            let pixels = images * self.geometry.out_height * self.geometry.out_width;
            let patches = self.gpu.empty((pixels, self.row()), dtype)?;
            let dy = self.part(dy, first, images, group);
            let product = Product::new(dy, self.filters_of(&filter, group), self.compute());
            product.into(self.gpu, Matrix::new(&patches, pixels, self.row()))?;
            self.fold(&patches, dx, first, images, group)
        })
    }

    fn unfold(&self, x: &Tensor, first: usize, images: usize, group: usize) -> Result<Tensor> {
        let pixels = images * self.geometry.out_height * self.geometry.out_width;
        let patches = self.gpu.empty((pixels, self.row()), self.dtype)?;
        let x = x.narrow(0, first, images)?;
        let mut arguments = vec![self.gpu.at(&x)?, self.gpu.at(&patches)?];
        arguments.extend(self.arguments(images, group));
        let walk = self.walk(&[&x])?;
        arguments.push(walk.packed());
        let packs = patches.elem_count() / (16 / self.dtype.size_in_bytes());
        self.gpu.launch_typed("unfold", self.dtype, Grid::over(packs), &arguments)?;
        Ok(patches)
    }

    fn fold(&self, patches: &Tensor, dx: &Tensor, first: usize, images: usize, group: usize) -> Result<()> {
        let dx = dx.narrow(0, first, images)?;
        let mut arguments = vec![self.gpu.at(patches)?, self.gpu.at(&dx)?];
        arguments.extend(self.arguments(images, group));
        let walk = self.walk(&[&dx])?;
        arguments.push(walk.packed());
        let Geometry { height, width, .. } = self.geometry;
        let packs = images * height * width * self.geometry.group_channels() / walk.count();
        if patches.dtype() == dx.dtype() {
            self.gpu.launch_typed("fold", self.dtype, Grid::over(packs), &arguments)
        } else {
            self.gpu.launch("fold_f32_bf16", Grid::over(packs), &arguments)
        }
    }

    /// Whether packs of channels of a group lie on 16-byte boundaries of these maps.
    fn walk(&self, maps: &[&Tensor]) -> Result<ChannelGrid> {
        ChannelGrid::new(self.gpu, maps, 1, self.geometry.group_channels())
    }

    /// The sizes that packing kernels take, in their order.
    fn arguments(&self, images: usize, group: usize) -> [Argument; 13] {
        let g = self.geometry;
        let channels = g.group_channels();
        [
            images,
            g.height,
            g.width,
            g.channels,
            g.out_height,
            g.out_width,
            g.kernel[0],
            g.kernel[1],
            g.stride,
            g.padding[0],
            group * channels,
            channels,
            self.row(),
        ]
        .map(Argument::from)
    }

    // Filters and bias.

    /// The weights as rows (kernel, C / groups) of `length`, one for each output, in the dtype of activations.
    fn filter(&self, length: usize) -> Result<Tensor> {
        self.parameters.rearranged(self.layer.weight, self.dtype, |weight| {
            let g = self.geometry;
            let filter = self.gpu.empty((g.outputs, length), self.dtype)?;
            let sizes = [g.outputs, g.group_channels(), g.taps(), length].map(Argument::from);
            let arguments = [&[self.gpu.at(weight)?, self.gpu.at(&filter)?], &sizes[..]].concat();
            self.gpu.launch_typed("taps_first", self.dtype, Grid::over(filter.elem_count()), &arguments)?;
            Ok(filter)
        })
    }

    /// The inverse for gradients, in F32.
    fn order_of_parameters(&self, rows: &Tensor, length: usize) -> Result<Tensor> {
        let g = self.geometry;
        let dw = self.gpu.empty(self.parameters.get(self.layer.weight).shape(), DType::F32)?;
        let sizes = [g.outputs, g.group_channels(), g.taps(), length].map(Argument::from);
        let arguments = [&[self.gpu.at(rows)?, self.gpu.at(&dw)?], &sizes[..]].concat();
        self.gpu.launch_typed("taps_last", rows.dtype(), Grid::over(dw.elem_count()), &arguments)?;
        Ok(dw)
    }

    fn add_bias(&self, y: &Tensor) -> Result<()> {
        let Some(id) = self.layer.bias else { return Ok(()) };
        let (rows, channels) = (self.geometry.pixels(), self.geometry.outputs);
        let walk = ChannelGrid::new(self.gpu, &[y], rows, channels)?;
        let (grid, per_block) = walk.cut(walk.blocks_of_rows(usize::MAX));
        let bias = self.gpu.at(self.parameters.get(id))?;
        let arguments =
            [self.gpu.at(y)?, bias, rows.into(), channels.into(), per_block.into(), walk.packed()];
        self.gpu.launch_typed("convolution_bias", self.dtype, grid, &arguments)
    }
}

/// cuDNN does many images of a shape but not `count`.
fn refused(count: usize) -> crate::Error {
    crate::Error::Shape {
        operation: "Convolution",
        got: vec![count],
        expected: "a number of images that cuDNN has a deterministic algorithm for".to_owned(),
    }
}

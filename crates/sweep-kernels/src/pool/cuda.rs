//! Pools on the GPU: `cuda/pool.cu`.

use candle_core::{DType, Tensor};

use super::{Maps, MaxPool, outline, places_of};
use crate::cuda::{Argument, ChannelGrid, Gpu, Grid};
use crate::{Result, Tape};

impl MaxPool {
    pub(super) fn forward_cuda(self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.check()?;
        let maps = self.maps(x.dims())?;
        let gpu = Gpu::of(x)?;
        let shape = (maps.images, maps.out_height, maps.out_width, maps.channels);
        let y = gpu.empty(shape, x.dtype())?;
        let places = if tape.is_recording() { Some(gpu.empty(shape, DType::U8)?) } else { None };
        let walk = ChannelGrid::new(&gpu, &[x, &y], 1, maps.channels)?;
        let mut arguments = vec![gpu.at(x)?, gpu.at(&y)?, gpu.at_or_none(places.as_ref())?];
        arguments.extend(self.sizes(maps));
        arguments.push(walk.packed());
        gpu.launch_typed("max_pool", x.dtype(), Grid::over(y.elem_count() / walk.count()), &arguments)?;
        if let Some(places) = places {
            tape.push(outline(x)?);
            tape.push(places);
        }
        Ok(y)
    }

    pub(super) fn backward_cuda(self, dy: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        let places = tape.pop()?;
        let saved = tape.pop()?;
        let maps = self.maps(saved.dims())?;
        let gpu = Gpu::of(dy)?;
        let dx = gpu.empty(saved.shape(), dy.dtype())?;
        let walk = ChannelGrid::new(&gpu, &[dy, &dx], 1, maps.channels)?;
        let mut arguments = vec![gpu.at(dy)?, gpu.at(&places)?, gpu.at(&dx)?];
        arguments.extend(self.sizes(maps));
        arguments.push(walk.packed());
        let grid = Grid::over(dx.elem_count() / walk.count());
        gpu.launch_typed("max_pool_backward", dy.dtype(), grid, &arguments)?;
        Ok(dx)
    }

    /// The sizes that both kernels take, in their order.
    fn sizes(self, maps: Maps) -> [Argument; 9] {
        let Maps { images, height, width, channels, out_height, out_width } = maps;
        [images, height, width, channels, out_height, out_width, self.kernel, self.stride, self.padding]
            .map(Argument::from)
    }
}

pub(super) fn mean_over_places(x: &Tensor) -> Result<Tensor> {
    let (images, places, channels) = places_of(x)?;
    let gpu = Gpu::of(x)?;
    let y = gpu.empty((images, channels), x.dtype())?;
    mean_kernel(&gpu, "mean_pool", [x, &y], [images, places, channels])?;
    Ok(y)
}

pub(super) fn spread_over_places(dy: &Tensor, saved: &Tensor) -> Result<Tensor> {
    let gpu = Gpu::of(dy)?;
    let dx = gpu.empty(saved.shape(), dy.dtype())?;
    let (images, places, channels) = places_of(saved)?;
    mean_kernel(&gpu, "mean_pool_backward", [dy, &dx], [images, places, channels])?;
    Ok(dx)
}

fn mean_kernel(
    gpu: &Gpu,
    name: &'static str,
    [from, to]: [&Tensor; 2],
    [images, places, channels]: [usize; 3],
) -> Result<()> {
    let walk = ChannelGrid::new(gpu, &[from, to], places, channels)?;
    let sizes = [images, places, channels].map(Argument::from);
    let arguments = [gpu.at(from)?, gpu.at(to)?, sizes[0], sizes[1], sizes[2], walk.packed()];
    gpu.launch_typed(name, from.dtype(), walk.each(images), &arguments)
}

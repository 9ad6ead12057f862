//! One launch over many tensors: what goes over all parameters of a model would else be hundreds of small launches.

use candle_core::{DType, Tensor};

use super::{Argument, Gpu, Grid};
use crate::{Error, Result};

/// Elements that one block works on; `CHUNK` of `cuda/training.cu`.
const CHUNK: usize = 8192;
/// Threads of a block; `THREADS` of `cuda/common.cuh`.
const THREADS: u32 = 256;
/// Most tensors and numbers of a row; the sizes of the arrays of `TableRow`.
const MOST_TENSORS: usize = 5;
const MOST_SCALARS: usize = 8;

/// Rows of tensors that a kernel of `cuda/training.cu` handles alike, each row with numbers of its own.
///
/// The addresses go to the GPU with every launch, since gradients lie elsewhere in every step: 104 bytes a row.
pub(crate) struct Table<'a> {
    gpu: &'a Gpu,
    rows: Vec<Row>,
}

struct Row {
    addresses: [u64; MOST_TENSORS],
    count: usize,
    scalars: [f32; MOST_SCALARS],
}

impl Row {
    fn chunks(&self) -> usize {
        self.count.div_ceil(CHUNK)
    }

    /// Whether packs of 4 elements can be read and written everywhere.
    fn is_aligned(&self) -> bool {
        self.addresses.iter().all(|address| address.is_multiple_of(16))
    }

    /// The 12 words of `TableRow`.
    fn words(&self, first_chunk: usize) -> impl Iterator<Item = i64> {
        let numbers = [self.count as i64, first_chunk as i64, i64::from(self.is_aligned())];
        let pair = |pair: &[f32]| {
            let [low, high] = [pair[0], pair[1]].map(|scalar| u64::from(scalar.to_bits()));
            (low | high << 32).cast_signed()
        };
        let scalars: Vec<i64> = self.scalars.chunks_exact(2).map(pair).collect();
        self.addresses.map(u64::cast_signed).into_iter().chain(numbers).chain(scalars)
    }
}

impl<'a> Table<'a> {
    pub(crate) fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, rows: Vec::new() }
    }

    /// Adds a row of F32 tensors of equally many elements, in the order that the kernel names. `copy` is the last one: a copy
    /// of the first in BF16, where there is one.
    ///
    /// # Errors
    /// [`Error::UnsupportedDtype`], [`Error::UnsupportedDevice`] and [`Error::Shape`] for tensors that do not fit.
    pub(crate) fn push(
        &mut self,
        operation: &'static str,
        tensors: &[&Tensor],
        copy: Option<&Tensor>,
        scalars: &[f32],
    ) -> Result<()> {
        let mut row = Row { addresses: [0; MOST_TENSORS], count: 0, scalars: [0.0; MOST_SCALARS] };
        row.count = tensors.first().map_or(0, |tensor| tensor.elem_count());
        row.scalars[..scalars.len()].copy_from_slice(scalars);
        let all =
            tensors.iter().map(|tensor| (*tensor, DType::F32)).chain(copy.map(|copy| (copy, DType::BF16)));
        for ((tensor, dtype), address) in all.zip(&mut row.addresses) {
            if tensor.dtype() != dtype {
                return Err(Error::UnsupportedDtype { operation, dtype: tensor.dtype() });
            }
            if tensor.elem_count() != row.count {
                let expected = format!("{} elements, as the parameter has", row.count);
                return Err(Error::Shape { operation, got: tensor.dims().to_vec(), expected });
            }
            *address = self.gpu.address(tensor)?;
        }
        if row.count > 0 {
            self.rows.push(row);
        }
        Ok(())
    }

    /// Number of blocks of a launch.
    pub(crate) fn chunks(&self) -> usize {
        self.rows.iter().map(Row::chunks).sum()
    }

    /// Enqueues the kernel `name` over all rows. Its arguments are the table, the number of rows and `more`. Without rows
    /// nothing happens.
    ///
    /// # Errors
    /// Failures of the driver.
    pub(crate) fn launch(&self, name: &str, more: &[Argument]) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut words = Vec::with_capacity(self.rows.len() * 13);
        let mut rows = Vec::with_capacity(self.rows.len() * 12);
        let mut first_chunk = 0;
        for row in &self.rows {
            words.push(first_chunk as i64);
            rows.extend(row.words(first_chunk));
            first_chunk += row.chunks();
        }
        words.append(&mut rows);
        let table = self.gpu.upload_locked(&words)?;
        let mut arguments = vec![self.gpu.at(&table)?, self.rows.len().into()];
        arguments.extend_from_slice(more);
        self.gpu.launch(name, Grid::blocks(first_chunk as u32, THREADS), &arguments)
    }
}

/// The sum of the squares of all elements of `tensors` (F32 on one GPU) in f64: one number on the GPU. `None` without
/// elements.
fn squares<'a>(gpu: &Gpu, tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Option<Tensor>> {
    let mut table = Table::new(gpu);
    for tensor in tensors {
        table.push("sum of squares", &[tensor], None, &[])?;
    }
    let chunks = table.chunks();
    if chunks == 0 {
        return Ok(None);
    }
    let (parts, total) = (gpu.empty(chunks, DType::F64)?, gpu.empty(1, DType::F64)?);
    table.launch("squares_of_chunks", &[gpu.at(&parts)?])?;
    let arguments = [gpu.at(&parts)?, gpu.at(&total)?, chunks.into()];
    gpu.launch("sum_of_parts", Grid::blocks(1, 1024), &arguments)?;
    Ok(Some(total))
}

/// The sum of the squares of all elements of `tensors` (F32 on one GPU) in f64. Waits for the GPU, once.
pub(crate) fn sum_of_squares(tensors: &[&Tensor]) -> Result<f64> {
    let Some(first) = tensors.first() else { return Ok(0.0) };
    let total = squares(&Gpu::of(first)?, tensors.iter().copied())?;
    Ok(total.map_or(Ok(vec![0.0]), |total| total.to_vec1::<f64>())?[0])
}

/// New tensors for `tensors` (F32 on one GPU), and the table of both.
fn copies<'a>(
    gpu: &'a Gpu,
    operation: &'static str,
    tensors: &[&Tensor],
    scalars: &[f32],
) -> Result<(Table<'a>, Vec<Tensor>)> {
    let (mut table, mut copies) = (Table::new(gpu), Vec::with_capacity(tensors.len()));
    for tensor in tensors {
        let copy = gpu.empty(tensor.shape(), tensor.dtype())?;
        table.push(operation, &[tensor, &copy], None, scalars)?;
        copies.push(copy);
    }
    Ok((table, copies))
}

/// `factor` times each of the tensors (F32 on one GPU), by one launch.
pub(crate) fn scale_all(tensors: &[&Tensor], factor: f64) -> Result<Vec<Tensor>> {
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    let gpu = Gpu::of(first)?;
    let (table, scaled) = copies(&gpu, "scale", tensors, &[factor as f32])?;
    table.launch("scale_tensors", &[])?;
    Ok(scaled)
}

/// The tensors (F32 on one GPU), all scaled down so that their Euclidean norm, plus `stability`, is at most `limit`; and the
/// square of the norm before (F64, one number). Waits for nothing. `None` without elements.
pub(crate) fn clip_all(
    tensors: &[&Tensor],
    limit: f64,
    stability: f64,
) -> Result<Option<(Vec<Tensor>, Tensor)>> {
    let Some(first) = tensors.first() else { return Ok(None) };
    let gpu = Gpu::of(first)?;
    let Some(total) = squares(&gpu, tensors.iter().copied())? else { return Ok(None) };
    let (table, clipped) = copies(&gpu, "clip", tensors, &[])?;
    table.launch("clip_tensors", &[gpu.at(&total)?, Argument::Double(limit), Argument::Double(stability)])?;
    Ok(Some((clipped, total)))
}

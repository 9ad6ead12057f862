//! Attention on the GPU (`cuda/attention.cu`, `cuda/attention_tensor.cu`).
//!
//! Scores exist in registers and shared memory only. The tape holds qkv, the output (which the next layer holds anyway) and
//! one normaliser per query and head, in F32 and counted in powers of two. BF16 with usual depths goes to the kernels for
//! tensor cores, everything else to those without.

use candle_core::{DType, Tensor};

use super::{SelfAttention, Sizes};
use crate::cuda::{Argument, Gpu, Grid, column_sums};
use crate::window_bias::WindowBias;
use crate::{Error, Gradients, Parameters, Result, Tape};

/// Depths that the kernels without tensor cores are compiled for; smaller ones are padded.
const DEPTHS: [usize; 4] = [32, 64, 128, 256];
/// Depths of heads that the kernels for tensor cores know.
const TENSOR_DEPTHS: [usize; 5] = [16, 32, 64, 96, 128];

/// Shared memory that one block may have on Hopper.
const MOST_SHARED: usize = 227 << 10;
/// Blocks that share the windows of a batch where the table wants a gradient: some for each of 132 multiprocessors.
const TABLE_BLOCKS: usize = 132 * 8;

/// Threads of a block of the kernels without tensor cores.
const SIMT_THREADS: u32 = 256;

/// Tokens of one product on tensor cores.
const STEP: usize = 16;
/// Most keys that pass through shared memory at once, forward.
const MOST_STAGED: usize = 256;
/// The same where they need several rounds.
const STAGE: usize = 128;
/// Queries of one round of the backward pass, and the elements of a row of its score gradients in shared memory.
const QUERIES: usize = 64;
const SCORE_STRIDE: usize = QUERIES + 8;

/// A call and where it runs.
struct Call<'a> {
    gpu: Gpu,
    dtype: DType,
    sizes: Sizes,
    bias: Option<&'a WindowBias>,
    table: Option<&'a Tensor>,
}

/// Everything the backward pass reads, and the gradient it writes.
struct Backward<'a> {
    qkv: &'a Tensor,
    y: &'a Tensor,
    normalisers: &'a Tensor,
    dy: &'a Tensor,
    dqkv: &'a Tensor,
}

/// How the images of a batch are dealt out to blocks that add up the table's gradient.
#[derive(Clone, Copy)]
struct Groups {
    count: usize,
    images: usize,
}

impl SelfAttention {
    pub(super) fn forward_cuda(
        &self,
        parameters: &Parameters,
        qkv: Tensor,
        tape: &mut Tape,
    ) -> Result<Tensor> {
        let call = Call::new(self, parameters, &qkv)?;
        let Sizes { images, tokens, heads, .. } = call.sizes;
        let y = call.gpu.empty((images, tokens, call.sizes.width()), call.dtype)?;
        let normalisers = call.gpu.empty((images, heads, tokens), DType::F32)?;
        if images > 0 {
            let is_tensor = call.on_tensor_cores(&[&qkv])?;
            let forward = if is_tensor { Call::tensor_forward } else { Call::simt_forward };
            forward(&call, &qkv, &y, &normalisers)?;
        }
        if tape.is_recording() {
            tape.push(qkv);
            tape.push(y.clone());
            tape.push(normalisers);
        }
        Ok(y)
    }

    pub(super) fn backward_cuda(
        &self,
        parameters: &Parameters,
        dy: &Tensor,
        tape: &mut Tape,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (normalisers, y, qkv) = (tape.pop()?, tape.pop()?, tape.pop()?);
        let call = Call::new(self, parameters, &qkv)?;
        if dy.dims() != y.dims() {
            let (got, expected) = (dy.dims().to_vec(), format!("{:?}", y.dims()));
            return Err(Error::Shape { operation: "SelfAttention", got, expected });
        }
        if dy.dtype() != call.dtype {
            return Err(Error::UnsupportedDtype { operation: "SelfAttention", dtype: dy.dtype() });
        }
        let dqkv = call.gpu.empty(qkv.shape(), call.dtype)?;
        let pass = Backward { qkv: &qkv, y: &y, normalisers: &normalisers, dy, dqkv: &dqkv };
        let wanted = self.bias.as_ref().filter(|bias| gradients.wants(bias.table()));
        let sums = call.backward(&pass, wanted.is_some())?;
        if let (Some(bias), Some(sums)) = (wanted, sums) {
            let table = call.gpu_table_shape(bias);
            let gradient = column_sums(&sums, table.0 * table.1)?.reshape(table)?;
            gradients.add(bias.table(), gradient)?;
        }
        Ok(dqkv)
    }
}

impl<'a> Call<'a> {
    fn new(layer: &'a SelfAttention, parameters: &'a Parameters, qkv: &Tensor) -> Result<Self> {
        let sizes = layer.sizes(qkv)?;
        let deepest = DEPTHS[DEPTHS.len() - 1];
        if sizes.depth > deepest {
            let (name, expected) = ("depth of a head", "at most 256 on a GPU");
            return Err(Error::Setting { name, value: sizes.depth as f64, expected });
        }
        let bias = layer.bias.as_ref();
        let table = bias.map(|bias| bias.checked_table(parameters, layer.heads)).transpose()?;
        if let Some(table) = table.filter(|table| table.dtype() != DType::F32) {
            let operation = "relative position bias";
            return Err(Error::UnsupportedDtype { operation, dtype: table.dtype() });
        }
        Ok(Self { gpu: Gpu::of(qkv)?, dtype: qkv.dtype(), sizes, bias, table })
    }

    fn scale(&self) -> f64 {
        1.0 / (self.sizes.depth as f64).sqrt()
    }

    /// Rows and heads of the table of a bias.
    fn gpu_table_shape(&self, bias: &WindowBias) -> (usize, usize) {
        (bias.table_rows(), self.sizes.heads)
    }

    /// The arguments `WINDOWS` of the kernels.
    fn windows(&self) -> Result<[Argument; 5]> {
        let table = self.gpu.at_or_none(self.table)?;
        let [side, shift, rows, columns] = match self.bias.map(WindowBias::windows) {
            Some(windows) => [windows.side(), windows.shift(), windows.rows(), windows.columns()],
            None => [1, 0, 1, 1],
        };
        Ok([table, side.into(), shift.into(), rows.into(), columns.into()])
    }

    /// Arguments of all kernels: tensors, windows, sizes (with the depth, where it is no constant of the kernel), scale.
    fn arguments(&self, tensors: &[&Tensor], has_depth: bool) -> Result<Vec<Argument>> {
        let mut arguments = tensors.iter().map(|tensor| self.gpu.at(tensor)).collect::<Result<Vec<_>>>()?;
        arguments.extend(self.windows()?);
        arguments.extend([self.sizes.tokens, self.sizes.heads].map(Argument::from));
        if has_depth {
            arguments.push(self.sizes.depth.into());
        }
        arguments.push(self.scale().into());
        Ok(arguments)
    }

    /// `blocks` for each head of each of `groups` images or groups of them. There are never 2³¹: each reads 100 bytes at
    /// least that no other reads.
    fn grid(&self, groups: usize, blocks: usize, threads: u32, shared: usize) -> Grid {
        Grid::blocks((groups * self.sizes.heads * blocks) as u32, threads).with_shared(shared)
    }

    /// The table's gradient adds up in this many blocks, of which each handles so many images.
    fn groups(&self, blocks_per_head: usize) -> Groups {
        let images = self.sizes.images;
        let wanted = (TABLE_BLOCKS / (self.sizes.heads * blocks_per_head)).clamp(1, images);
        let per_group = images.div_ceil(wanted);
        Groups { count: images.div_ceil(per_group), images: per_group }
    }

    /// Computes dqkv; with `wants_table` also the parts of the table's gradient, one row for each part.
    fn backward(&self, pass: &Backward<'_>, wants_table: bool) -> Result<Option<Tensor>> {
        if self.sizes.images == 0 {
            return self.sums(0, wants_table);
        }
        if !self.on_tensor_cores(&[pass.qkv, pass.dy])? {
            return self.simt_backward(pass, wants_table);
        }
        if self.tiles() <= self.most_tiles() {
            return self.tensor_backward_whole(pass, wants_table);
        }
        self.tensor_backward_long(pass)?;
        Ok(None)
    }

    /// Zeros for `parts` parts of the table's gradient (one row of zeros for none).
    fn sums(&self, parts: usize, wants_table: bool) -> Result<Option<Tensor>> {
        let Some(bias) = self.bias.filter(|_| wants_table) else {
            return Ok(None);
        };
        let columns = bias.table_rows() * self.sizes.heads;
        Ok(Some(self.gpu.zeros((parts.max(1), columns), DType::F32)?))
    }
}

/// Without tensor cores.
impl Call<'_> {
    /// The smallest compiled depth, the tokens of a tile, and the bytes of a tile of operands and of scores.
    fn simt_shape(&self) -> SimtShape {
        let fits = DEPTHS.into_iter().find(|depth| *depth >= self.sizes.depth);
        let depth = fits.unwrap_or(DEPTHS[DEPTHS.len() - 1]);
        let tile = if depth > 128 { 32 } else { 64 };
        SimtShape { depth, tile, operand: tile * (depth + 4) * 4, scores: tile * (tile + 4) * 4 }
    }

    fn simt_launch(&self, name: &str, shape: SimtShape, grid: Grid, arguments: &[Argument]) -> Result<()> {
        let suffix = match self.dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            dtype => return Err(Error::UnsupportedDtype { operation: "SelfAttention", dtype }),
        };
        self.gpu.launch(&format!("{name}_{}_{suffix}", shape.depth), grid, arguments)
    }

    fn simt_forward(&self, qkv: &Tensor, y: &Tensor, normalisers: &Tensor) -> Result<()> {
        let shape = self.simt_shape();
        let arguments = self.arguments(&[qkv, y, normalisers], true)?;
        let tiles = self.sizes.tokens.div_ceil(shape.tile);
        let grid = self.grid(self.sizes.images, tiles, SIMT_THREADS, 3 * shape.operand + shape.scores);
        self.simt_launch("attention_forward", shape, grid, &arguments)
    }

    fn simt_backward(&self, pass: &Backward<'_>, wants_table: bool) -> Result<Option<Tensor>> {
        let shape = self.simt_shape();
        let tiles = self.sizes.tokens.div_ceil(shape.tile);
        let groups =
            if wants_table { self.groups(tiles) } else { Groups { count: self.sizes.images, images: 1 } };
        let sums = self.sums(groups.count * tiles, wants_table)?;
        let common = self.arguments(&pass.tensors(), true)?;
        let rest = [self.gpu.at_or_none(sums.as_ref())?, self.sizes.images.into(), groups.images.into()];
        let arguments = [&common[..], &rest].concat();
        let per_query = 2 * shape.tile * size_of::<f32>();
        let score_tiles = if tiles == 1 { 3 } else { 2 };
        let shared = 4 * shape.operand + score_tiles * shape.scores + per_query;
        let grid = self.grid(groups.count, tiles, SIMT_THREADS, shared);
        self.simt_launch("attention_backward_keys", shape, grid, &arguments)?;
        if tiles > 1 {
            let shared = 4 * shape.operand + shape.scores + per_query;
            let grid = self.grid(self.sizes.images, tiles, SIMT_THREADS, shared);
            self.simt_launch("attention_backward_queries", shape, grid, &common)?;
        }
        Ok(sums)
    }
}

/// One instantiation of the kernels without tensor cores; sizes of tiles in bytes.
#[derive(Clone, Copy)]
struct SimtShape {
    depth: usize,
    tile: usize,
    operand: usize,
    scores: usize,
}

/// On tensor cores.
impl Call<'_> {
    /// Whether the kernels for tensor cores can do it. The answer depends on nothing that differs between passes over frozen
    /// and trained weights, so that both compute the same.
    fn on_tensor_cores(&self, tensors: &[&Tensor]) -> Result<bool> {
        if self.dtype != DType::BF16 || !TENSOR_DEPTHS.contains(&self.sizes.depth) {
            return Ok(false);
        }
        // The kernels for several blocks per head know no windows.
        if self.bias.is_some() && (self.tiles() > self.most_tiles() || self.whole_shared() > MOST_SHARED) {
            return Ok(false);
        }
        let addresses = tensors.iter().map(|tensor| self.gpu.address(tensor)).collect::<Result<Vec<_>>>()?;
        Ok(addresses.iter().all(|address| address.is_multiple_of(16)))
    }

    /// Steps of 16 tokens.
    fn tiles(&self) -> usize {
        self.sizes.tokens.div_ceil(STEP)
    }

    /// Most of them in one block of the backward pass, one for each warp: `MOST_KEY_THREADS` of the kernels.
    fn most_tiles(&self) -> usize {
        match (self.sizes.depth, self.bias) {
            (65.., _) => 8,
            (_, Some(_)) => 12,
            (_, None) => 16,
        }
    }

    /// Bytes of `rows` rows of an operand in shared memory.
    fn rows_shared(&self, rows: usize) -> usize {
        rows * (self.sizes.depth + 8) * size_of::<u16>()
    }

    /// Bytes of the table and of the places of tokens.
    fn bias_shared(&self) -> usize {
        let places = self.bias.map_or(0, |_| self.sizes.tokens.next_multiple_of(64));
        (self.bias.map_or(1, WindowBias::table_rows) + places) * size_of::<f32>()
    }

    /// Copies of the tiles of queries: the next ones arrive while these are used.
    fn buffers(&self) -> usize {
        if self.sizes.tokens > QUERIES { 2 } else { 1 }
    }

    /// Shared memory of the backward pass without score gradients, for `keys` keys.
    fn keys_shared(&self, keys: usize) -> usize {
        let operands = self.rows_shared(2 * keys + 3 * QUERIES * self.buffers());
        operands + 2 * QUERIES * size_of::<f32>() + self.bias_shared()
    }

    /// The same where one block holds all keys of a head.
    fn whole_shared(&self) -> usize {
        let keys = self.tiles() * STEP;
        self.keys_shared(keys) + keys * SCORE_STRIDE * size_of::<u16>()
    }

    fn tensor_forward(&self, qkv: &Tensor, y: &Tensor, normalisers: &Tensor) -> Result<()> {
        let (tiles, tokens) = (self.tiles(), self.sizes.tokens);
        // All keys of a head at once, for up to 8 warps that take turns with the queries; else 8 warps with one turn each.
        let (stage, warps, rounds) = if tokens <= MOST_STAGED {
            let warps = if tiles > 8 { tiles.div_ceil(2) } else { tiles };
            (tiles * STEP, warps, tiles.div_ceil(warps))
        } else {
            (STAGE, 8, 1)
        };
        let mut arguments = self.arguments(&[qkv, y, normalisers], false)?;
        arguments.extend([rounds, stage].map(Argument::from));
        let shared = self.rows_shared(2 * stage) + self.bias_shared();
        let grid = self.grid(self.sizes.images, tiles.div_ceil(warps * rounds), threads(warps), shared);
        let kind = if self.bias.is_some() { "windows_" } else { "" };
        self.gpu.launch(&format!("attention_tensor_forward_{kind}{}", self.sizes.depth), grid, &arguments)
    }

    /// One block for each head, with everything in one launch.
    fn tensor_backward_whole(&self, pass: &Backward<'_>, wants_table: bool) -> Result<Option<Tensor>> {
        let (groups, kind) = match (wants_table, self.bias) {
            (true, _) => (self.groups(1), "table_"),
            (false, Some(_)) => (Groups { count: self.sizes.images, images: 1 }, "windows_"),
            (false, None) => (Groups { count: self.sizes.images, images: 1 }, ""),
        };
        let sums = self.sums(groups.count, wants_table)?;
        let mut arguments = self.arguments(&pass.tensors(), false)?;
        arguments.push(self.gpu.at_or_none(sums.as_ref())?);
        arguments.extend([self.sizes.images, groups.images, self.buffers()].map(Argument::from));
        let grid = self.grid(groups.count, 1, threads(self.tiles()), self.whole_shared());
        let name = format!("attention_tensor_backward_{kind}{}", self.sizes.depth);
        self.gpu.launch(&name, grid, &arguments)?;
        Ok(sums)
    }

    /// Several blocks for each head: dk and dv by blocks of keys, dq by blocks of queries.
    fn tensor_backward_long(&self, pass: &Backward<'_>) -> Result<()> {
        let depth = self.sizes.depth;
        let (key_warps, query_warps) = (8, 4);
        let mut arguments = self.arguments(&pass.tensors(), false)?;
        arguments.push(Argument::NONE);
        arguments.extend([self.sizes.images, 1, self.buffers()].map(Argument::from));
        let shared = self.keys_shared(key_warps * STEP);
        let grid = self.grid(self.sizes.images, self.tiles().div_ceil(key_warps), threads(key_warps), shared);
        self.gpu.launch(&format!("attention_tensor_backward_keys_{depth}"), grid, &arguments)?;
        let mut arguments =
            pass.tensors().iter().map(|tensor| self.gpu.at(tensor)).collect::<Result<Vec<_>>>()?;
        arguments.extend([self.sizes.tokens, self.sizes.heads].map(Argument::from));
        arguments.push(self.scale().into());
        let (blocks, shared) = (self.tiles().div_ceil(query_warps), self.rows_shared(2 * QUERIES));
        let grid = self.grid(self.sizes.images, blocks, threads(query_warps), shared);
        self.gpu.launch(&format!("attention_tensor_backward_queries_{depth}"), grid, &arguments)
    }
}

impl<'a> Backward<'a> {
    fn tensors(&self) -> [&'a Tensor; 5] {
        [self.qkv, self.y, self.normalisers, self.dy, self.dqkv]
    }
}

/// Threads of so many warps.
fn threads(warps: usize) -> u32 {
    warps as u32 * 32
}

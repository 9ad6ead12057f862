//! How kernels walk over maps whose channels lie side by side.

use candle_core::{DType, Tensor};

use super::{Argument, Gpu, Grid};
use crate::Result;

/// Threads of a block.
const THREADS: usize = 256;
/// Threads side by side; a whole warp reads 512 bytes of one row.
const MOST_ACROSS: usize = 32;
/// Blocks that keep all multiprocessors of a Hopper GPU busy: 8 for each of the 132.
const BUSY_BLOCKS: usize = 132 * 8;

/// The launch of a kernel over a (rows, channels) matrix, `Walk` in `cuda/maps.cuh`: threads lie side by side over packs of
/// channels, and below each other over rows; blocks cut the rows.
#[derive(Clone, Copy)]
pub(crate) struct ChannelGrid {
    rows: usize,
    /// Channels that a thread handles at once.
    count: usize,
    across: usize,
    columns_of_blocks: usize,
}

impl ChannelGrid {
    /// For `tensors` of one dtype, all of them matrices of `rows` rows of `channels`. Packs are used where every row of
    /// every tensor begins on a 16-byte boundary.
    pub(crate) fn new(gpu: &Gpu, tensors: &[&Tensor], rows: usize, channels: usize) -> Result<Self> {
        let pack = pack_of(tensors[0].dtype());
        let mut is_aligned = channels.is_multiple_of(pack);
        for tensor in tensors {
            is_aligned &= gpu.address(tensor)?.is_multiple_of(16);
        }
        let count = if is_aligned { pack } else { 1 };
        let columns = channels.div_ceil(count);
        let across = columns.next_power_of_two().min(MOST_ACROSS);
        Ok(Self { rows, count, across, columns_of_blocks: columns.div_ceil(across) })
    }

    /// Channels that a thread handles at once.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether threads handle packs, as an argument.
    pub(crate) fn packed(&self) -> Argument {
        usize::from(self.count > 1).into()
    }

    /// Blocks of rows: enough to keep the GPU busy, at least 4 rows for each thread, and at most `most`.
    pub(crate) fn blocks_of_rows(&self, most: usize) -> usize {
        let useful = self.rows.div_ceil(4 * self.down());
        BUSY_BLOCKS.div_ceil(self.columns_of_blocks).min(most).min(useful).max(1)
    }

    /// The grid with `blocks` blocks of rows, and the rows of each.
    pub(crate) fn cut(&self, blocks: usize) -> (Grid, usize) {
        let grid = Grid {
            blocks: (self.columns_of_blocks as u32, blocks as u32, 1),
            threads: (self.across as u32, self.down() as u32, 1),
            shared: 0,
        };
        (grid, self.rows.div_ceil(blocks))
    }

    /// The grid where every block handles all rows of one of `groups` matrices; blocks are counted along x only, those of
    /// one matrix beside each other.
    pub(crate) fn each(&self, groups: usize) -> Grid {
        let (grid, _) = self.cut(1);
        Grid { blocks: ((self.columns_of_blocks * groups) as u32, 1, 1), ..grid }
    }

    /// Threads below each other.
    fn down(&self) -> usize {
        THREADS / self.across
    }
}

/// Elements of 16 bytes.
fn pack_of(dtype: DType) -> usize {
    16 / dtype.size_in_bytes()
}

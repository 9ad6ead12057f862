//! Datasets, splits, transforms and the loader.
//!
//! [`Dataset::load`] turns a [`DatasetSpec`](sweep_core::dataset::DatasetSpec) – parquet files, the local copy of a
//! repository on the Hub, a folder of pictures, or images drawn by a program – into three complete [`Split`]s whose
//! decoded, resized images lie in memory-mapped files shared by all workers. [`Augmenter`] changes a training image
//! as a pure function of (seed, epoch, image), and [`Batches`] loads ahead of the computation.
//!
//! The crate downloads nothing ([`parquet_files`] says what a repository's dataset needs), knows no model and makes no
//! tensors: a [`Batch`] is plain numbers in (N, 3, H, W).
//!
//! ```
//! use sweep_core::dataset::{Augmentation, DatasetSource, DatasetSpec, ProceduralFamily, SplitPolicy, ValidationPolicy};
//! use sweep_data::{Augmenter, Dataset, LoadOptions};
//!
//! let spec = DatasetSpec {
//!     source: DatasetSource::Procedural { family: ProceduralFamily::Shapes, seed: 0, train: 60, test: 20 },
//!     splits: SplitPolicy::Given {
//!         train: "train".to_owned(),
//!         validation: ValidationPolicy::PerClass { count: 1, seed: 0 },
//!         test: "test".to_owned(),
//!         test_subset: None,
//!     },
//!     expected: None,
//! };
//! let cache = tempfile::tempdir()?;
//! let options = LoadOptions { image_size: 32, cache: cache.path(), base: cache.path() };
//! let shapes = Dataset::load("shapes", &spec, options, &mut |_| ())?;
//! let augmenter = Augmenter::new(&Augmentation::Paper { flip: 0.5, jitter: 0.25, rotation: 2.0 }, 0, 0)?;
//! for batch in shapes.train().training_batches(16.try_into()?, 0, 0, augmenter)? {
//!     let batch = batch?;
//!     assert_eq!(batch.images.len(), batch.len() * 3 * 32 * 32);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(test)]
mod against_pillow;
mod assemble;
mod augment;
mod cache;
mod contact;
mod dataset;
mod decode;
mod error;
mod files;
mod folder_source;
mod jpeg;
mod layout;
mod loader;
mod parquet_source;
mod picture;
mod procedural;
mod resize;
mod sha;
mod source;
mod split;
mod trigonometry;
mod vectorized;

pub use augment::Augmenter;
pub use contact::contact_sheet;
pub use dataset::{Dataset, LoadOptions, Split, digest_source};
pub use decode::{DecodeError, MOST_ENCODED_BYTES, MOST_IMAGE_PIXELS, MOST_SIDE, decode_square};
pub use error::{Error, Result};
pub use folder_source::digest_pictures;
pub use layout::parquet_files;
pub use loader::{Batch, Batches, epoch_order};
pub use parquet_source::digest_parquet;
pub use procedural::{class_names as procedural_class_names, draw as draw_procedural};
pub use source::Progress;

//! What a dataset is: where its images lie, which columns hold them, and how its splits are made.
//!
//! Only the description lives here; reading images is the work of `sweep-data`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A dataset as a run needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetSpec {
    /// Where the images come from.
    pub source: DatasetSource,
    /// How train, validation and test splits are made of what the source has.
    pub splits: SplitPolicy,
    /// Published sizes, where they are known: used for cost estimates and checked when the data is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<ExpectedCounts>,
}

/// Where the images of a dataset come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DatasetSource {
    /// Images drawn by a program from a seed: no download, no files.
    Procedural {
        /// Which of the built-in families of images.
        family: ProceduralFamily,
        /// Seed of every image.
        seed: u64,
        /// Number of training images.
        train: u32,
        /// Number of test images.
        test: u32,
    },
    /// A local folder of parquet files in the Hub's layout: `<split>.parquet`, `<split>-*.parquet` or
    /// `data/<split>-*.parquet`, an image column (struct of `bytes` and `path`) and an integer label column.
    Parquet {
        /// The folder. Not part of a run's identity; `digest` is.
        path: PathBuf,
        /// SHA-256 over the names and contents of the files, `None` before it is resolved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// Name of the image column.
        image_column: String,
        /// Name of the label column.
        label_column: String,
    },
    /// A dataset repository on the Hugging Face Hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
        /// Name of the image column.
        image_column: String,
        /// Name of the label column.
        label_column: String,
    },
}

/// A family of procedural images. Classes, difficulty and what tells classes apart differ from family to family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProceduralFamily {
    /// The upstream set: many classes, every cue that the downstream families use.
    Upstream,
    /// Outlines of simple shapes (downstream).
    Shapes,
    /// Textures: oriented gratings and their mixtures (downstream).
    Textures,
    /// Coloured arrangements of blobs (downstream).
    Blobs,
    /// Glyph-like stroke patterns (downstream).
    Glyphs,
    /// Fine-grained variants of one shape that differ in small details (downstream).
    Details,
}

/// How the three splits are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SplitPolicy {
    /// The source has a training and a test split; validation is one of its splits or is drawn from training.
    Given {
        /// Name of the source's training split.
        train: String,
        /// Where validation images come from.
        validation: ValidationPolicy,
        /// Name of the source's test split.
        test: String,
        /// Only this many test images, drawn per class in proportion (paper, B.1: 1,000 for Cars and Aircraft).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test_subset: Option<Subset>,
    },
    /// All splits of the source are pooled and drawn anew per class; what is left over is the test split
    /// (paper, B.1: Caltech-256 with 57 and 3).
    Pooled {
        /// Training images a class.
        train_per_class: u32,
        /// Validation images a class.
        validation_per_class: u32,
        /// Seed of the draw.
        seed: u64,
    },
}

/// Where the validation split comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ValidationPolicy {
    /// A split of the source.
    Split {
        /// Its name.
        name: String,
    },
    /// This many images of each class, taken out of training.
    PerClass {
        /// Images a class.
        count: u32,
        /// Seed of the draw.
        seed: u64,
    },
    /// This fraction of each class (rounded to the nearest, at least one image), taken out of training.
    Fraction {
        /// In (0, 1).
        fraction: f64,
        /// Seed of the draw.
        seed: u64,
    },
}

/// A stratified part of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// Number of images.
    pub count: u32,
    /// Seed of the draw.
    pub seed: u64,
}

/// Published sizes of a dataset after its split policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedCounts {
    /// Number of classes.
    pub classes: u32,
    /// Training images.
    pub train: u32,
    /// Validation images.
    pub validation: u32,
    /// Test images.
    pub test: u32,
}

/// What is done to a training image before it is seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Augmentation {
    /// Nothing beyond the resize.
    None,
    /// Horizontal flip, colour jitter, small rotation, in this order (paper, B.2).
    Paper {
        /// Probability of a horizontal flip.
        flip: f64,
        /// Half-width of the uniform factor around 1 for brightness, contrast and saturation.
        jitter: f64,
        /// Largest rotation in degrees, either way; nearest neighbour, filled with black.
        rotation: f64,
    },
}

//! What a dataset is: where its images lie, which columns hold them, and how its splits are made.
//!
//! Only the description lives here; reading images is the work of `sweep-data`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// `data/<split>-*.parquet`, an image column (binary, or a struct with binary `bytes`) and a label column (integer
    /// or text).
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
        /// How pictures are read.
        #[serde(flatten)]
        decoding: Decoding,
    },
    /// A local folder of pictures, `<split>/<class>/<any name>`, as torchvision's `ImageFolder` has it; the classes are
    /// the sorted names of the folders. The split `validation` may also be called `val` or `valid`.
    Folder {
        /// The folder. Not part of a run's identity; `digest` is.
        path: PathBuf,
        /// SHA-256 over the names and contents of the files, `None` before it is resolved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// How pictures are read.
        #[serde(flatten)]
        decoding: Decoding,
    },
    /// A dataset repository on the Hugging Face Hub, or the branch of it that the Hub has converted to parquet.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit. Planning puts the commit (40 hexadecimal digits) in its place, which then is what
        /// identifies the content.
        revision: String,
        /// The configuration, where the repository has several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<String>,
        /// Name of the image column.
        image_column: String,
        /// Name of the label column.
        label_column: String,
        /// The local copy of the commit's files, `None` before they are there. Not part of a run's identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        folder: Option<PathBuf>,
        /// How pictures are read.
        #[serde(flatten)]
        decoding: Decoding,
    },
}

impl DatasetSource {
    /// Returns the canonical form: without the place of files that a digest or a commit identifies.
    pub(crate) fn canonical(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("plain data without maps becomes JSON");
        let place = match self {
            Self::Parquet { digest: Some(_), .. } | Self::Folder { digest: Some(_), .. } => Some("path"),
            Self::Hub { .. } => Some("folder"),
            _ => None,
        };
        if let (Some(place), Some(keys)) = (place, value.as_object_mut()) {
            keys.remove(place);
        }
        value
    }
}

/// How encoded pictures are read. What is usual is not written, so that it is no part of a run's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoding {
    /// What becomes of a picture's EXIF orientation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exif: Exif,
    /// What happens when a picture cannot be read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_bad_image: OnBadImage,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What becomes of the orientation that a camera has written into a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exif {
    /// The pixels stay as they are stored: what torchvision's pipelines, and so the paper's (B.2), do.
    #[default]
    Ignore,
    /// The picture is turned and mirrored as it is meant to be seen (Pillow's `ImageOps.exif_transpose`).
    Apply,
}

/// What happens when a picture cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// Loading the dataset fails and names the picture.
    #[default]
    Fail,
    /// The picture is left out and counted.
    Skip,
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> DatasetSource {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_place_of_known_files_is_no_part_of_what_a_source_is() {
        let cases = [
            (
                json!({"kind": "parquet", "path": "a", "digest": "d", "image_column": "i", "label_column": "l"}),
                json!({"kind": "parquet", "digest": "d", "image_column": "i", "label_column": "l"}),
            ),
            (json!({"kind": "folder", "path": "a", "digest": "d"}), json!({"kind": "folder", "digest": "d"})),
            (json!({"kind": "folder", "path": "a"}), json!({"kind": "folder", "path": "a"})),
            (
                json!({"kind": "hub", "repository": "o/n", "revision": "r", "image_column": "i", "label_column": "l",
                       "folder": "a"}),
                json!({"kind": "hub", "repository": "o/n", "revision": "r", "image_column": "i", "label_column": "l"}),
            ),
        ];
        for (source, canonical) in cases {
            assert_eq!(read(source).canonical(), canonical);
        }
    }

    #[test]
    fn only_what_is_unusual_is_written() {
        let usual = json!({"kind": "folder", "path": "a", "exif": "ignore", "on_bad_image": "fail"});
        assert_eq!(read(usual).canonical(), json!({"kind": "folder", "path": "a"}));
        let unusual = json!({"kind": "folder", "path": "a", "exif": "apply", "on_bad_image": "skip"});
        assert_eq!(serde_json::to_value(read(unusual.clone())).unwrap(), unusual);
        let decoding = Decoding { exif: Exif::Apply, on_bad_image: OnBadImage::Skip };
        assert_eq!(read(unusual), DatasetSource::Folder { path: "a".into(), digest: None, decoding });
    }
}

//! What the image cache is filled from: a split of a source, read once, in order.

use serde_json::{Value, json};

use crate::error::Result;
use crate::split::Key;

/// Most classes of a dataset: no real one comes near.
pub(crate) const MOST_CLASSES: usize = 1 << 20;

/// How far the reading of a split has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Name of the source's split (`*` where all splits are pooled).
    pub split: &'a str,
    /// Images read, resized and written, or left out.
    pub done: u64,
    /// Images in all.
    pub total: u64,
}

/// One image on its way into the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// (size, size, 3).
    pub(crate) pixels: Vec<u8>,
    /// Number of the class.
    pub(crate) label: u32,
    /// What identifies the image by its content.
    pub(crate) key: Key,
}

/// What takes the images of a split, chunk by chunk; `None` stands for one that is left out.
pub(crate) type Sink<'a> = dyn FnMut(Vec<Option<Record>>) -> Result<()> + 'a;

/// What a source says about the classes of one of its splits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Classes {
    /// Labels are numbers without names.
    Numbered,
    /// All classes of the dataset by number; every split must have the same.
    Listed(Vec<String>),
    /// The names met in this split, sorted and distinct; another split may have others.
    Found(Vec<String>),
}

impl Classes {
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Numbered => Value::Null,
            Self::Listed(names) => json!({ "listed": names }),
            Self::Found(names) => json!({ "found": names }),
        }
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let names = |value: &Value| serde_json::from_value(value.clone()).ok();
        match (value.get("listed"), value.get("found")) {
            (Some(listed), None) => names(listed).map(Self::Listed),
            (None, Some(found)) => names(found).map(Self::Found),
            _ => value.is_null().then_some(Self::Numbered),
        }
    }
}

/// One split of a source.
pub(crate) trait ImageSource {
    /// Number of images, those that will be left out included.
    fn count(&self) -> u64;

    /// What is known of the classes.
    fn classes(&self) -> &Classes;

    /// Hands every image to `sink`, in order, in chunks of any length.
    fn read(&self, size: u32, sink: &mut Sink<'_>) -> Result<()>;
}

//! What the image cache is filled from: a split of a source, read once, in order.

use crate::error::Result;
use crate::split::Key;

/// How far the reading of a split has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Name of the source's split (`*` where all splits are pooled).
    pub split: &'a str,
    /// Images read, resized and written.
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

/// One split of a source.
pub(crate) trait ImageSource {
    /// Number of images.
    fn count(&self) -> u64;

    /// Names of the classes; `None` where the source does not say.
    fn class_names(&self) -> Option<&[String]>;

    /// Hands every image to `sink`, in order, in chunks of any length.
    fn read(&self, size: u32, sink: &mut dyn FnMut(Vec<Record>) -> Result<()>) -> Result<()>;
}

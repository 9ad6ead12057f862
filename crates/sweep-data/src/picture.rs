//! One encoded picture of a source on its way into the cache.

use std::path::Path;

use sweep_core::dataset::{Decoding, OnBadImage};

use crate::decode::decode_square;
use crate::error::{Error, Result};
use crate::sha::sha256;
use crate::source::Record;
use crate::split::Key;

/// Reads the pictures of one split.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    /// The source's split, which errors name.
    pub(crate) split: &'a str,
    pub(crate) decoding: Decoding,
}

/// Where a picture lies.
pub(crate) struct Place<'a> {
    pub(crate) path: &'a Path,
    /// Row in the file, counted from 0, where the file holds many.
    pub(crate) row: Option<u64>,
}

impl Reader<'_> {
    /// Decodes and resizes a picture; `None` where it cannot be read and such pictures are left out.
    pub(crate) fn record(
        self,
        bytes: &[u8],
        label: u32,
        size: u32,
        place: &Place<'_>,
    ) -> Result<Option<Record>> {
        match decode_square(bytes, size, self.decoding.exif) {
            Ok(pixels) => Ok(Some(Record { pixels, label, key: content_key(bytes) })),
            Err(reason) => {
                let (path, split) = (place.path.to_owned(), self.split.to_owned());
                let error = Error::Decode { path, row: place.row, split, source: Box::new(reason) };
                match self.decoding.on_bad_image {
                    OnBadImage::Fail => Err(error),
                    OnBadImage::Skip => {
                        tracing::warn!(%error, "a picture is left out");
                        Ok(None)
                    }
                }
            }
        }
    }
}

/// Returns what identifies an encoded image by its content.
fn content_key(bytes: &[u8]) -> Key {
    let digest = sha256(bytes);
    let (key, _) = digest.split_first_chunk().expect("a digest of 32 bytes is longer than a key");
    *key
}

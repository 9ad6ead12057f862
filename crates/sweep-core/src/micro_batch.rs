//! How many images a forward pass takes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Most images of a forward pass where the sweep file does not say.
const USUAL: u32 = 32;

/// The word that stands for [`MicroBatch::Auto`].
const AUTO: &str = "auto";

/// How many images a forward pass takes. Gradients add up to the effective batch whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    /// As many as fit the device, which the worker finds out; written `auto`.
    Auto,
    /// So many; at least 1.
    Images(u32),
}

impl MicroBatch {
    /// Returns the number, where it is one.
    pub const fn images(self) -> Option<u32> {
        match self {
            Self::Auto => None,
            Self::Images(images) => Some(images),
        }
    }

    /// Returns this, but no more than `limit` images: what the memory allows, as earlier attempts have found out.
    #[must_use]
    pub fn limited(self, limit: Option<u32>) -> Self {
        match (self, limit) {
            (Self::Images(images), Some(limit)) => Self::Images(images.min(limit)),
            (Self::Auto, Some(limit)) => Self::Images(limit),
            (size, None) => size,
        }
    }
}

impl fmt::Display for MicroBatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str(AUTO),
            Self::Images(images) => write!(formatter, "{images}"),
        }
    }
}

/// Returns the images of a forward pass where nothing is said, and where a CPU has to choose: the largest divisor of the
/// batch up to 32.
pub fn usual(batch_size: u32) -> u32 {
    largest_divisor(batch_size, USUAL).unwrap_or(1)
}

/// Returns the size to go on with after one that was too large: the largest divisor of the batch that is at most half of
/// it; `None` after 1.
///
/// ```
/// use sweep_core::micro_batch::halved;
/// assert_eq!((halved(32, 64), halved(25, 100), halved(1, 64)), (Some(16), Some(10), None));
/// ```
pub fn halved(size: u32, batch_size: u32) -> Option<u32> {
    // A micro batch larger than the batch is as large as the batch.
    largest_divisor(batch_size, size.min(batch_size) / 2)
}

/// Returns the size to try after one that fitted: the smallest divisor of the batch that is at least twice as large, which
/// for a power of two is the next one; `None` at the end.
pub fn doubled(size: u32, batch_size: u32) -> Option<u32> {
    (size.checked_mul(2)?..=batch_size).find(|divisor| batch_size.is_multiple_of(*divisor))
}

fn largest_divisor(batch_size: u32, most: u32) -> Option<u32> {
    (1..=most).rev().find(|divisor| batch_size.is_multiple_of(*divisor))
}

impl Serialize for MicroBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Images(images) => serializer.serialize_u32(*images),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = MicroBatch;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number of images of at least 1, or `auto`")
    }

    fn visit_u64<E: de::Error>(self, images: u64) -> Result<MicroBatch, E> {
        let images = u32::try_from(images).ok().filter(|images| *images > 0);
        images
            .map(MicroBatch::Images)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Other("another number"), &self))
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<MicroBatch, E> {
        if word == AUTO {
            Ok(MicroBatch::Auto)
        } else {
            Err(E::invalid_value(de::Unexpected::Str(word), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_written_as_a_number_or_a_word() {
        for (size, text) in [(MicroBatch::Auto, "\"auto\""), (MicroBatch::Images(48), "48")] {
            assert_eq!(serde_json::to_string(&size).unwrap(), text);
            assert_eq!(serde_json::from_str::<MicroBatch>(text).unwrap(), size);
        }
        for text in ["0", "-1", "1.5", "4294967296", "\"Auto\"", "null", "true"] {
            assert!(serde_json::from_str::<MicroBatch>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_only_lowers_and_is_the_answer_to_auto() {
        let (auto, images) = (MicroBatch::Auto, MicroBatch::Images);
        let cases = [
            (auto, None, auto),
            (auto, Some(4), images(4)),
            (images(8), Some(4), images(4)),
            (images(2), Some(4), images(2)),
            (images(2), None, images(2)),
        ];
        for (size, limit, expected) in cases {
            assert_eq!(size.limited(limit), expected, "{size} {limit:?}");
        }
    }

    #[test]
    fn powers_of_two_are_halved_and_doubled() {
        let down: Vec<u32> = std::iter::successors(Some(64), |size| halved(*size, 64)).collect();
        let up: Vec<u32> = std::iter::successors(Some(1), |size| doubled(*size, 64)).collect();
        assert_eq!(down, [64, 32, 16, 8, 4, 2, 1]);
        assert_eq!(up, [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(
            std::iter::successors(Some(100), |size| halved(*size, 100)).collect::<Vec<_>>(),
            [100, 50, 25, 10, 5, 2, 1]
        );
    }

    proptest! {
        #[test]
        fn whatever_is_tried_divides_the_batch(batch in 1_u32..2000, size in 1_u32..3000) {
            prop_assert!(batch.is_multiple_of(usual(batch)));
            if let Some(smaller) = halved(size, batch) {
                prop_assert!(batch.is_multiple_of(smaller) && 2 * smaller <= size);
            } else {
                prop_assert!(size.min(batch) == 1);
            }
            if let Some(larger) = doubled(size, batch) {
                prop_assert!(batch.is_multiple_of(larger) && larger >= 2 * size);
            }
        }
    }
}

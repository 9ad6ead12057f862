//! Amounts with a unit, as people write them: lengths of time and sizes.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// What a length of time may look like, in words.
pub(crate) const DURATION_EXAMPLES: &str = "90s, 30m, 12h or 7d";
/// What a length of time looks like, for the JSON Schema.
pub(crate) const DURATION_PATTERN: &str = "^[0-9]{1,6}(s|m|h|d)$";
/// What a size may look like, in words.
pub(crate) const SIZE_EXAMPLES: &str = "800MB, 500GB or 64GiB";
/// What a size looks like, for the JSON Schema.
pub(crate) const SIZE_PATTERN: &str = "^[0-9]{1,6}(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)$";

/// Most digits of the number before the unit: no product of theirs leaves the range of 64 bits.
const DIGITS: usize = 6;

const DURATIONS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads a length of time such as `90s`, `30m`, `12h` or `7d`, at least a second, and returns it in seconds.
pub fn seconds(text: &str) -> Option<u64> {
    amount(text, &DURATIONS)
}

/// Reads a size such as `800MB` (10^6) or `64GiB` (2^30), at least a byte, and returns it in bytes.
pub fn bytes(text: &str) -> Option<u64> {
    amount(text, &SIZES)
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    let number: u64 = if digits <= DIGITS { number.parse().ok()? } else { return None };
    (number > 0).then(|| number * factor)
}

/// Takes seconds as they stand in normal form for a length of time, null or none for nothing.
pub(crate) fn optional_seconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    Option::deserialize(deserializer).map(|seconds: Option<u64>| seconds.map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_a_number_and_a_unit() {
        for (text, expected) in [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Some(expected));
        }
        for (text, expected) in
            [("1B", 1), ("800MB", 800_000_000), ("64GiB", 64 << 30), ("999999TiB", 999_999 << 40)]
        {
            assert_eq!(bytes(text), Some(expected));
        }
        for text in ["", "s", "0s", "-1s", "1.5h", "1 h", "90", "90S", "1234567s", "١s"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        for text in ["5", "5G", "5gb", "0B", "1234567B"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}

//! Epochs written as shares of the budget: `24%` of 50 epochs is epoch 12.
//!
//! They become epochs before anything else is done with a run, so that the two spellings are one run.

use serde_json::Value;

/// Most epochs of a run.
pub(crate) const MAX_EPOCHS: u32 = 100_000;
/// Most decimal places of a percentage.
const PLACES: usize = 6;

/// A part of the budget in [0, 1], exactly as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    numerator: u64,
    denominator: u64,
}

impl Share {
    /// Reads a percentage from `0%` to `100%` with at most six decimal places.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?;
        let (whole, places) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(places) || whole.len() > 3 || places.len() > PLACES {
            return None;
        }
        let unit = 10_u64.pow(places.len() as u32);
        let numerator = whole.parse::<u64>().ok()? * unit + places.parse::<u64>().ok()?;
        let share = Self { numerator, denominator: 100 * unit };
        (share.numerator <= share.denominator).then_some(share)
    }

    /// Returns the epoch at this share of `epochs`: the nearest one, halves upwards.
    pub(crate) fn of(self, epochs: u32) -> u32 {
        let product = 2 * self.numerator * u64::from(epochs) + self.denominator;
        (product / (2 * self.denominator)) as u32
    }
}

/// Replaces the shares in an epsilon schedule by epochs, wherever it has them.
pub(crate) fn resolve_shares(schedule: &mut Value, epochs: u32) {
    match schedule {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match value.as_str().and_then(Share::parse) {
                    Some(share) if ["start", "end", "epoch"].contains(&key.as_str()) => {
                        *value = share.of(epochs).into();
                    }
                    _ => resolve_shares(value, epochs),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| resolve_shares(value, epochs)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_nearest_epoch_counts() {
        let epoch = |text: &str, epochs| Share::parse(text).map(|share| share.of(epochs));
        let cases = [
            ("24%", 50, Some(12)),
            ("74%", 50, Some(37)),
            ("0%", 50, Some(0)),
            ("100%", 50, Some(50)),
            ("100.0%", MAX_EPOCHS, Some(MAX_EPOCHS)),
            ("33.333333%", 12, Some(4)),
            ("50%", 5, Some(3)),
            ("24%", 12, Some(3)),
        ];
        for (text, epochs, expected) in cases {
            assert_eq!(epoch(text, epochs), expected, "{text} of {epochs}");
        }
        for text in
            ["", "%", "24", "24 %", "-1%", "+1%", "100.1%", "1e1%", ".5%", "5.%", "0.0000001%", "1000%"]
        {
            assert_eq!(epoch(text, 50), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_percentages_of_a_hundred_epochs_are_themselves(percent in 0_u32..=100) {
            prop_assert_eq!(Share::parse(&format!("{percent}%")).map(|share| share.of(100)), Some(percent));
        }

        #[test]
        fn a_larger_share_is_never_an_earlier_epoch(a in 0_u32..=1000, b in 0_u32..=1000, epochs in 1..=MAX_EPOCHS) {
            let epoch = |tenths: u32| Share::parse(&format!("{}.{}%", tenths / 10, tenths % 10)).unwrap().of(epochs);
            prop_assert!(epoch(a.min(b)) <= epoch(a.max(b)));
            prop_assert!(epoch(a) <= epochs);
        }
    }
}

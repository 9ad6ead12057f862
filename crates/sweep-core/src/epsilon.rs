//! The radius of a perturbation, kept as the exact fraction that was written.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A perturbation radius on pixels in [0, 1] (l-infinity unless the attack says otherwise): an exact fraction,
/// written `k/255` wherever it is a whole number of 255ths.
///
/// ```
/// use sweep_core::epsilon::Epsilon;
/// let epsilon: Epsilon = "4/255".parse()?;
/// assert_eq!(epsilon, "8/510".parse()?);
/// assert_eq!(epsilon.to_string(), "4/255");
/// assert_eq!(epsilon.value(), 4.0 / 255.0);
/// # Ok::<(), sweep_core::epsilon::ParseEpsilonError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epsilon {
    /// Reduced; at most `denominator`.
    numerator: u32,
    denominator: u32,
}

/// Why a text is no epsilon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseEpsilonError {
    /// Neither a fraction nor a decimal number.
    #[error("`{0}` is not a fraction such as `4/255` nor a decimal number in [0, 1]")]
    Syntax(String),
    /// Negative, above 1 or with a zero denominator.
    #[error("`{0}` lies outside [0, 1]")]
    Range(String),
    /// A decimal number that is longer than any that is kept exactly.
    #[error("`{text}` has more than nine decimal places")]
    Places {
        /// As written.
        text: String,
        /// The 255ths that it stands for, if it is near a small number of them.
        near: Option<u32>,
    },
    /// A decimal number that stands for 255ths but is not equal to them: a radius of its own, with which no run of the paper's
    /// radii would be compared.
    #[error("`{text}` is nearly {near}/255 but another radius")]
    Rounded {
        /// As written.
        text: String,
        /// The 255ths that it stands for.
        near: u32,
        /// What it is exactly.
        exact: Epsilon,
    },
}

impl ParseEpsilonError {
    /// Returns what to write instead, where that can be told.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Places { near: Some(near), .. } => Some(format!("write {near}/255")),
            Self::Rounded { near, exact, .. } => {
                Some(format!("write {near}/255, or {exact} where just that is meant"))
            }
            _ => None,
        }
    }
}

/// Most decimal places that are kept.
const PLACES: usize = 9;

/// How near a decimal number lies to 255ths that it stands for: a few of them written to four places.
const NEAR: f64 = 1e-4;

/// Most 255ths that decimal numbers are taken to stand for; the paper's largest radius is 16/255.
const MOST_NEAR: f64 = 32.0;

impl Epsilon {
    /// No perturbation.
    pub const ZERO: Self = Self { numerator: 0, denominator: 1 };

    /// Returns `numerator / denominator`, or `None` outside [0, 1].
    pub const fn new(numerator: u32, denominator: u32) -> Option<Self> {
        if denominator == 0 || numerator > denominator {
            return None;
        }
        let divisor = greatest_common_divisor(numerator, denominator);
        Some(Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    /// Returns `count / 255`, at most 1.
    pub const fn from_255ths(count: u8) -> Self {
        match Self::new(count as u32, 255) {
            Some(epsilon) => epsilon,
            None => Self::ZERO,
        }
    }

    /// Returns the radius as a number in [0, 1], rounded once.
    pub fn value(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// Returns whether there is no perturbation at all.
    pub const fn is_zero(self) -> bool {
        self.numerator == 0
    }

    /// Returns the numerator and denominator as printed: in 255ths where that is exact, reduced otherwise.
    pub const fn fraction(self) -> (u32, u32) {
        match self.in_255ths() {
            Some(count) => (count, 255),
            None => (self.numerator, self.denominator),
        }
    }

    /// Returns the whole number of 255ths, if it is one.
    pub const fn in_255ths(self) -> Option<u32> {
        if 255 % self.denominator == 0 { Some(self.numerator * (255 / self.denominator)) } else { None }
    }

    /// Returns every multiple of 1/255 from 0 to this radius, and the radius itself where it lies between two.
    pub fn grid(self) -> Vec<Self> {
        let whole = u64::from(self.numerator) * 255 / u64::from(self.denominator);
        let mut points: Vec<Self> = (0..=whole as u8).map(Self::from_255ths).collect();
        if points.last() != Some(&self) {
            points.push(self);
        }
        points
    }
}

const fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Ord for Epsilon {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u64::from(self.numerator) * u64::from(other.denominator);
        left.cmp(&(u64::from(other.numerator) * u64::from(self.denominator)))
    }
}

impl PartialOrd for Epsilon {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fraction() {
            (0, _) => formatter.pad("0"),
            (numerator, denominator) => formatter.pad(&format!("{numerator}/{denominator}")),
        }
    }
}

impl FromStr for Epsilon {
    type Err = ParseEpsilonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || ParseEpsilonError::Syntax(text.to_owned());
        let trimmed = text.trim();
        if trimmed.starts_with('-') {
            return Err(ParseEpsilonError::Range(text.to_owned()));
        }
        let Some((numerator, denominator)) = trimmed.split_once('/') else { return decimal(text) };
        let (numerator, denominator) =
            (digits(numerator).ok_or_else(syntax)?, digits(denominator).ok_or_else(syntax)?);
        Self::new(numerator, denominator).ok_or_else(|| ParseEpsilonError::Range(text.to_owned()))
    }
}

fn digits(text: &str) -> Option<u32> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Reads a plain decimal number with at most nine places as an exact fraction.
fn decimal(text: &str) -> Result<Epsilon, ParseEpsilonError> {
    let trimmed = text.trim();
    let (whole, places) = trimmed.split_once('.').unwrap_or((trimmed, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(places) {
        return Err(ParseEpsilonError::Syntax(text.to_owned()));
    }
    let near = trimmed.parse().ok().and_then(near_255ths);
    if places.len() > PLACES {
        return Err(ParseEpsilonError::Places { text: text.to_owned(), near });
    }
    let exact = exactly(whole, places).ok_or_else(|| ParseEpsilonError::Range(text.to_owned()))?;
    match near {
        Some(near) if exact.in_255ths() != Some(near) => {
            Err(ParseEpsilonError::Rounded { text: text.to_owned(), near, exact })
        }
        _ => Ok(exact),
    }
}

/// Returns `whole.places`, unless it is above 1.
fn exactly(whole: &str, places: &str) -> Option<Epsilon> {
    let denominator = 10_u32.checked_pow(places.len() as u32)?;
    let numerator = digits(whole)?.checked_mul(denominator)?.checked_add(digits(places)?)?;
    Epsilon::new(numerator, denominator)
}

/// Returns how many 255ths a number stands for, if it lies near a small number of them.
fn near_255ths(value: f64) -> Option<u32> {
    let count = (value * 255.0).round();
    let is_near = (value - count / 255.0).abs() < NEAR && (1.0..=MOST_NEAR).contains(&count);
    is_near.then_some(count as u32)
}

impl Serialize for Epsilon {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epsilon {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_and_what_they_mean() {
        let cases = [
            ("4/255", Some((4, 255))),
            (" 8 / 255 ", Some((8, 255))),
            ("0", Some((0, 255))),
            ("0.0", Some((0, 255))),
        ];
        for (text, fraction) in cases {
            assert_eq!(text.parse::<Epsilon>().ok().map(Epsilon::fraction), fraction, "{text}");
        }
        assert_eq!("0.5".parse::<Epsilon>().map(Epsilon::fraction), Ok((1, 2)));
        assert_eq!("1".parse::<Epsilon>().map(Epsilon::fraction), Ok((255, 255)));
        for text in ["", "x", "4/", "/255", "4/255/2", "1e-2", "+1/2", "٤/255", ".5/1"] {
            assert!(matches!(text.parse::<Epsilon>(), Err(ParseEpsilonError::Syntax(_))), "{text}");
        }
        for text in ["-1/255", "256/255", "1.5", "1/0"] {
            assert!(matches!(text.parse::<Epsilon>(), Err(ParseEpsilonError::Range(_))), "{text}");
        }
    }

    #[test]
    fn decimal_numbers_that_stand_for_255ths_are_refused_and_others_are_not() {
        for (text, hint) in [
            ("0.0157", Some("write 4/255, or 157/10000 where just that is meant")),
            ("0.0314", Some("write 8/255, or 157/5000 where just that is meant")),
            ("0.004", Some("write 1/255, or 1/250 where just that is meant")),
            ("0.01568627450980392", Some("write 4/255")),
            ("0.12345678901", None),
        ] {
            assert_eq!(text.parse::<Epsilon>().unwrap_err().hint().as_deref(), hint, "{text}");
        }
        let long = "0.01568627450980392".parse::<Epsilon>().unwrap_err().to_string();
        assert_eq!(long, "`0.01568627450980392` has more than nine decimal places");
        let own =
            ["0.5", "0.25", "0.2", "0.125", "0.1", "0.09", "0.05", "0.03", "0.02", "0.01", "0.001", "0"];
        for text in own.into_iter().chain(["1/64", "157/10000", "0.015"]) {
            assert!(text.parse::<Epsilon>().is_ok(), "{text}");
        }
    }

    #[test]
    fn the_grid_has_every_255th_and_the_end() {
        let grid = Epsilon::from_255ths(2).grid();
        assert_eq!(grid.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0", "1/255", "2/255"]);
        let between: Epsilon = "0.01".parse().unwrap();
        assert_eq!(between.grid().len(), 4);
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(denominator in 1_u32..100_000, part in 0.0..=1.0_f64) {
            let epsilon = Epsilon::new((f64::from(denominator) * part) as u32, denominator).unwrap();
            prop_assert_eq!(epsilon.to_string().parse::<Epsilon>(), Ok(epsilon));
        }

        #[test]
        fn order_agrees_with_value(a in 0_u32..500, b in 0_u32..500) {
            let (a, b) = (Epsilon::new(a, 500).unwrap(), Epsilon::new(b, 500).unwrap());
            prop_assert_eq!(a.cmp(&b), a.value().total_cmp(&b.value()));
        }
    }
}

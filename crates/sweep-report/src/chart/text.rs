//! How long texts are: measured in DejaVu Sans, which the figures' pixels are set in and which is wider than the fonts that
//! browsers choose, so that what fits here fits there.

use std::sync::LazyLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider as _};

use super::WIDTH;

/// Size of labels, in units.
pub(crate) const SMALL: u32 = 11;
/// Size of panel titles.
pub(crate) const NORMAL: u32 = 12;
/// Room for a line of text in a panel.
pub(crate) const ROOM: f64 = WIDTH as f64 - 16.0;

/// The families that a figure asks for, the one that its texts are measured in first.
pub(crate) const FAMILIES: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";

/// Advances of letters, in parts of the size: of labels, which are set in regular letters, and of titles, which are bold.
static LABELS: LazyLock<Option<Vec<f64>>> = LazyLock::new(|| advances(dejavu::sans::regular()));
static TITLES: LazyLock<Option<Vec<f64>>> = LazyLock::new(|| advances(dejavu::sans::bold()));

/// Letters that are measured; the others are taken to be wide.
const MEASURED: u32 = 0x250;

fn advances(font: &[u8]) -> Option<Vec<f64>> {
    let font = FontRef::new(font).ok()?;
    let metrics = font.glyph_metrics(Size::new(1.0), LocationRef::default());
    let letters = font.charmap();
    let advance = |code: u32| letters.map(code).and_then(|glyph| metrics.advance_width(glyph));
    Some((0..MEASURED).map(|code| advance(code).map_or(WIDE, f64::from)).collect())
}

/// Advance of a letter that is not measured.
const WIDE: f64 = 1.0;

/// Returns the width of a text of a size, in the size's unit: of bold letters from [`NORMAL`] on.
pub(crate) fn width(text: &str, size: u32) -> f64 {
    let table = if size < NORMAL { &LABELS } else { &TITLES };
    let advance =
        |letter: char| table.as_ref().and_then(|table| table.get(letter as usize)).copied().unwrap_or(WIDE);
    text.chars().map(advance).sum::<f64>() * f64::from(size)
}

/// Returns the text, or its beginning and end around an ellipsis where it is wider than `room`: names of one kind often begin
/// alike, and titles end with what tells panels apart.
pub(crate) fn fitted(text: &str, size: u32, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let letters: Vec<char> = text.chars().collect();
    let shown = |kept: usize| -> String {
        let head = kept * 2 / 5;
        let (head, tail) = (&letters[..head], &letters[letters.len() - (kept - head)..]);
        head.iter().chain(&['…']).chain(tail).collect()
    };
    let fits = |text: &String| width(text, size) <= room;
    (0..letters.len()).rev().map(shown).find(fits).unwrap_or_default()
}

/// Joins texts with commas into lines of small print that fit a panel.
pub(crate) fn in_lines(texts: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for text in texts {
        let joined = lines.last().map(|line| format!("{line}, {text}"));
        match (lines.last_mut(), joined) {
            (Some(line), Some(joined)) if width(&joined, SMALL) <= ROOM => *line = joined,
            _ => lines.push(text.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        // DejaVu Sans: 2,048 units an em; digits advance 1,303 of them, bold ones 1,425.
        assert!((width("0", NORMAL) - 1425.0 / 2048.0 * f64::from(NORMAL)).abs() < ROUNDING);
        assert!((width("0", SMALL) - 1303.0 / 2048.0 * f64::from(SMALL)).abs() < ROUNDING);
        assert_eq!(width("", 11), 0.0);
        assert!(width("iii", 11) < width("mmm", 11));
    }

    /// Advances are kept in single precision, or in 64ths of the size's unit.
    const ROUNDING: f64 = 0.02 * 12.0;

    proptest! {
        #[test]
        fn fitted_texts_fit(text in any::<String>(), room in 0.0..400.0_f64) {
            let shown = fitted(&text, SMALL, room);
            prop_assert!(width(&shown, SMALL) <= room);
            prop_assert!(shown == text || shown.is_empty() || shown.contains('…'));
        }
    }
}

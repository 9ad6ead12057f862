//! How long texts are: measured in DejaVu Sans, which the figures' pixels are set in and which is wider than the fonts that
//! browsers choose, so that what fits here fits there.

use std::sync::LazyLock;

use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider as _};

/// Size of labels, in units.
pub(crate) const SMALL: u32 = 11;
/// Size of panel titles.
pub(crate) const NORMAL: u32 = 12;

/// The families that a figure asks for, the one that its texts are measured in first.
pub(crate) const FAMILIES: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";

/// Advance of the letters up to U+024F as parts of the size, and of all others: wide enough for nearly every letter.
static ADVANCES: LazyLock<Option<Vec<f64>>> = LazyLock::new(|| {
    let font = FontRef::new(dejavu::sans::bold()).ok()?;
    let metrics = font.glyph_metrics(Size::new(1.0), LocationRef::default());
    let letters = font.charmap();
    let advance = |code: u32| letters.map(code).and_then(|glyph| metrics.advance_width(glyph));
    Some((0..0x250).map(|code| advance(code).map_or(WIDE, f64::from)).collect())
});

/// Advance of a letter that the table does not hold.
const WIDE: f64 = 1.0;

/// Returns the width of a text, in units of `size`; that of bold letters, which are the wider ones.
pub(crate) fn width(text: &str, size: u32) -> f64 {
    let advance = |letter: char| {
        ADVANCES.as_ref().and_then(|table| table.get(letter as usize)).copied().unwrap_or(WIDE)
    };
    text.chars().map(advance).sum::<f64>() * f64::from(size)
}

/// Returns the text, or its beginning with an ellipsis where it is wider than `room`.
pub(crate) fn fitted(text: &str, size: u32, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept: String = text.to_owned();
    while kept.pop().is_some() {
        let shown = format!("{}…", kept.trim_end());
        if width(&shown, size) <= room {
            return shown;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn widths_are_those_of_the_font() {
        // DejaVu Sans Bold: 2,048 units an em; digits advance 1,425 of them.
        assert!((width("0", 2048) - 1425.0).abs() < 1.0);
        assert_eq!(width("", 11), 0.0);
        assert!(width("iii", 11) < width("mmm", 11));
    }

    proptest! {
        #[test]
        fn fitted_texts_fit(text in any::<String>(), room in 0.0..400.0_f64) {
            let shown = fitted(&text, SMALL, room);
            prop_assert!(width(&shown, SMALL) <= room);
            prop_assert!(shown == text || shown.is_empty() || shown.ends_with('…'));
        }
    }
}

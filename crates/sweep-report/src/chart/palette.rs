//! Colours, dashes and markers: one table for the page, the figures' files and the legend.

use plotters::style::RGBColor;

/// A colour on a light and on a dark page.
struct Tone {
    /// Name of the CSS variable.
    name: &'static str,
    light: RGBColor,
    dark: RGBColor,
}

const fn tone(name: &'static str, light: [u8; 3], dark: [u8; 3]) -> Tone {
    Tone { name, light: RGBColor(light[0], light[1], light[2]), dark: RGBColor(dark[0], dark[1], dark[2]) }
}

/// Text and axes.
pub(crate) const INK: RGBColor = TONES[0].light;
/// Lesser text.
pub(crate) const FAINT: RGBColor = TONES[1].light;
/// Grid lines.
pub(crate) const GRID: RGBColor = TONES[2].light;
/// The background.
pub(crate) const PAPER: RGBColor = TONES[3].light;

/// Number of colours of series.
pub(crate) const CURVES: usize = 8;

/// First the roles above, then the series: the colours of Okabe and Ito, which people with any of the common colour
/// blindnesses tell apart, the lightest last. On a dark page the two darkest are lighter.
const TONES: [Tone; 4 + CURVES] = [
    tone("ink", [0x1a, 0x1d, 0x21], [0xe8, 0xea, 0xed]),
    tone("faint", [0x59, 0x61, 0x6b], [0xa4, 0xac, 0xb6]),
    tone("grid", [0xdf, 0xe2, 0xe6], [0x3a, 0x3f, 0x46]),
    tone("paper", [0xff, 0xff, 0xff], [0x15, 0x18, 0x1c]),
    tone("curve-0", [0x00, 0x72, 0xb2], [0x4b, 0xa3, 0xe3]),
    tone("curve-1", [0xd5, 0x5e, 0x00], [0xf0, 0x7a, 0x1f]),
    tone("curve-2", [0x00, 0x9e, 0x73], [0x1f, 0xba, 0x8d]),
    tone("curve-3", [0xcc, 0x79, 0xa7], [0xdd, 0x93, 0xbb]),
    tone("curve-4", [0xe6, 0x9f, 0x00], [0xe6, 0x9f, 0x00]),
    tone("curve-5", [0x56, 0xb4, 0xe9], [0x8a, 0xcd, 0xf2]),
    tone("curve-6", [0x00, 0x00, 0x00], [0xff, 0xff, 0xff]),
    tone("curve-7", [0xb3, 0xa4, 0x00], [0xf0, 0xe4, 0x42]),
];

/// Lengths of strokes and gaps.
const DASHES: [&str; 6] = ["", "6 3", "2 2", "8 3 2 3", "4 2", "1 3"];

/// Returns the colour of a series.
pub(crate) const fn curve(index: usize) -> RGBColor {
    TONES[4 + index % CURVES].light
}

/// Returns a dash as `stroke-dasharray` takes it; empty for a solid line.
pub(crate) const fn dash(index: usize) -> &'static str {
    DASHES[index % DASHES.len()]
}

/// Returns the name of the CSS variable that holds a colour of the table.
pub(crate) fn variable(colour: (u8, u8, u8)) -> Option<&'static str> {
    let found = TONES.iter().find(|tone| (tone.light.0, tone.light.1, tone.light.2) == colour);
    found.map(|tone| tone.name)
}

/// Returns the CSS variables of a light page, or of a dark one: `--ink`, `--faint`, `--grid`, `--paper`, and `--curve-0` to
/// `--curve-7` for series.
pub fn stylesheet(is_dark: bool) -> String {
    let variable = |tone: &Tone| {
        let RGBColor(red, green, blue) = if is_dark { tone.dark } else { tone.light };
        format!("--{}:#{red:02x}{green:02x}{blue:02x};", tone.name)
    };
    TONES.iter().map(variable).collect()
}

/// Colours of a heat map from least to most: corners of cividis, a scale whose lightness grows evenly and which reads the
/// same with and without colour blindness (Nuñez, Anderton and Renslow 2018).
const HEAT: [[f64; 3]; 5] = [
    [0.0, 34.0, 78.0],
    [66.0, 78.0, 108.0],
    [125.0, 124.0, 121.0],
    [187.0, 174.0, 109.0],
    [254.0, 232.0, 56.0],
];

/// Returns the colour of `part`, in [0, 1], of a heat map, and whether text on it must be dark.
pub(crate) fn heat(part: f64) -> (RGBColor, bool) {
    let place = part.clamp(0.0, 1.0) * (HEAT.len() - 1) as f64;
    let left = (place as usize).min(HEAT.len() - 2);
    let mix = |channel: usize| {
        let (from, to) = (HEAT[left][channel], HEAT[left + 1][channel]);
        ((to - from).mul_add(place - left as f64, from)).round() as u8
    };
    (RGBColor(mix(0), mix(1), mix(2)), part > 0.5)
}

/// Returns the rules of the classes `heat-0` to `heat-N`, N being `steps` and at least 1: background and text of a table's
/// cell from least to most, and of a shape its fill. They are the same on a light and on a dark page.
pub fn heat_rules(steps: u32) -> String {
    let rule = |step: u32| {
        let (RGBColor(red, green, blue), is_dark) = heat(f64::from(step) / f64::from(steps.max(1)));
        let (colour, text) =
            (format!("#{red:02x}{green:02x}{blue:02x}"), if is_dark { "#000" } else { "#fff" });
        format!(".heat-{step}{{background:{colour};fill:{colour};color:{text}}}")
    };
    (0..=steps.max(1)).map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, as the Web Content Accessibility Guidelines define it.
    fn luminance(colour: RGBColor) -> f64 {
        let linear = |channel: u8| {
            let part = f64::from(channel) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(colour.0) + 0.7152 * linear(colour.1) + 0.0722 * linear(colour.2)
    }

    fn contrast(one: RGBColor, other: RGBColor) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn text_and_curves_stand_out_on_both_pages() {
        // The guidelines ask 4.5 of text. They ask 3 of graphics; four of Okabe and Ito's colours have less on white, which
        // is why no curve is told by its colour alone.
        for (index, tone) in TONES.iter().enumerate().filter(|(index, _)| *index != 2 && *index != 3) {
            let least = if index < 2 { 4.5 } else { 2.0 };
            assert!(contrast(tone.light, TONES[3].light) >= least, "{} on light", tone.name);
            assert!(contrast(tone.dark, TONES[3].dark) >= least, "{} on dark", tone.name);
        }
    }

    #[test]
    fn numbers_are_legible_on_every_cell_of_a_heat_map() {
        for step in 0..=100 {
            let (colour, is_dark) = heat(f64::from(step) / 100.0);
            let text = if is_dark { RGBColor(0, 0, 0) } else { RGBColor(255, 255, 255) };
            assert!(contrast(colour, text) >= 4.0, "{step} %");
        }
    }

    #[test]
    fn every_colour_of_a_series_has_a_variable_of_its_own() {
        let names: std::collections::BTreeSet<_> = (0..CURVES)
            .map(|index| {
                let colour = curve(index);
                variable((colour.0, colour.1, colour.2))
            })
            .collect();
        assert_eq!(names.len(), CURVES);
        assert!(!names.contains(&None));
    }
}

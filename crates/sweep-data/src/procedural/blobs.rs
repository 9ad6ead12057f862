//! Arrangements of coloured blobs: one large with several small ones, told apart by both hues and by the layout.

use std::f64::consts::{PI, TAU};

use sweep_core::random::Stream;

use super::canvas::{Canvas, colour, place};
use super::figures::{Point, disc};
use crate::trigonometry::{cos, sin};

pub(super) const CLASSES: [&str; 12] = [
    "red, green around",
    "red, green in line",
    "red, blue around",
    "red, blue in line",
    "green, red around",
    "green, red in line",
    "green, blue around",
    "green, blue in line",
    "blue, red around",
    "blue, red in line",
    "blue, green around",
    "blue, green in line",
];

/// Where the small blobs lie.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// Around the large one.
    Around,
    /// In a straight line beside it.
    Line,
}

const THIRD: f64 = TAU / 3.0;
const HUES: [[f64; 2]; 6] = [
    [0.0, THIRD],
    [0.0, 2.0 * THIRD],
    [THIRD, 0.0],
    [THIRD, 2.0 * THIRD],
    [2.0 * THIRD, 0.0],
    [2.0 * THIRD, THIRD],
];

/// Draws one of [`CLASSES`].
pub(super) fn draw(canvas: &mut Canvas, stream: &mut Stream, class: usize) {
    let layout = if class.is_multiple_of(2) { Layout::Around } else { Layout::Line };
    draw_blobs(canvas, stream, HUES[class / 2], layout);
}

/// Draws a large blob of the first hue and small ones of the second.
pub(super) fn draw_blobs(canvas: &mut Canvas, stream: &mut Stream, hues: [f64; 2], layout: Layout) {
    let ground = colour(stream.between(0.3, 0.7), stream.between(0.0, 0.08), stream.between(0.0, TAU));
    canvas.background(ground, stream);
    canvas.clutter(ground, 4, stream);
    let chroma = stream.between(0.06, 0.35);
    let brightness = ground.iter().sum::<f64>() / 3.0;
    let inks = hues.map(|hue| {
        let shade = (brightness + stream.between(-0.15, 0.15)).clamp(0.25, 0.75);
        colour(shade, chroma * stream.between(0.8, 1.2), hue + stream.between(-0.3, 0.3))
    });
    let large = stream.between(0.26, 0.38);
    let small = stream.between(0.11, 0.17);
    let middle = place(stream, 0.25);
    let around = |[x, y]: Point| [middle[0] + x, middle[1] + y];
    let (large_spot, small_spots) = spots(stream, layout, large + small);
    for spot in small_spots.into_iter().map(around) {
        canvas.paint(inks[1], 1.0, |point| disc(point, spot, small));
    }
    canvas.paint(inks[0], 1.0, |point| disc(point, around(large_spot), large));
}

/// Returns the places of the large blob and of the small ones, which touch it when their centres are `gap` away.
fn spots(stream: &mut Stream, layout: Layout, gap: f64) -> (Point, Vec<Point>) {
    let turn = stream.between(-PI, PI);
    let turned = |[x, y]: Point| [x * cos(turn) - y * sin(turn), x * sin(turn) + y * cos(turn)];
    let gap = gap + stream.between(0.04, 0.14);
    let count = 4 + stream.below(2);
    let shake = |stream: &mut Stream| stream.between(-0.04, 0.04);
    let large = match layout {
        Layout::Around => [0.0; 2],
        Layout::Line => [0.0, -gap / 2.0],
    };
    let spot = |number: u64| match layout {
        Layout::Around => {
            let angle = TAU * number as f64 / count as f64;
            [gap * cos(angle) + shake(stream), gap * sin(angle) + shake(stream)]
        }
        Layout::Line => {
            let along = (number as f64 - (count as f64 - 1.0) / 2.0) * 0.36;
            [along + shake(stream), gap / 2.0 + shake(stream)]
        }
    };
    let small: Vec<Point> = (0..count).map(spot).collect();
    (turned(large), small.into_iter().map(turned).collect())
}

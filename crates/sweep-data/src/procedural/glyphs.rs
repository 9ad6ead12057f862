//! Glyph-like figures of a few strokes, drawn with an unsteady hand. No glyph is the mirror image of another.

use sweep_core::random::Stream;

use super::canvas::{Canvas, pair};
use super::figures::{Point, Pose, polyline};

pub(super) const CLASSES: [&str; 12] =
    ["arch", "fork", "zigzag", "ladder", "hook", "saltire", "gate", "wave", "spear", "chair", "kite", "comb"];

/// Strokes through their corners, in -1..1.
pub(super) type Glyph = &'static [&'static [Point]];

const GLYPHS: [Glyph; 12] = [
    &[&[[-0.7, 0.9], [-0.7, -0.3], [0.0, -0.9], [0.7, -0.3], [0.7, 0.9]]],
    &[&[[0.0, 0.9], [0.0, -0.1], [-0.7, -0.9]], &[[0.0, -0.1], [0.7, -0.9]]],
    &[&[[-0.7, -0.8], [0.7, -0.8], [-0.7, 0.8], [0.7, 0.8]]],
    &[
        &[[-0.5, -0.9], [-0.5, 0.9]],
        &[[0.5, -0.9], [0.5, 0.9]],
        &[[-0.5, -0.35], [0.5, -0.35]],
        &[[-0.5, 0.35], [0.5, 0.35]],
    ],
    &[&[[0.5, -0.9], [0.5, 0.5], [0.0, 0.9], [-0.6, 0.5]]],
    &[&[[-0.7, -0.8], [0.7, 0.8]], &[[0.7, -0.8], [-0.7, 0.8]]],
    &[&[[-0.7, 0.9], [-0.7, -0.8], [0.7, -0.8], [0.7, 0.9]], &[[0.0, -0.8], [0.0, 0.9]]],
    &[&[[-0.9, 0.5], [-0.45, -0.6], [0.0, 0.5], [0.45, -0.6], [0.9, 0.5]]],
    &[&[[0.0, 0.9], [0.0, -0.9]], &[[-0.6, -0.3], [0.0, -0.9], [0.6, -0.3]]],
    &[&[[-0.6, -0.9], [-0.6, 0.9]], &[[-0.6, 0.1], [0.6, 0.1], [0.6, 0.9]]],
    &[&[[0.0, -0.9], [0.6, -0.2], [0.0, 0.4], [-0.6, -0.2], [0.0, -0.9]], &[[0.0, 0.4], [0.0, 0.95]]],
    &[
        &[[-0.6, -0.9], [-0.6, 0.9]],
        &[[-0.6, -0.8], [0.6, -0.8]],
        &[[-0.6, 0.0], [0.6, 0.0]],
        &[[-0.6, 0.8], [0.6, 0.8]],
    ],
];

/// Draws one of [`CLASSES`].
pub(super) fn draw(canvas: &mut Canvas, stream: &mut Stream, class: usize) {
    draw_glyph(canvas, stream, GLYPHS[class]);
}

/// Draws a glyph over a cluttered background.
pub(super) fn draw_glyph(canvas: &mut Canvas, stream: &mut Stream, glyph: Glyph) {
    let contrast = stream.between(0.1, 0.5);
    let (ground, ink) = pair(stream, contrast);
    canvas.background(ground, stream);
    canvas.clutter(ground, 6, stream);
    let pose = Pose::draw(stream, [0.55, 0.85], 0.35);
    let slant = stream.between(-0.25, 0.25);
    let strokes: Vec<Vec<Point>> = glyph.iter().map(|stroke| unsteady(stream, stroke, slant)).collect();
    let half_width = stream.between(0.06, 0.11);
    canvas.paint(ink, 1.0, |point| {
        let nearest =
            |point: Point| strokes.iter().map(|stroke| polyline(point, stroke)).fold(f64::INFINITY, f64::min);
        pose.apply(point, nearest) - half_width
    });
}

fn unsteady(stream: &mut Stream, stroke: &[Point], slant: f64) -> Vec<Point> {
    let mut shake = |coordinate: f64| coordinate + stream.between(-0.14, 0.14);
    stroke.iter().map(|[x, y]| [shake(x + slant * y), shake(*y)]).collect()
}

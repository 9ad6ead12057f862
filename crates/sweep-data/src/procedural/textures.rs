//! Gratings and their mixtures. Tilts count up to a mirror image, because training flips images.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, FRAC_PI_6, TAU};

use sweep_core::random::Stream;

use super::canvas::{Canvas, Wave, add, pair, place, tint};
use super::figures::length;
use crate::trigonometry::{cos, sin};

pub(super) const CLASSES: [&str; 12] = [
    "upright, coarse",
    "upright, fine",
    "steep, coarse",
    "steep, fine",
    "flat, coarse",
    "flat, fine",
    "level, coarse",
    "level, fine",
    "grid",
    "lattice",
    "rings",
    "rays",
];

/// A pattern that covers the picture.
#[derive(Clone, Copy)]
pub(super) enum Texture {
    /// One wave; its tilt from the upright (radians) and cycles across the picture.
    Grating(f64, f64),
    /// Two crossed waves; the tilt of one of them.
    Plaid(f64),
    Rings,
    Rays,
}

pub(super) const COARSE: f64 = 3.0;
pub(super) const FINE: f64 = 6.0;
const TILTS: [f64; 4] = [0.0, FRAC_PI_6, 2.0 * FRAC_PI_6, FRAC_PI_2];

/// Draws one of [`CLASSES`].
pub(super) fn draw(canvas: &mut Canvas, stream: &mut Stream, class: usize) {
    let texture = match class {
        8 => Texture::Plaid(0.0),
        9 => Texture::Plaid(FRAC_PI_4),
        10 => Texture::Rings,
        11 => Texture::Rays,
        grating => Texture::Grating(TILTS[grating / 2], if grating % 2 == 0 { COARSE } else { FINE }),
    };
    draw_texture(canvas, stream, texture);
}

/// Draws a texture over a background.
pub(super) fn draw_texture(canvas: &mut Canvas, stream: &mut Stream, texture: Texture) {
    let (ground, _) = pair(stream, 0.2);
    canvas.background(ground, stream);
    let amplitude = stream.between(0.03, 0.2);
    let tint = tint(stream.between(0.0, 0.6), stream.between(0.0, TAU)).map(|sample| 1.0 + sample);
    let pattern = pattern(stream, texture);
    canvas.change(|point, pixel| add(pixel, tint, amplitude * pattern(point)));
    canvas.clutter(ground, 4, stream);
}

fn pattern(stream: &mut Stream, texture: Texture) -> Box<dyn Fn([f64; 2]) -> f64> {
    let stretch = stream.between(0.88, 1.12);
    let wobble = stream.between(-0.12, 0.12);
    let side = if stream.uniform() < 0.5 { 1.0 } else { -1.0 };
    let mut wave = |cycles: f64, tilt: f64| {
        Wave::new(cycles * stretch, side * tilt + wobble, stream.between(0.0, TAU), 1.0)
    };
    match texture {
        Texture::Grating(tilt, cycles) => {
            let wave = wave(cycles, tilt);
            Box::new(move |point| wave.at(point))
        }
        Texture::Plaid(tilt) => {
            let waves = [wave(COARSE, tilt), wave(COARSE, tilt + FRAC_PI_2)];
            Box::new(move |point| waves[0].at(point) * 0.7 + waves[1].at(point) * 0.7)
        }
        Texture::Rings => rings(stream, stretch),
        Texture::Rays => rays(stream),
    }
}

fn rings(stream: &mut Stream, stretch: f64) -> Box<dyn Fn([f64; 2]) -> f64> {
    let (center, phase) = (place(stream, 0.5), stream.between(0.0, TAU));
    let step = COARSE * stretch * TAU / 2.0;
    Box::new(move |[x, y]| sin(step * length([x - center[0], y - center[1]]) + phase))
}

/// A wheel of four or five spokes: the real part of a power of the direction.
fn rays(stream: &mut Stream) -> Box<dyn Fn([f64; 2]) -> f64> {
    let (center, phase) = (place(stream, 0.5), stream.between(0.0, TAU));
    let spokes = 4 + stream.below(2);
    Box::new(move |[x, y]| {
        let [x, y] = [x - center[0], y - center[1]];
        let radius = length([x, y]).max(1e-9);
        let direction = [x / radius, y / radius];
        let (mut power, times) = ([cos(phase), sin(phase)], |a: [f64; 2], b: [f64; 2]| {
            [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]
        });
        for _ in 0..spokes {
            power = times(power, direction);
        }
        power[0]
    })
}

//! The upstream set: every cue of the downstream families, in other combinations.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, FRAC_PI_6, TAU};

use sweep_core::random::Stream;

use super::blobs::{Layout, draw_blobs};
use super::canvas::Canvas;
use super::details::{Beetle, Marking, draw_beetle};
use super::glyphs::{Glyph, draw_glyph};
use super::shapes::{Shape, draw_shape};
use super::textures::{COARSE, FINE, Texture, draw_texture};

pub(super) const CLASSES: [&str; 20] = [
    "round",
    "triangle",
    "square",
    "star",
    "cross",
    "upright grating",
    "level grating",
    "tilted grating",
    "plaid",
    "rings",
    "yellow with cyan",
    "cyan with magenta",
    "magenta with yellow",
    "red with blue",
    "tee",
    "bend",
    "vee",
    "bridge",
    "striped beetle",
    "spotted beetle",
];

const GLYPHS: [Glyph; 4] = [
    &[&[[-0.7, -0.8], [0.7, -0.8]], &[[0.0, -0.8], [0.0, 0.9]]],
    &[&[[-0.5, -0.9], [-0.5, 0.8], [0.6, 0.8]]],
    &[&[[-0.7, -0.8], [0.0, 0.8], [0.7, -0.8]]],
    &[&[[-0.6, -0.9], [-0.6, 0.9]], &[[0.6, -0.9], [0.6, 0.9]], &[[-0.6, 0.0], [0.6, 0.0]]],
];

/// Hues a sixth of a turn apart: red, yellow, green, cyan, blue, magenta.
const SIXTH: f64 = TAU / 6.0;
const HUES: [[f64; 2]; 4] =
    [[SIXTH, 3.0 * SIXTH], [3.0 * SIXTH, 5.0 * SIXTH], [5.0 * SIXTH, SIXTH], [0.0, 4.0 * SIXTH]];

/// Draws one of [`CLASSES`].
pub(super) fn draw(canvas: &mut Canvas, stream: &mut Stream, class: usize) {
    let coin = stream.uniform() < 0.5;
    match class {
        0 => draw_shape(canvas, stream, if coin { Shape::Circle } else { Shape::Ellipse }, 0.5),
        1..5 => {
            let shape = [Shape::Triangle, Shape::Square, Shape::Star, Shape::Cross][class - 1];
            draw_shape(canvas, stream, shape, 0.5);
        }
        5..10 => draw_texture(canvas, stream, texture(class - 5, coin)),
        10..14 => {
            draw_blobs(canvas, stream, HUES[class - 10], if coin { Layout::Around } else { Layout::Line });
        }
        14..18 => draw_glyph(canvas, stream, GLYPHS[class - 14]),
        _ => {
            let (pointed, forked) = (stream.uniform() < 0.5, stream.uniform() < 0.5);
            let marking = match (class, coin) {
                (18, true) => Marking::OneStripe,
                (18, false) => Marking::TwoStripes,
                _ => Marking::Spots,
            };
            draw_beetle(canvas, stream, Beetle { marking, pointed, forked });
        }
    }
}

fn texture(number: usize, coin: bool) -> Texture {
    let cycles = if coin { COARSE } else { FINE };
    match number {
        0 => Texture::Grating(0.0, cycles),
        1 => Texture::Grating(FRAC_PI_2, cycles),
        2 => Texture::Grating(if coin { FRAC_PI_6 } else { 2.0 * FRAC_PI_6 }, cycles),
        3 => Texture::Plaid(if coin { 0.0 } else { FRAC_PI_4 }),
        _ => Texture::Rings,
    }
}

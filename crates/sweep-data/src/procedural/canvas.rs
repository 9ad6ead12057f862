//! A small picture in linear numbers: backgrounds, figures given by distances, noise.

use std::f64::consts::TAU;

use sweep_core::random::Stream;

use super::figures::{Point, disc, segment};
use crate::trigonometry::{cos, sin};

/// Red, green and blue; [0, 1] is what can be shown.
pub(super) type Colour = [f64; 3];

/// A picture in the making. Coordinates run from -1 to 1, to the right and down.
pub(super) struct Canvas {
    size: usize,
    pixels: Vec<Colour>,
}

impl Canvas {
    pub(super) fn new(size: usize) -> Self {
        Self { size, pixels: vec![[0.0; 3]; size * size] }
    }

    fn point(size: usize, position: usize) -> Point {
        let coordinate = |pixel: usize| (2 * pixel + 1) as f64 / size as f64 - 1.0;
        [coordinate(position % size), coordinate(position / size)]
    }

    /// Replaces every pixel by what `change` makes of its place and colour.
    pub(super) fn change(&mut self, change: impl Fn(Point, Colour) -> Colour) {
        for (position, pixel) in self.pixels.iter_mut().enumerate() {
            *pixel = change(Self::point(self.size, position), *pixel);
        }
    }

    /// Paints the figure whose `distance` (below 0 inside) is given; edges are one pixel soft.
    pub(super) fn paint(&mut self, colour: Colour, opacity: f64, distance: impl Fn(Point) -> f64) {
        let softness = self.size as f64 / 2.0;
        self.change(|point, pixel| {
            let coverage = (0.5 - distance(point) * softness).clamp(0.0, 1.0);
            mix(pixel, colour, coverage * opacity)
        });
    }

    /// Covers everything with `base`, a slope of brightness and slow waves.
    pub(super) fn background(&mut self, base: Colour, stream: &mut Stream) {
        let slope = Wave::draw(stream, 0.1, 0.25, 0.10);
        let waves = [(); 2].map(|()| Wave::draw(stream, 0.5, 1.6, 0.05));
        let tints = [(); 3].map(|()| tint(1.0, stream.between(0.0, TAU)));
        self.change(|point, _| {
            let mut colour =
                add(base, tints[0], 0.3 * slope.at(point)).map(|sample| sample + slope.at(point));
            for (wave, tint) in waves.iter().zip(&tints[1..]) {
                colour = add(colour, *tint, wave.at(point));
            }
            colour
        });
    }

    /// Strews `most` or fewer short strokes and dots about, half transparent, around the colour `base`.
    pub(super) fn clutter(&mut self, base: Colour, most: u64, stream: &mut Stream) {
        for _ in 0..stream.below(most + 1) {
            let from = place(stream, 1.0);
            let towards = stream.between(0.0, TAU);
            let length = stream.between(0.1, 0.5);
            let to = [from[0] + length * cos(towards), from[1] + length * sin(towards)];
            let width = stream.between(0.03, 0.06);
            let colour = near(base, stream.between(-0.25, 0.25), stream);
            if stream.uniform() < 0.5 {
                self.paint(colour, 0.6, |point| segment(point, from, to) - width);
            } else {
                self.paint(colour, 0.6, |point| disc(point, from, 2.0 * width));
            }
        }
    }

    /// Adds grain and rounds to 8 bits.
    pub(super) fn finish(self, stream: &mut Stream) -> Vec<u8> {
        let grain = stream.between(0.01, 0.035);
        let mut noisy = |sample: f64| {
            // A sum of three uniform numbers: nearly normal, with variance one after scaling by 2.
            let draw = (0..3).map(|_| stream.uniform() - 0.5).sum::<f64>() * 2.0;
            ((sample + grain * draw) * 255.0 + 0.5).clamp(0.0, 255.0) as u8
        };
        self.pixels.into_iter().flatten().map(&mut noisy).collect()
    }
}

/// A sine wave across the picture.
pub(super) struct Wave {
    step: Point,
    phase: f64,
    amplitude: f64,
}

impl Wave {
    /// `cycles` are counted across the picture's width; `angle` is that of the wave's direction of travel.
    pub(super) fn new(cycles: f64, angle: f64, phase: f64, amplitude: f64) -> Self {
        let step = cycles * TAU / 2.0;
        Self { step: [step * cos(angle), step * sin(angle)], phase, amplitude }
    }

    fn draw(stream: &mut Stream, slowest: f64, fastest: f64, strongest: f64) -> Self {
        let cycles = stream.between(slowest, fastest);
        let (angle, phase) = (stream.between(0.0, TAU), stream.between(0.0, TAU));
        Self::new(cycles, angle, phase, stream.between(0.0, strongest))
    }

    pub(super) fn at(&self, point: Point) -> f64 {
        self.amplitude * sin(self.step[0] * point[0] + self.step[1] * point[1] + self.phase)
    }
}

/// Returns a place at most `reach` from the centre in either direction.
pub(super) fn place(stream: &mut Stream, reach: f64) -> Point {
    [stream.between(-reach, reach), stream.between(-reach, reach)]
}

fn mix(from: Colour, to: Colour, share: f64) -> Colour {
    std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

/// Returns `colour` plus `amount` times `direction`.
pub(super) fn add(colour: Colour, direction: Colour, amount: f64) -> Colour {
    std::array::from_fn(|channel| colour[channel] + direction[channel] * amount)
}

/// Returns a colour without brightness: `chroma` in the direction of `hue` (radians; 0 is red, a third of a turn green).
pub(super) fn tint(chroma: f64, hue: f64) -> Colour {
    let wheel: Colour = [0.0, 1.0, 2.0].map(|third| cos(hue - third * TAU / 3.0));
    let luma = 0.299 * wheel[0] + 0.587 * wheel[1] + 0.114 * wheel[2];
    wheel.map(|sample| chroma * (sample - luma))
}

/// Returns a grey of `brightness` tinted by `chroma` towards `hue`.
pub(super) fn colour(brightness: f64, chroma: f64, hue: f64) -> Colour {
    tint(chroma, hue).map(|sample| brightness + sample)
}

/// Returns a colour of any hue that is `brighter` than `base` by this much.
pub(super) fn near(base: Colour, brighter: f64, stream: &mut Stream) -> Colour {
    let tint = tint(stream.between(0.0, 0.15), stream.between(0.0, TAU));
    add(base, tint, 1.0).map(|sample| sample + brighter)
}

/// Returns a background colour and a foreground colour whose brightness differs by `contrast`, either way.
pub(super) fn pair(stream: &mut Stream, contrast: f64) -> (Colour, Colour) {
    let middle = stream.between(0.2 + contrast / 2.0, 0.8 - contrast / 2.0);
    let sign = if stream.uniform() < 0.5 { 0.5 } else { -0.5 };
    let mut shade = |brightness| colour(brightness, stream.between(0.0, 0.2), stream.between(0.0, TAU));
    (shade(middle - sign * contrast), shade(middle + sign * contrast))
}

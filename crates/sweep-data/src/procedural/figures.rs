//! Signed distances: how far a point lies outside (above 0) or inside (below 0) a figure.

use std::f64::consts::TAU;

use sweep_core::random::Stream;

use crate::trigonometry::{cos, sin};

/// Right and down.
pub(super) type Point = [f64; 2];

/// Where, how large and how turned a figure is.
pub(super) struct Pose {
    center: Point,
    scale: f64,
    cosine: f64,
    sine: f64,
}

impl Pose {
    pub(super) fn new(center: Point, scale: f64, angle: f64) -> Self {
        Self { center, scale, cosine: cos(angle), sine: sin(angle) }
    }

    /// Draws a pose: `scale` between the two, `turn` at most this far (radians) either way, and a place that keeps a figure
    /// of radius 1 nearly inside the picture.
    pub(super) fn draw(stream: &mut Stream, [least, most]: [f64; 2], turn: f64) -> Self {
        let scale = stream.between(least, most);
        let reach = (1.0 - scale).max(0.0);
        let center = [stream.between(-reach, reach), stream.between(-reach, reach)];
        Self::new(center, scale, stream.between(-turn, turn))
    }

    /// Returns the distance of the posed figure whose distance in its own coordinates is `distance`.
    pub(super) fn apply(&self, point: Point, distance: impl Fn(Point) -> f64) -> f64 {
        let [x, y] = [point[0] - self.center[0], point[1] - self.center[1]];
        let turned = [self.cosine * x + self.sine * y, self.cosine * y - self.sine * x];
        self.scale * distance(turned.map(|coordinate| coordinate / self.scale))
    }
}

pub(super) fn length([x, y]: Point) -> f64 {
    (x * x + y * y).sqrt()
}

fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1]]
}

pub(super) fn disc(point: Point, center: Point, radius: f64) -> f64 {
    length(minus(point, center)) - radius
}

/// Distance to the line from `a` to `b`; never below 0.
pub(super) fn segment(point: Point, a: Point, b: Point) -> f64 {
    let (along, offset) = (minus(b, a), minus(point, a));
    let square = along[0] * along[0] + along[1] * along[1];
    let share = ((offset[0] * along[0] + offset[1] * along[1]) / square.max(1e-12)).clamp(0.0, 1.0);
    length([offset[0] - share * along[0], offset[1] - share * along[1]])
}

/// Distance to a closed polygon; inside is told by counting crossings.
pub(super) fn polygon(point: Point, corners: &[Point]) -> f64 {
    let mut nearest = f64::INFINITY;
    let mut inside = false;
    for (corner, next) in corners.iter().zip(corners.iter().cycle().skip(1)) {
        nearest = nearest.min(segment(point, *corner, *next));
        let between = (corner[1] > point[1]) != (next[1] > point[1]);
        let share = (point[1] - corner[1]) / (next[1] - corner[1]);
        inside ^= between && point[0] < corner[0] + share * (next[0] - corner[0]);
    }
    if inside { -nearest } else { nearest }
}

/// Distance to a polyline; never below 0.
pub(super) fn polyline(point: Point, corners: &[Point]) -> f64 {
    corners.windows(2).map(|ends| segment(point, ends[0], ends[1])).fold(f64::INFINITY, f64::min)
}

/// Distance to an ellipse around the origin, exact at its edge and of the right sign elsewhere.
pub(super) fn ellipse([x, y]: Point, [a, b]: [f64; 2]) -> f64 {
    let level = length([x / a, y / b]);
    let slope = length([x / (a * a), y / (b * b)]);
    if slope < 1e-9 { -a.min(b) } else { level * (level - 1.0) / slope }
}

/// Corners of a figure with `count` corners at distances 1 and `inner` in turn, the first on top.
pub(super) fn star(count: usize, inner: f64) -> Vec<Point> {
    let corner = |number: usize| {
        let angle = number as f64 / count as f64 * TAU;
        let radius = if number.is_multiple_of(2) { 1.0 } else { inner };
        [radius * sin(angle), -radius * cos(angle)]
    };
    (0..count).map(corner).collect()
}

//! Outlines of simple shapes.

use std::f64::consts::{FRAC_PI_4, PI};

use sweep_core::random::Stream;

use super::canvas::{Canvas, pair};
use super::figures::{Point, Pose, disc, ellipse, polygon, star};

pub(super) const CLASSES: [&str; 10] =
    ["circle", "ellipse", "triangle", "square", "bar", "star", "cross", "crescent", "half disc", "arrow"];

/// A shape of radius 1.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Circle,
    Ellipse,
    Triangle,
    Square,
    Bar,
    Star,
    Cross,
    Crescent,
    HalfDisc,
    Arrow,
}

const SHAPES: [Shape; 10] = [
    Shape::Circle,
    Shape::Ellipse,
    Shape::Triangle,
    Shape::Square,
    Shape::Bar,
    Shape::Star,
    Shape::Cross,
    Shape::Crescent,
    Shape::HalfDisc,
    Shape::Arrow,
];

impl Shape {
    fn distance(self) -> Box<dyn Fn(Point) -> f64> {
        let closed = |corners: Vec<Point>| -> Box<dyn Fn(Point) -> f64> {
            Box::new(move |point| polygon(point, &corners))
        };
        match self {
            Self::Circle => Box::new(|point| disc(point, [0.0; 2], 0.9)),
            Self::Ellipse => Box::new(|point| ellipse(point, [1.0, 0.55])),
            Self::Triangle => closed(star(6, 0.5)),
            Self::Square => closed(rectangle(0.75, 0.75)),
            Self::Bar => closed(rectangle(1.0, 0.38)),
            Self::Star => closed(star(10, 0.42)),
            Self::Cross => closed(cross(0.3)),
            Self::Crescent => {
                Box::new(|point| disc(point, [0.0; 2], 0.95).max(-disc(point, [0.5, 0.0], 0.75)))
            }
            Self::HalfDisc => Box::new(|[x, y]| disc([x, y], [0.0, -0.4], 1.0).max(-0.4 - y)),
            Self::Arrow => closed(vec![
                [1.0, 0.0],
                [0.1, -0.8],
                [0.1, -0.3],
                [-0.9, -0.3],
                [-0.9, 0.3],
                [0.1, 0.3],
                [0.1, 0.8],
            ]),
        }
    }
}

fn rectangle(width: f64, height: f64) -> Vec<Point> {
    vec![[-width, -height], [width, -height], [width, height], [-width, height]]
}

fn cross(arm: f64) -> Vec<Point> {
    let quarter = [[arm, -1.0], [arm, -arm], [1.0, -arm]];
    let turn = |[x, y]: Point| [-y, x];
    let mut corners = quarter.to_vec();
    for _ in 0..3 {
        let last = corners.len() - 3;
        let next: Vec<Point> = corners[last..].iter().map(|corner| turn(*corner)).collect();
        corners.extend(next);
    }
    corners
}

/// Draws one of [`CLASSES`].
pub(super) fn draw(canvas: &mut Canvas, stream: &mut Stream, class: usize) {
    draw_shape(canvas, stream, SHAPES[class], 0.0);
}

/// Draws a shape, filled with probability `filled`, otherwise its outline.
pub(super) fn draw_shape(canvas: &mut Canvas, stream: &mut Stream, shape: Shape, filled: f64) {
    let contrast = stream.between(0.12, 0.55);
    let (ground, ink) = pair(stream, contrast);
    canvas.background(ground, stream);
    canvas.clutter(ground, 5, stream);
    let turn = match shape {
        // Turned further, a square would look like itself anyway, and a cross too.
        Shape::Square | Shape::Cross => FRAC_PI_4,
        _ => PI,
    };
    let pose = Pose::draw(stream, [0.5, 0.85], turn);
    let distance = shape.distance();
    let half_width = stream.between(0.06, 0.11);
    let outline = stream.uniform() >= filled;
    canvas.paint(ink, 1.0, |point| {
        let distance = pose.apply(point, &distance);
        if outline { distance.abs() - half_width } else { distance }
    });
}

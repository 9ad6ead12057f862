//! Beetles that differ in small details only: the marking of the back, the head, the tail.

use sweep_core::random::Stream;

use super::canvas::{Canvas, near, pair};
use super::figures::{Point, Pose, disc, ellipse, polygon, segment};

pub(super) const CLASSES: [&str; 12] = [
    "one stripe, round head, plain",
    "one stripe, round head, forked",
    "one stripe, pointed head, plain",
    "one stripe, pointed head, forked",
    "two stripes, round head, plain",
    "two stripes, round head, forked",
    "two stripes, pointed head, plain",
    "two stripes, pointed head, forked",
    "spots, round head, plain",
    "spots, round head, forked",
    "spots, pointed head, plain",
    "spots, pointed head, forked",
];

/// What a back shows.
#[derive(Clone, Copy)]
pub(super) enum Marking {
    OneStripe,
    TwoStripes,
    Spots,
}

/// The details of one kind of beetle.
#[derive(Clone, Copy)]
pub(super) struct Beetle {
    pub(super) marking: Marking,
    pub(super) pointed: bool,
    pub(super) forked: bool,
}

/// Draws one of [`CLASSES`].
pub(super) fn draw(canvas: &mut Canvas, stream: &mut Stream, class: usize) {
    let marking = [Marking::OneStripe, Marking::TwoStripes, Marking::Spots][class / 4];
    draw_beetle(canvas, stream, Beetle { marking, pointed: class / 2 % 2 == 1, forked: class % 2 == 1 });
}

/// Draws a beetle, head up, over a cluttered background.
pub(super) fn draw_beetle(canvas: &mut Canvas, stream: &mut Stream, beetle: Beetle) {
    let contrast = stream.between(0.15, 0.4);
    let (ground, shell) = pair(stream, contrast);
    // The marking is brighter on dark shells and darker on bright ones, so that it can always be seen.
    let brighter = if shell.iter().sum::<f64>() < 1.5 { 1.0 } else { -1.0 };
    let strength = stream.between(0.1, 0.4);
    let ink = near(shell, brighter * strength, stream);
    canvas.background(ground, stream);
    canvas.clutter(ground, 5, stream);
    let pose = Pose::draw(stream, [0.75, 0.95], 0.4);
    let width = stream.between(0.46, 0.56);
    let shift = stream.between(-0.08, 0.08);
    canvas.paint(shell, 1.0, |point| pose.apply(point, |point| body(point, width, beetle)));
    canvas.paint(ink, 1.0, |point| {
        pose.apply(point, |point| {
            marking([point[0], point[1] - shift], beetle.marking).max(back(point, width))
        })
    });
}

fn back([x, y]: Point, width: f64) -> f64 {
    ellipse([x, y - 0.1], [width, 0.65])
}

fn body(point: Point, width: f64, beetle: Beetle) -> f64 {
    let head = if beetle.pointed {
        polygon(point, &[[0.0, -1.05], [0.3, -0.4], [-0.3, -0.4]])
    } else {
        disc(point, [0.0, -0.62], 0.27)
    };
    let tail = if beetle.forked {
        let side = |x: f64| segment(point, [0.12 * x, 0.6], [0.36 * x, 1.0]) - 0.08;
        side(1.0).min(side(-1.0))
    } else {
        f64::INFINITY
    };
    back(point, width).min(head).min(tail)
}

fn marking([x, y]: Point, marking: Marking) -> f64 {
    let stripe = |height: f64| (y - height).abs() - 0.1;
    match marking {
        Marking::OneStripe => stripe(0.1),
        Marking::TwoStripes => stripe(-0.13).min(stripe(0.33)),
        Marking::Spots => disc([x.abs(), y], [0.23, 0.1], 0.14),
    }
}

//! Sine and cosine made of additions and multiplications only, so that they have the same bits on every platform.
//!
//! The standard library calls the platform's mathematics library, whose last bit differs between systems; pixels
//! computed with it would too.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

/// Returns the sine of `angle` (radians, magnitude below 1e6) to within 1e-9.
pub(crate) fn sin(angle: f64) -> f64 {
    let turns = (angle / TAU).round();
    let mut reduced = angle - turns * TAU;
    if reduced > FRAC_PI_2 {
        reduced = PI - reduced;
    } else if reduced < -FRAC_PI_2 {
        reduced = -PI - reduced;
    }
    sine_series(reduced)
}

/// Returns the cosine of `angle`, as [`sin`].
pub(crate) fn cos(angle: f64) -> f64 {
    sin(angle + FRAC_PI_2)
}

/// The Taylor series to the 17th power; on [-pi/2, pi/2] the first term left out is below 5e-14.
fn sine_series(angle: f64) -> f64 {
    let square = angle * angle;
    let mut sum = 0.0;
    let mut power = 17.0;
    while power >= 3.0 {
        sum = -(1.0 + sum) * square / (power * (power - 1.0));
        power -= 2.0;
    }
    angle * (1.0 + sum)
}

#[cfg(test)]
mod tests {
    /// The documented accuracy; the largest angle tested loses digits in the range reduction.
    const TOLERANCE: f64 = 1e-9;

    #[test]
    fn agrees_with_the_standard_library() {
        for step in -20_000..20_000 {
            let angle = f64::from(step) * 0.037;
            assert!((super::sin(angle) - angle.sin()).abs() < TOLERANCE, "sin {angle}");
            assert!((super::cos(angle) - angle.cos()).abs() < TOLERANCE, "cos {angle}");
        }
    }
}

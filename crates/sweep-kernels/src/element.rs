//! The two number types of the crate and the scalar functions whose speed decides that of the layers.
//!
//! The f32 versions are branch-free, so that loops over them vectorise; the f64 versions are there for checking and
//! use the standard library.

use std::ops::Neg;

use candle_core::{CpuStorage, WithDType};

/// A number type that layers compute in: f32 (fast) or f64 (for checking).
pub(crate) trait Element: WithDType + Neg<Output = Self> {
    /// `e^self`; NaN stays NaN. In f32 the argument is clamped to what a normal number can express.
    fn exp(self) -> Self;
    /// `self * factor + term` with one rounding.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Distribution function and density of the standard normal distribution at `self`.
    fn normal(self) -> (Self, Self);
    /// The buffer inside a CPU storage of this dtype.
    fn buffer(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;
}

/// 1 / sqrt(2 pi).
const DENSITY_AT_ZERO: f64 = 0.398_942_280_401_432_7;

impl Element for f32 {
    #[inline(always)]
    fn exp(self) -> Self {
        exp_f32(self)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul_add(factor, term)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        normal_f32(self)
    }

    fn buffer(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        match storage {
            CpuStorage::F32(buffer) => Some(buffer),
            _ => None,
        }
    }
}

impl Element for f64 {
    #[inline(always)]
    fn exp(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul_add(factor, term)
    }

    #[inline(always)]
    fn ln(self) -> Self {
        self.ln()
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        let distribution = 0.5 * candle_core::cpu::erf::erfc_f64(-self * std::f64::consts::FRAC_1_SQRT_2);
        (distribution, DENSITY_AT_ZERO * (-0.5 * self * self).exp())
    }

    fn buffer(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        match storage {
            CpuStorage::F64(buffer) => Some(buffer),
            _ => None,
        }
    }
}

/// The coefficients that the Cephes library's `expf` uses for (e^r - 1 - r) / r² on |r| ≤ ln(2)/2, highest first.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];

/// Adding this to a small f32 leaves its nearest integer in the low bits of the significand.
const ROUND: f32 = 12_582_912.0;

/// Two units in the last place of the true value or better.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    // Beyond these bounds the power of two below is no normal number. `clamp` keeps NaN.
    let x = x.clamp(-87.3, 88.3);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let power = rounded - ROUND;
    // ln(2) in two parts: the first has few enough bits to make the product exact.
    let r = power.mul_add(-0.693_359_4, x);
    let r = power.mul_add(2.121_944_4e-4, r);
    let mut p = EXP[0];
    for coefficient in &EXP[1..] {
        p = p.mul_add(r, *coefficient);
    }
    let mantissa = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3f80_0000));
    mantissa * scale
}

/// See [`normal_f32`].
const TAIL_SCALE: f32 = 0.35;

/// Interpolates Q(a) e^(a²/2) / t at nine Chebyshev nodes of t = 1 / (1 + 0.35 a), a in [0, 14], lowest power first;
/// Q is the upper tail of the standard normal distribution.
const TAIL: [f32; 9] = [
    0.139_618_71,
    0.139_912_3,
    0.119_444_914,
    0.107_114_59,
    -0.027_046_608,
    0.165_051,
    -0.260_961_23,
    0.146_545_83,
    -0.029_679_522,
];

/// The upper tail is approximated to a relative error of 4e-7 (rounding included), the density to 2e-7.
#[inline(always)]
fn normal_f32(x: f32) -> (f32, f32) {
    let a = x.abs();
    let gauss = exp_f32(-0.5 * a * a);
    let t = 1.0 / a.mul_add(TAIL_SCALE, 1.0);
    let mut p = TAIL[8];
    for coefficient in TAIL[..8].iter().rev() {
        p = p.mul_add(t, *coefficient);
    }
    let tail = p * t * gauss;
    let distribution = if x < 0.0 { tail } else { 1.0 - tail };
    (distribution, DENSITY_AT_ZERO as f32 * gauss)
}

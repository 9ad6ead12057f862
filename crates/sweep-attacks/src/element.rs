//! The two number types an attack computes in.

use candle_core::WithDType;

/// f32 or f64. Every operation rounds once, as the reference's element-wise tensor operations do.
pub(crate) trait Element: WithDType {
    /// Distance from 1 to the next larger number: the unit in which rounding of pixels is measured.
    const SPACING_AT_ONE: Self;

    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn is_finite(self) -> bool;
    fn maximum(self, other: Self) -> Self;
    fn minimum(self, other: Self) -> Self;

    /// -1, 0 or 1. Unlike `signum`, zero has sign zero: a vanished gradient moves nothing.
    fn sign(self) -> Self {
        if self > Self::zero() {
            Self::one()
        } else if self < Self::zero() {
            Self::zero() - Self::one()
        } else {
            Self::zero()
        }
    }

    fn magnitude(self) -> Self {
        self.maximum(Self::zero() - self)
    }

    fn clamp_to_unit(self) -> Self {
        self.maximum(Self::zero()).minimum(Self::one())
    }
}

macro_rules! element {
    ($float:ident) => {
        impl Element for $float {
            const SPACING_AT_ONE: Self = $float::EPSILON;

            fn exp(self) -> Self {
                $float::exp(self)
            }
            fn ln(self) -> Self {
                $float::ln(self)
            }
            fn is_finite(self) -> bool {
                $float::is_finite(self)
            }
            // Compiles to one instruction, which `f32::max` with its care for NaN does not; NaN is refused
            // earlier.
            fn maximum(self, other: Self) -> Self {
                if self > other { self } else { other }
            }
            fn minimum(self, other: Self) -> Self {
                if self < other { self } else { other }
            }
        }
    };
}

element!(f32);
element!(f64);

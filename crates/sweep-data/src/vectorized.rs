//! Code compiled for the vector instructions of the machine it runs on.

/// Runs `work` compiled for 256-bit vectors where this processor has them.
///
/// Only what is inlined into `work` profits. The results are those of plain code to the bit: the compiler neither
/// reorders nor contracts floating-point operations.
#[inline]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected just now.
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}

//! Randomness without state: every draw is a pure function of (seed, purpose, epoch, index).
//!
//! Nothing here reads a clock or an operating-system generator. A resumed run asks for the same stream again and
//! gets the same numbers, so no generator state is ever stored.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// What a stream of random numbers is used for; two purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial values of a new head, or of a whole backbone that is trained from scratch.
    Initialization,
    /// The order of the training images of an epoch.
    Shuffle,
    /// The augmentation of one image in one epoch.
    Augmentation,
    /// The starting point of an attack on one image.
    Attack,
    /// The epsilon that a random epsilon schedule draws for an epoch.
    EpsilonSchedule,
    /// Which images of a class form a drawn validation or test split.
    Split,
    /// Stochastic depth in one training step.
    DropPath,
    /// The pixels of a procedural image.
    Procedural,
}

impl Purpose {
    /// A name that never changes: it is hashed into the stream's key.
    const fn name(self) -> &'static str {
        match self {
            Self::Initialization => "initialization",
            Self::Shuffle => "shuffle",
            Self::Augmentation => "augmentation",
            Self::Attack => "attack",
            Self::EpsilonSchedule => "epsilon-schedule",
            Self::Split => "split",
            Self::DropPath => "drop-path",
            Self::Procedural => "procedural",
        }
    }
}

/// A stream of random numbers (ChaCha with 8 rounds, keyed by SHA-256 of its four coordinates).
///
/// ```
/// use sweep_core::random::{Purpose, Stream};
/// let mut first = Stream::new(7, Purpose::Shuffle, 3, 0);
/// let mut again = Stream::new(7, Purpose::Shuffle, 3, 0);
/// assert_eq!(first.uniform().to_bits(), again.uniform().to_bits());
/// ```
#[derive(Clone, Debug)]
pub struct Stream {
    generator: ChaCha8Rng,
}

impl Stream {
    /// Returns the stream of `purpose` for one `epoch` and one `index` (a sample, a parameter, a class; 0 where there
    /// is only one).
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, index: u64) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"sweep random stream 1\0");
        hasher.update(purpose.name().as_bytes());
        for coordinate in [seed, epoch, index] {
            hasher.update(coordinate.to_le_bytes());
        }
        Self { generator: ChaCha8Rng::from_seed(hasher.finalize().into()) }
    }

    /// Returns 64 random bits, for a function that draws from a seed of its own.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Returns a number in [0, 1) with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Returns a number in [`low`, `high`).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Returns an integer in 0..`count` without modulo bias; 0 where `count` is 0.
    pub fn below(&mut self, count: u64) -> u64 {
        if count == 0 {
            return 0;
        }
        let limit = u64::MAX - u64::MAX % count;
        loop {
            let draw = self.generator.next_u64();
            if draw < limit {
                return draw % count;
            }
        }
    }

    /// Returns a standard normal number (Box–Muller, the cosine branch).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Puts `items` in random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_coordinates_differ() {
        let draw = |seed, purpose, epoch, index| Stream::new(seed, purpose, epoch, index).uniform().to_bits();
        let reference = draw(1, Purpose::Shuffle, 2, 3);
        assert_ne!(reference, draw(2, Purpose::Shuffle, 2, 3));
        assert_ne!(reference, draw(1, Purpose::Attack, 2, 3));
        assert_ne!(reference, draw(1, Purpose::Shuffle, 3, 2));
    }

    /// Stored runs depend on these numbers: a change here changes every result.
    #[test]
    fn the_numbers_never_change() {
        let mut stream = Stream::new(0, Purpose::Shuffle, 0, 0);
        let draws: Vec<u64> = (0..4).map(|_| stream.below(1_000_000)).collect();
        insta::assert_debug_snapshot!("the_numbers_never_change", draws);
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..100).collect();
        Stream::new(5, Purpose::Shuffle, 0, 0).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut stream = Stream::new(11, Purpose::Initialization, 0, 0);
        let draws: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        // Five standard errors of each estimate.
        assert!(mean.abs() < 5.0 / (draws.len() as f64).sqrt());
        assert!((variance - 1.0).abs() < 5.0 * (2.0 / draws.len() as f64).sqrt());
    }
}

//! Images drawn by a program: five downstream families and an upstream one, for trials without downloads.
//!
//! An image is a pure function of (family, seed, number, size), with the same bits on every platform: only additions,
//! multiplications, divisions and square roots enter a pixel. Classes take turns (label = number modulo classes), so
//! that every split is balanced. What tells classes apart survives a horizontal flip and varies in position, scale,
//! rotation, colour and contrast; at low contrast an l-infinity attack of a few 1/255 can erase it, which is what
//! makes robustness cost accuracy.

mod blobs;
mod canvas;
mod details;
mod figures;
mod glyphs;
mod shapes;
mod textures;
mod upstream;

use rayon::prelude::*;
use sweep_core::dataset::ProceduralFamily;
use sweep_core::random::{Purpose, Stream};

use crate::error::{Error, Result};
use crate::sha::{FieldHasher, hex, sha256};
use crate::source::{Classes, ImageSource, Record, Sink};
use canvas::Canvas;

/// Raised whenever any family's pixels change.
const FORMAT: u32 = 1;
/// Test images are numbered from here on, so that no number serves both splits.
const FIRST_TEST: u64 = 1 << 32;
/// Images drawn at once.
const CHUNK: u64 = 256;

/// What one family consists of.
struct Family {
    /// A number that never changes: it enters the random stream.
    number: u64,
    name: &'static str,
    class_names: &'static [&'static str],
    draw: fn(&mut Canvas, &mut Stream, usize),
}

const UPSTREAM: Family =
    Family { number: 0, name: "upstream", class_names: &upstream::CLASSES, draw: upstream::draw };
const SHAPES: Family =
    Family { number: 1, name: "shapes", class_names: &shapes::CLASSES, draw: shapes::draw };
const TEXTURES: Family =
    Family { number: 2, name: "textures", class_names: &textures::CLASSES, draw: textures::draw };
const BLOBS: Family = Family { number: 3, name: "blobs", class_names: &blobs::CLASSES, draw: blobs::draw };
const GLYPHS: Family =
    Family { number: 4, name: "glyphs", class_names: &glyphs::CLASSES, draw: glyphs::draw };
const DETAILS: Family =
    Family { number: 5, name: "details", class_names: &details::CLASSES, draw: details::draw };

const fn describe(family: ProceduralFamily) -> &'static Family {
    match family {
        ProceduralFamily::Upstream => &UPSTREAM,
        ProceduralFamily::Shapes => &SHAPES,
        ProceduralFamily::Textures => &TEXTURES,
        ProceduralFamily::Blobs => &BLOBS,
        ProceduralFamily::Glyphs => &GLYPHS,
        ProceduralFamily::Details => &DETAILS,
    }
}

/// Returns the class names of a family, by label.
pub fn class_names(family: ProceduralFamily) -> &'static [&'static str] {
    describe(family).class_names
}

/// Draws image `number` of a family: 8-bit RGB as (size, size, 3), and its label, `number` modulo the number of classes.
///
/// Training images are numbered from 0, test images from 2^32 on. The families are made for sizes around 32 and are
/// drawn at `size` directly, not resized; `size` must be at least 1.
pub fn draw(family: ProceduralFamily, seed: u64, number: u64, size: u32) -> (Vec<u8>, u32) {
    let family = describe(family);
    let label = number % family.class_names.len() as u64;
    let mut stream = Stream::new(seed, Purpose::Procedural, family.number, number);
    let mut canvas = Canvas::new(size as usize);
    (family.draw)(&mut canvas, &mut stream, label as usize);
    (canvas.finish(&mut stream), label as u32)
}

/// Returns what identifies a procedural dataset, in lower-case hexadecimal.
pub(crate) fn digest(family: ProceduralFamily, seed: u64, train: u32, test: u32) -> String {
    let mut hasher = FieldHasher::new("sweep procedural images");
    hasher.field(&FORMAT.to_le_bytes());
    hasher.field(describe(family).name.as_bytes());
    hasher.field(&seed.to_le_bytes());
    for count in [train, test] {
        hasher.field(&count.to_le_bytes());
    }
    hex(&hasher.finish())
}

/// A split of a procedural dataset.
pub(crate) struct ProceduralSplit {
    family: ProceduralFamily,
    seed: u64,
    numbers: Vec<u64>,
    classes: Classes,
}

impl ProceduralSplit {
    /// `split` is `train`, `test`, or `*` for both.
    pub(crate) fn new(
        family: ProceduralFamily,
        seed: u64,
        split: &str,
        train: u32,
        test: u32,
    ) -> Result<Self> {
        let training = 0..u64::from(train);
        let testing = FIRST_TEST..FIRST_TEST + u64::from(test);
        let numbers = match split {
            "train" => training.collect(),
            "test" => testing.collect(),
            "*" => training.chain(testing).collect(),
            _ => {
                let available = vec!["train".to_owned(), "test".to_owned()];
                return Err(Error::UnknownSplit { name: split.to_owned(), available });
            }
        };
        let names = class_names(family).iter().map(|name| (*name).to_owned()).collect();
        Ok(Self { family, seed, numbers, classes: Classes::Listed(names) })
    }

    fn record(&self, number: u64, size: u32) -> Record {
        let (pixels, label) = draw(self.family, self.seed, number, size);
        let digest = sha256(&number.to_le_bytes());
        let (key, _) = digest.split_first_chunk().expect("a digest of 32 bytes is longer than a key");
        Record { pixels, label, key: *key }
    }
}

impl ImageSource for ProceduralSplit {
    fn count(&self) -> u64 {
        self.numbers.len() as u64
    }

    fn classes(&self) -> &Classes {
        &self.classes
    }

    fn read(&self, size: u32, sink: &mut Sink<'_>) -> Result<()> {
        let mut chunks = self.numbers.chunks(CHUNK as usize);
        chunks.try_for_each(|numbers| {
            sink(numbers.par_iter().map(|number| Some(self.record(*number, size))).collect())
        })
    }
}

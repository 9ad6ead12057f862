//! Writes one contact sheet for each procedural family: `cargo run -p sweep-data --example procedural_sheet -- FOLDER`.
//!
//! A row is a class, in the order of its label. Each image is enlarged, so that a person can look at single pixels.

use std::path::Path;

use image::{RgbImage, imageops};
use sweep_core::dataset::ProceduralFamily;
use sweep_data::{draw_procedural, procedural_class_names};

const FAMILIES: [ProceduralFamily; 6] = [
    ProceduralFamily::Upstream,
    ProceduralFamily::Shapes,
    ProceduralFamily::Textures,
    ProceduralFamily::Blobs,
    ProceduralFamily::Glyphs,
    ProceduralFamily::Details,
];
const SIZE: u32 = 32;
const ENLARGED: u32 = 2;
const COLUMNS: u32 = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("give the folder to write to")?;
    std::fs::create_dir_all(&folder)?;
    for family in FAMILIES {
        let name = format!("{family:?}").to_lowercase();
        sheet(family).save(Path::new(&folder).join(format!("{name}.png")))?;
    }
    Ok(())
}

fn sheet(family: ProceduralFamily) -> RgbImage {
    let classes = procedural_class_names(family).len() as u32;
    let cell = SIZE * ENLARGED + 2;
    let mut sheet = RgbImage::new(COLUMNS * cell, classes * cell);
    for (row, column) in (0..classes).flat_map(|row| (0..COLUMNS).map(move |column| (row, column))) {
        let (pixels, _) = draw_procedural(family, 0, u64::from(column * classes + row), SIZE);
        let image = RgbImage::from_raw(SIZE, SIZE, pixels).expect("three bytes a pixel");
        let image = imageops::resize(&image, SIZE * ENLARGED, SIZE * ENLARGED, imageops::FilterType::Nearest);
        imageops::replace(&mut sheet, &image, i64::from(column * cell), i64::from(row * cell));
    }
    sheet
}

//! A picture of a split at a glance: the first image of each class.

use std::io::Cursor;

use image::{ImageFormat, RgbImage};

use crate::dataset::Split;
use crate::error::{Error, Result};

/// Pixels between two images.
const GAP: u32 = 2;
/// Grey between the images, and where a class has none.
const BACKGROUND: [u8; 3] = [128; 3];
/// Most pixels along a side.
const MOST_PIXELS: u32 = 16_384;

/// Returns a PNG file with a grid of `columns` x `rows` images, row by row: the first image of class 0, of class 1, and
/// so on. The cell of a class without images in this split stays grey, and so do those past the last class.
///
/// # Errors
/// No columns or rows, or so many that a side would have more than 16,384 pixels.
pub fn contact_sheet(split: &Split, columns: u32, rows: u32) -> Result<Vec<u8>> {
    let size = split.image_size();
    let (width, height) = (side("columns", columns, size)?, side("rows", rows, size)?);
    let mut sheet = RgbImage::from_pixel(width, height, image::Rgb(BACKGROUND));
    let cells = (columns * rows).min(split.classes());
    for (class, position) in first_of_each(split).into_iter().take(cells as usize).enumerate() {
        let Some(position) = position else { continue };
        let (row, column) = (class as u32 / columns, class as u32 % columns);
        paste(&mut sheet, split.image(position)?, size, (column * (size + GAP), row * (size + GAP)));
    }
    let mut png = Cursor::new(Vec::new());
    let written = sheet.write_to(&mut png, ImageFormat::Png);
    written.map_err(|source| Error::ContactSheet { source: Box::new(source) })?;
    Ok(png.into_inner())
}

/// Returns the pixels along `count` images with gaps between them.
fn side(field: &'static str, count: u32, size: u32) -> Result<u32> {
    let pixels = u64::from(count) * u64::from(size + GAP);
    if count == 0 || pixels > u64::from(MOST_PIXELS) {
        let expected = "at least 1, and at most 16,384 pixels in all";
        return Err(Error::OutOfRange { field, value: f64::from(count), expected });
    }
    Ok(pixels as u32 - GAP)
}

/// Returns the position of the first image of each class.
fn first_of_each(split: &Split) -> Vec<Option<u32>> {
    let mut first = vec![None; split.classes() as usize];
    for (position, label) in (0..).zip(split.labels()) {
        first[label as usize].get_or_insert(position);
    }
    first
}

/// Copies (size, size, 3) `pixels` into the sheet.
fn paste(sheet: &mut RgbImage, pixels: &[u8], size: u32, (left, top): (u32, u32)) {
    for (offset, pixel) in (0..).zip(pixels.as_chunks::<3>().0) {
        sheet.put_pixel(left + offset % size, top + offset / size, image::Rgb(*pixel));
    }
}

//! Small pictures that say which they are.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

use std::io::Cursor;

use image::{ImageFormat, RgbImage};

/// Returns a PNG image of one colour, which depends on `number`.
pub(crate) fn png(number: u32) -> Vec<u8> {
    let [red, green, ..] = number.to_le_bytes();
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(9, 7, image::Rgb([red, green, 99])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

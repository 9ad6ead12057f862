//! Encoded image bytes to 8-bit RGB, by the rules of PIL's `convert("RGB")`.
//!
//! Grey is copied to three channels, palettes are looked up, alpha is dropped (not blended), and of 16-bit samples the
//! high byte is kept. An EXIF orientation is not applied (as in torchvision's `ImageFolder`).

use std::io::Cursor;

use image::{DynamicImage, ImageError, ImageReader};

/// An image of `width` x `height` pixels; `data` is (height, width, 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rgb {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<u8>,
}

/// Decodes a JPEG or PNG image; the format is told by its first bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Rgb, ImageError> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(ImageError::IoError)?;
    let image = reader.decode()?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Rgb { width, height, data: to_rgb8(image) })
}

fn to_rgb8(image: DynamicImage) -> Vec<u8> {
    match image {
        DynamicImage::ImageLuma16(pixels) => high_bytes(pixels.as_raw(), 1),
        DynamicImage::ImageLumaA16(pixels) => high_bytes(pixels.as_raw(), 2),
        DynamicImage::ImageRgb16(pixels) => high_bytes(pixels.as_raw(), 3),
        DynamicImage::ImageRgba16(pixels) => high_bytes(pixels.as_raw(), 4),
        other => other.into_rgb8().into_raw(),
    }
}

/// Keeps the high byte of every colour sample; `channels` is 1 or 2 for grey, 3 or 4 for colour.
fn high_bytes(samples: &[u16], channels: usize) -> Vec<u8> {
    let high = |sample: u16| (sample >> 8) as u8;
    let pixels = samples.chunks_exact(channels);
    if channels < 3 {
        pixels.flat_map(|pixel| [high(pixel[0]); 3]).collect()
    } else {
        pixels.flat_map(|pixel| [high(pixel[0]), high(pixel[1]), high(pixel[2])]).collect()
    }
}

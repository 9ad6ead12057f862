//! Encoded image bytes to 8-bit RGB, by the rules of PIL's `convert("RGB")`.
//!
//! Grey is copied to three channels, palettes are looked up, alpha is dropped (not blended), and of 16-bit samples the
//! high byte is kept. An EXIF orientation is applied only where that is asked for.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits, RgbImage};
use sweep_core::dataset::Exif;

use crate::jpeg::{self, Jpeg};
use crate::resize::resize_square;

/// Most pixels of a picture: twice `PIL.Image.MAX_IMAGE_PIXELS`, from where on Pillow raises `DecompressionBombError`.
pub const MOST_IMAGE_PIXELS: u64 = 178_956_970;

/// Longest side of a picture, in pixels: JPEG's, whose sizes have 16 bits. A longer one is no picture but a line, which
/// would need more memory to resize than to read.
pub const MOST_SIDE: u32 = 65_535;
/// Most bytes of an encoded picture: twice what [`MOST_IMAGE_PIXELS`] have in 8-bit RGB without any compression.
pub const MOST_ENCODED_BYTES: u64 = 1 << 30;
/// Most bytes that a PNG's other chunks (a colour profile, texts) may have when they are unpacked; Pillow's bound too.
const MOST_PNG_EXTRAS: u64 = 64 << 20;

/// Bytes that are not a picture this crate reads.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The first bytes are those of another kind of file.
    #[error("it is not a JPEG, PNG or WebP image")]
    Format,
    /// The picture is larger than any real one, or has no pixels at all; it was refused before memory was taken for it.
    #[error(
        "it has {width} x {height} pixels, expected sides of 1 to {MOST_SIDE} and at most {MOST_IMAGE_PIXELS} pixels in all"
    )]
    Size {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The file is longer than any real picture's.
    #[error("it has more than {MOST_ENCODED_BYTES} bytes")]
    TooLong,
    /// A progressive JPEG paints its picture more often than anybody would wait for.
    #[error("it paints its {width} x {height} pixels {scans} times")]
    Scans {
        /// Scans of the file.
        scans: usize,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The end of a JPEG file is missing; the decoder would fill the rest with grey.
    #[error("its end is missing")]
    Truncated,
    /// Anything else that the decoder of JPEG says.
    #[error(transparent)]
    Jpeg(#[from] jpeg_decoder::Error),
    /// Anything else that the other decoders say.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// An image of `width` x `height` pixels; `data` is (height, width, 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rgb {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) data: Vec<u8>,
}

/// Decodes a JPEG, PNG or WebP image (of an animation, its first picture); the format is told by its first bytes.
pub(crate) fn decode(bytes: &[u8], exif: Exif) -> Result<Rgb, DecodeError> {
    if bytes.len() as u64 > MOST_ENCODED_BYTES {
        return Err(DecodeError::TooLong);
    }
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(ImageError::IoError)?;
    // The pixels' own limit is checked below, before they have memory.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_PNG_EXTRAS);
    reader.limits(limits);
    match reader.format() {
        Some(ImageFormat::Jpeg) => return decode_jpeg(bytes, exif),
        // The decoder takes memory for a row when it is made, and its own refusal does not tell the size.
        Some(ImageFormat::Png) => {
            png_size(bytes).map_or(Ok(()), |[width, height]| check_size(width, height))?;
        }
        Some(ImageFormat::WebP) => {}
        _ => return Err(DecodeError::Format),
    }
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let orientation = match exif {
        Exif::Ignore => Orientation::NoTransforms,
        Exif::Apply => decoder.orientation()?,
    };
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(to_rgb(image))
}

/// Width and height in the first chunk of a PNG file.
fn png_size(bytes: &[u8]) -> Option<[u32; 2]> {
    let header = bytes.get(16..24)?.as_chunks::<4>().0;
    Some([u32::from_be_bytes(header[0]), u32::from_be_bytes(header[1])])
}

/// Refuses sizes that no real picture has.
pub(crate) fn check_size(width: u32, height: u32) -> Result<(), DecodeError> {
    let sides = 1..=MOST_SIDE;
    let pixels = u64::from(width) * u64::from(height);
    if sides.contains(&width) && sides.contains(&height) && pixels <= MOST_IMAGE_PIXELS {
        return Ok(());
    }
    Err(DecodeError::Size { width, height })
}

fn decode_jpeg(bytes: &[u8], exif: Exif) -> Result<Rgb, DecodeError> {
    let Jpeg { image, exif: chunk } = jpeg::decode(bytes)?;
    let orientation = match exif {
        Exif::Ignore => None,
        Exif::Apply => chunk.as_deref().and_then(Orientation::from_exif_chunk),
    };
    let Some(orientation) = orientation else { return Ok(image) };
    let pixels = RgbImage::from_raw(image.width as u32, image.height as u32, image.data);
    let mut image = DynamicImage::from(pixels.ok_or(DecodeError::Format)?);
    image.apply_orientation(orientation);
    Ok(to_rgb(image))
}

fn to_rgb(image: DynamicImage) -> Rgb {
    let (width, height) = (image.width() as usize, image.height() as usize);
    Rgb { width, height, data: to_rgb8(image) }
}

/// Returns a picture as a dataset has it: decoded, resized to `size` x `size` without keeping the aspect ratio (paper, B.2),
/// 8-bit RGB as (size, size, 3).
///
/// Resizing has the bits of Pillow's, and so has decoding for PNG and lossless WebP. For JPEG and lossy WebP the decoders
/// round differently: real pictures differ by a tenth of a level on average, by three at most (`tests/pillow.rs`).
///
/// # Errors
/// Bytes that are no readable picture; `size` must be at least 1.
pub fn decode_square(bytes: &[u8], size: u32, exif: Exif) -> Result<Vec<u8>, DecodeError> {
    Ok(resize_square(&decode(bytes, exif)?, size as usize))
}

fn to_rgb8(image: DynamicImage) -> Vec<u8> {
    let high = |sample: u16| (sample >> 8) as u8;
    match image {
        DynamicImage::ImageLuma8(pixels) => colours::<1, _>(pixels.as_raw(), |sample| sample),
        DynamicImage::ImageLumaA8(pixels) => colours::<2, _>(pixels.as_raw(), |sample| sample),
        DynamicImage::ImageRgba8(pixels) => colours::<4, _>(pixels.as_raw(), |sample| sample),
        DynamicImage::ImageLuma16(pixels) => colours::<1, _>(pixels.as_raw(), high),
        DynamicImage::ImageLumaA16(pixels) => colours::<2, _>(pixels.as_raw(), high),
        DynamicImage::ImageRgb16(pixels) => colours::<3, _>(pixels.as_raw(), high),
        DynamicImage::ImageRgba16(pixels) => colours::<4, _>(pixels.as_raw(), high),
        other => other.into_rgb8().into_raw(),
    }
}

/// Keeps the colours of pixels with `CHANNELS` samples: 1 or 2 for grey, 3 or 4 for colour, the even ones with alpha.
fn colours<const CHANNELS: usize, T: Copy>(samples: &[T], convert: impl Fn(T) -> u8) -> Vec<u8> {
    let (pixels, _) = samples.as_chunks::<CHANNELS>();
    let colour = |pixel: &[T; CHANNELS]| match CHANNELS {
        1 | 2 => [convert(pixel[0]); 3],
        _ => [convert(pixel[0]), convert(pixel[1]), convert(pixel[2])],
    };
    let mut output = vec![0; pixels.len() * 3];
    for (output, pixel) in output.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
        *output = colour(pixel);
    }
    output
}

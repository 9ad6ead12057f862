//! JPEG to 8-bit RGB as close to libjpeg-turbo, which Pillow reads with, as a decoder in Rust comes: smooth upsampling of
//! chroma and full-precision colours. What is left are single levels from the rounding of the inverse transform. The
//! decoder's portable code is used, not that for some processors: it is closer, and the same bits everywhere.

use jpeg_decoder::{Decoder, PixelFormat};

use crate::decode::{DecodeError, Rgb, check_size};

/// Most pixels of all scans together: some tens of the largest picture, or hundreds of a usual one.
const MOST_SCANNED: u64 = 8_000_000_000;
/// Second byte of the marker before the data of a scan.
const START_OF_SCAN: u8 = 0xda;

/// The pixels of a JPEG file, and its EXIF chunk where it has one.
pub(crate) struct Jpeg {
    pub(crate) image: Rgb,
    pub(crate) exif: Option<Vec<u8>>,
}

/// Decodes a JPEG file: grey, YCbCr, RGB, CMYK or YCCK, baseline or progressive.
pub(crate) fn decode(bytes: &[u8]) -> Result<Jpeg, DecodeError> {
    if !has_end(bytes) {
        return Err(DecodeError::Truncated);
    }
    let mut decoder = Decoder::new(bytes);
    decoder.read_info()?;
    let info = decoder.info().ok_or(DecodeError::Format)?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    check_size(width, height)?;
    let scans = bytes.windows(2).filter(|pair| *pair == [0xff, START_OF_SCAN]).count();
    if (scans as u64).saturating_mul(u64::from(width) * u64::from(height)) > MOST_SCANNED {
        return Err(DecodeError::Scans { scans, width, height });
    }
    let samples = decoder.decode()?;
    let data = match info.pixel_format {
        PixelFormat::RGB24 => samples,
        PixelFormat::L8 => samples.iter().flat_map(|grey| [*grey; 3]).collect(),
        PixelFormat::L16 => samples.as_chunks::<2>().0.iter().flat_map(|grey| [grey[1]; 3]).collect(),
        PixelFormat::CMYK32 => inks(&samples, has_adobe_marker(bytes)),
    };
    let image = Rgb { width: width as usize, height: height as usize, data };
    Ok(Jpeg { image, exif: decoder.exif_data().map(<[u8]>::to_vec) })
}

/// Cyan, magenta, yellow and black, 255 for full ink, to RGB with the rounding of Pillow's `convert("RGB")`. The decoder
/// turns every file's values around, as is right for Adobe's, which stores 255 for no ink.
fn inks(samples: &[u8], is_adobe: bool) -> Vec<u8> {
    let ink = |sample: u8| if is_adobe { sample } else { 255 - sample };
    let pixels = samples.as_chunks::<4>().0.iter();
    pixels
        .flat_map(|&[cyan, magenta, yellow, black]| {
            let light = 255 - ink(black);
            [cyan, magenta, yellow].map(|colour| light - product(ink(colour), light))
        })
        .collect()
}

/// `left * right / 255`, rounded; at most `right`.
fn product(left: u8, right: u8) -> u8 {
    let scaled = u32::from(left) * u32::from(right) + 128;
    (((scaled >> 8) + scaled) >> 8) as u8
}

/// Returns whether the segment APP14 of Adobe's programs stands before the picture's data.
fn has_adobe_marker(bytes: &[u8]) -> bool {
    let head = bytes.windows(2).position(|pair| pair == [0xff, START_OF_SCAN]).unwrap_or(bytes.len());
    bytes[..head].windows(9).any(|window| window[..2] == [0xff, 0xee] && &window[4..] == b"Adobe")
}

/// Returns whether the last scan of a JPEG file is followed by an end marker, in other words which of the two markers is
/// the last; neither occurs within the data of a scan. Without it the decoder would fill the rest with grey.
fn has_end(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    let mut markers = bytes.windows(2).rev().filter(|pair| pair[0] == 0xff).map(|pair| pair[1]);
    markers.find(|marker| [START_OF_SCAN, END_OF_IMAGE].contains(marker)) == Some(END_OF_IMAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_rounded_quotients() {
        for (left, right) in (0..=255).flat_map(|left| (0..=255).map(move |right| (left, right))) {
            let exact = f64::from(left) * f64::from(right) / 255.0;
            assert_eq!(product(left, right), exact.round() as u8, "{left} {right}");
        }
    }

    #[test]
    fn inks_darken() {
        assert_eq!(
            inks(&[0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 255, 0, 128, 0, 100], true),
            [255, 255, 255, 0, 255, 255, 0, 0, 0, 155, 77, 155]
        );
        assert_eq!(inks(&[255, 255, 255, 255], false), [255; 3]);
    }
}

//! Decoding, resizing and augmentation against Pillow's results (`tests/data/make.py`).

use std::path::Path;

use sweep_core::dataset::Exif;

use crate::augment::{Colour, adjust, rotate};
use crate::decode::{Rgb, decode};
use crate::resize::resize_square;

/// JPEG decoders may differ in the last bits of the inverse transform, the colour conversion and chroma upsampling.
const JPEG_TOLERANCE: u8 = 2;
/// As for JPEG: chroma is upsampled and colours are converted with other roundings.
const WEBP_TOLERANCE: u8 = 2;

fn read(name: &str) -> Rgb {
    read_as(name, Exif::Ignore)
}

fn read_as(name: &str, exif: Exif) -> Rgb {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    decode(&bytes, exif).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn largest_difference(left: &[u8], right: &[u8]) -> u8 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| left.abs_diff(*right)).max().unwrap()
}

#[test]
fn every_encoding_becomes_the_same_rgb() {
    let lossless = [
        "rgb.png",
        "grey.png",
        "palette.png",
        "palette_alpha.png",
        "rgba.png",
        "grey_alpha.png",
        "one_bit.png",
        "grey16.png",
        "rgb16.png",
        "lossless.webp",
    ];
    let jpegs =
        ["rgb.jpg", "grey.jpg", "cmyk.jpg", "ycck.jpg", "subsampled.jpg", "progressive.jpg", "turned.jpg"];
    let tolerances = (lossless.map(|name| (name, 0)).into_iter())
        .chain(jpegs.map(|name| (name, JPEG_TOLERANCE)))
        .chain([("lossy.webp", WEBP_TOLERANCE)]);
    for (name, tolerance) in tolerances {
        let expected = read(&format!("expected_{}_24.png", name.replace('.', "_")));
        let difference = largest_difference(&resize_square(&read(name), 24), &expected.data);
        assert!(difference <= tolerance, "{name} differs by {difference}");
    }
}

#[test]
fn an_orientation_is_applied_where_that_is_asked_for() {
    let expected = read("expected_turned_upright_24.png").data;
    let difference = |exif| largest_difference(&resize_square(&read_as("turned.jpg", exif), 24), &expected);
    assert!(difference(Exif::Apply) <= JPEG_TOLERANCE);
    assert!(difference(Exif::Ignore) > 10 * JPEG_TOLERANCE);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for name in ["rgb.jpg", "progressive.jpg", "rgb.png", "lossless.webp", "lossy.webp"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let bytes = std::fs::read(path).unwrap();
        for tenth in 0..10 {
            let cut = &bytes[..bytes.len() * tenth / 10];
            assert!(decode(cut, Exif::Ignore).is_err(), "{name} cut after {} bytes", cut.len());
        }
    }
}

#[test]
fn resizing_is_equal_to_the_last_bit() {
    let image = read("rgb.png");
    for size in [16, 32, 64] {
        let expected = read(&format!("expected_resize_{size}.png"));
        assert_eq!(largest_difference(&resize_square(&image, size), &expected.data), 0, "size {size}");
    }
}

#[test]
fn colour_jitter_is_equal_to_the_last_bit() {
    let names =
        [("brightness", Colour::Brightness), ("contrast", Colour::Contrast), ("color", Colour::Saturation)];
    for (name, colour) in names {
        for factor in [0.75, 1.0, 1.25, 1.9] {
            let mut pixels = resize_square(&read("rgb.png"), 32);
            adjust(&mut pixels, colour, factor);
            let expected = read(&format!("expected_{name}_{factor:?}.png"));
            assert_eq!(largest_difference(&pixels, &expected.data), 0, "{name} {factor}");
        }
    }
}

#[test]
fn rotation_is_equal_to_the_last_bit() {
    for angle in [-2.0, 1.3, 33.0] {
        let mut pixels = resize_square(&read("rgb.png"), 32);
        rotate(&mut pixels, 32, angle);
        let expected = read(&format!("expected_rotate_{angle:?}.png"));
        assert_eq!(largest_difference(&pixels, &expected.data), 0, "{angle} degrees");
    }
}

//! Decoding, resizing and augmentation against Pillow's results (`tests/data/make.py`).

use std::path::Path;

use crate::augment::{Colour, adjust, rotate};
use crate::decode::{Rgb, decode};
use crate::resize::resize_square;

/// JPEG decoders may differ in the last bits of the inverse transform, the colour conversion and chroma upsampling.
const JPEG_TOLERANCE: u8 = 2;

fn read(name: &str) -> Rgb {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn largest_difference(left: &[u8], right: &[u8]) -> u8 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| left.abs_diff(*right)).max().unwrap()
}

#[test]
fn every_encoding_becomes_the_same_rgb() {
    let lossless =
        ["rgb.png", "grey.png", "palette.png", "rgba.png", "grey_alpha.png", "one_bit.png", "grey16.png"];
    let lossy = ["rgb.jpg", "grey.jpg", "cmyk.jpg"];
    let tolerances =
        lossless.map(|name| (name, 0)).into_iter().chain(lossy.map(|name| (name, JPEG_TOLERANCE)));
    for (name, tolerance) in tolerances {
        let expected = read(&format!("expected_{}_24.png", name.replace('.', "_")));
        let difference = largest_difference(&resize_square(&read(name), 24), &expected.data);
        assert!(difference <= tolerance, "{name} differs by {difference}");
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

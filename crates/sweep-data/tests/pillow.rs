//! Whole pictures of the real datasets against Pillow: decoding and resizing together.

#![expect(clippy::unwrap_used, reason = "test helpers outside of test functions")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use sweep_core::dataset::Exif;
use sweep_data::decode_square;

/// Pictures of each dataset; two hundred spread over the file say enough.
const PICTURES: usize = 200;
/// JPEG decoders round the inverse transform and the upsampling of chroma in other ways, and a level of chroma is up to 1.8
/// levels of a colour. (Resizing alone has Pillow's bits: `src/against_pillow.rs`.)
const MEAN_TOLERANCE: f64 = 0.2;
const LARGEST_TOLERANCE: u8 = 3;

fn shared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name).join("test.parquet")
}

/// Returns encoded pictures spread over a file.
fn pictures(path: &Path) -> Vec<Vec<u8>> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let step = (reader.metadata().file_metadata().num_rows() as usize / PICTURES).max(1);
    let rows = reader.into_iter().step_by(step).take(PICTURES);
    rows.map(|row| row.unwrap().get_group(0).unwrap().get_bytes(0).unwrap().data().to_vec()).collect()
}

/// `SWEEP_TEST_PYTHON=python3 cargo test -p sweep-data --test pillow -- --ignored --nocapture`, with a Python that has
/// Pillow, prints the differences.
#[test]
#[ignore = "needs a Python with Pillow, named by SWEEP_TEST_PYTHON, and the datasets beside the checkout"]
#[expect(clippy::print_stdout, reason = "the differences are the result")]
fn real_pictures_differ_by_less_than_a_level() {
    let python = std::env::var("SWEEP_TEST_PYTHON").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/resize.py");
    for (name, size) in
        ["caltech101", "cub20", "cars98"].into_iter().flat_map(|name| [(name, 224), (name, 64)])
    {
        let folder = tempfile::tempdir().unwrap();
        let encoded = pictures(&shared(name));
        for (number, bytes) in encoded.iter().enumerate() {
            fs::write(folder.path().join(format!("{number:05}")), bytes).unwrap();
        }
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(&python);
        command.arg(&script).arg(folder.path()).arg(size.to_string()).arg(output.path());
        assert!(command.status().unwrap().success());
        let expected = fs::read(output.path()).unwrap();
        let (mut means, mut largest) = (Vec::new(), 0);
        for (bytes, expected) in encoded.iter().zip(expected.chunks((size * size * 3) as usize)) {
            let found = decode_square(bytes, size, Exif::Ignore).unwrap();
            let differences =
                || found.iter().zip(expected).map(|(found, expected)| found.abs_diff(*expected));
            means.push(differences().map(f64::from).sum::<f64>() / found.len() as f64);
            largest = largest.max(differences().max().unwrap());
        }
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        let worst = means.iter().copied().fold(0.0, f64::max);
        println!(
            "{name} {size}: {} pictures, mean {mean:.4}, of the worst {worst:.4}, largest {largest}",
            means.len()
        );
        assert!(worst <= MEAN_TOLERANCE && largest <= LARGEST_TOLERANCE, "{name} {size}");
    }
}

//! Images a second and core: decoding, resizing to 224 × 224 and augmenting (paper, B.2), beside torchvision.
//!
//! `cargo bench -p sweep-data --bench throughput [-- [--python PATH] [--rounds N] PARQUET-FILE-OR-FOLDER…]` reads up to
//! 1,000 pictures of each file (in the Hub's layout) or folder into memory and works through them in one thread. With
//! `--python`, a Python with torchvision does the same to the same files, taking turns. What is printed is the best round
//! of each, by processor time, which is steadier than wall time on a busy machine.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints, and stops at the first surprise"
)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use parquet::file::reader::SerializedFileReader;
use parquet::record::RowAccessor as _;
use sweep_core::dataset::{Augmentation, Exif};
use sweep_data::{Augmenter, decode_square};

const SIZE: u32 = 224;
const MOST_PICTURES: usize = 1000;
/// The clock moves in steps of a few milliseconds.
const PASSES: u32 = 5;
const PAPER: Augmentation = Augmentation::Paper { flip: 0.5, jitter: 0.25, rotation: 2.0 };

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut python, mut rounds, mut places) = (None, 5, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--python" => python = arguments.next(),
            "--rounds" => rounds = arguments.next().unwrap().parse().unwrap(),
            _ => places.push(PathBuf::from(argument)),
        }
    }
    if places.is_empty() {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        places = ["caltech101", "cub20", "cars98"].map(|name| shared.join(name).join("test.parquet")).into();
    }
    println!(
        "{:44} {:>12} {:>12} {:>8}   images a second and core",
        "pictures", "sweep", "torchvision", "ratio"
    );
    for place in places {
        measure(&place, python.as_deref(), rounds);
    }
}

fn measure(place: &Path, python: Option<&str>, rounds: u32) {
    let pictures = pictures(place);
    let folder = tempfile::tempdir().unwrap();
    let mut other = python.map(|python| Torchvision::start(python, folder.path(), &pictures));
    for work in ["augmented", "resized"] {
        let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..rounds {
            ours = ours.min(round(&pictures, work == "augmented"));
            theirs = other.as_mut().map_or(f64::NAN, |other| theirs.min(other.round(work)));
        }
        let name = place.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy());
        let name = name.collect::<Vec<_>>().join(" of ");
        let rate = |seconds: f64| pictures.len() as f64 / seconds;
        let label = format!("{name}, {work}");
        println!("{label:44} {:12.0} {:12.0} {:8.2}", rate(ours), rate(theirs), theirs / ours);
    }
}

/// Returns the processor seconds of a pass over the pictures.
fn round(pictures: &[Vec<u8>], augmented: bool) -> f64 {
    let augmentation = if augmented { PAPER } else { Augmentation::None };
    let augmenter = Augmenter::new(&augmentation, 0, 0).unwrap();
    let begin = processor_seconds();
    for _ in 0..PASSES {
        for (index, bytes) in (0..).zip(pictures) {
            let mut pixels = decode_square(bytes, SIZE, Exif::Ignore).unwrap();
            augmenter.apply(&mut pixels, SIZE, index);
            std::hint::black_box(pixels);
        }
    }
    (processor_seconds() - begin) / f64::from(PASSES)
}

/// Processor time of this thread so far; the first number of Linux's `schedstat` is in nanoseconds.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-9
}

fn pictures(place: &Path) -> Vec<Vec<u8>> {
    if place.is_dir() {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        return paths.iter().take(MOST_PICTURES).map(|path| fs::read(path).unwrap()).collect();
    }
    let rows = SerializedFileReader::new(File::open(place).unwrap()).unwrap().into_iter().take(MOST_PICTURES);
    rows.map(|row| row.unwrap().get_group(0).unwrap().get_bytes(0).unwrap().data().to_vec()).collect()
}

/// The script beside this file, waiting for its turn.
struct Torchvision {
    process: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Torchvision {
    fn start(python: &str, folder: &Path, pictures: &[Vec<u8>]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/torchvision.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).env("OMP_NUM_THREADS", "1");
        for (number, bytes) in pictures.iter().enumerate() {
            let path = folder.join(format!("{number:05}"));
            fs::write(&path, bytes).unwrap();
            command.arg(path);
        }
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { input: process.stdin.take(), output, process }
    }

    fn round(&mut self, work: &str) -> f64 {
        writeln!(self.input.as_mut().unwrap(), "{work}").unwrap();
        self.output.next().unwrap().unwrap().parse().unwrap()
    }
}

impl Drop for Torchvision {
    fn drop(&mut self) {
        // The script ends with its input.
        self.input = None;
        self.process.wait().unwrap();
    }
}

//! Reading files of weights, whose content tells their format.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use candle_core::safetensors::Load as _;
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::{pytorch, shortened};
use crate::{Error, Result};

/// Longest file of weights: several times that of the largest network which is built here.
const LONGEST: u64 = 64 << 30;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// The system says so.
    #[error(transparent)]
    File(#[from] io::Error),
    /// Its content says so, in words.
    #[error("{0}")]
    Damaged(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Safetensors,
    /// PyTorch's since version 1.6: a zip archive of a pickle and the bytes of each storage.
    Zip,
    /// PyTorch's before, and what `pickle.dump` writes.
    BarePickle,
    /// What stands in for a file that was not downloaded.
    LfsPointer,
    Unknown,
}

impl Format {
    fn of(start: &[u8]) -> Self {
        match start {
            [b'P', b'K', 3, 4, ..] => Self::Zip,
            // The length of a JSON object as a 64-bit number, then the object.
            [_, _, _, _, _, _, 0, 0, b'{', ..] => Self::Safetensors,
            [0x80, 2..=5, ..] => Self::BarePickle,
            _ if start.starts_with(b"version ") => Self::LfsPointer,
            _ => Self::Unknown,
        }
    }
}

/// All tensors of a file under the names they have there.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    let damaged = |reason: &str| Err(Problem::Damaged(reason.to_owned()));
    let tensors = match start(path) {
        Err(source) => return Err(Error::File { path: path.to_owned(), source }),
        Ok(start) => match Format::of(&start) {
            Format::Safetensors => safetensors(path),
            Format::Zip => pytorch::read(path),
            Format::BarePickle => damaged(
                "a pickle outside a zip archive, which PyTorch wrote before version 1.6; load it there and save it again",
            ),
            Format::LfsPointer => damaged("a Git LFS pointer, not the weights themselves"),
            Format::Unknown => damaged("neither a safetensors file nor a PyTorch zip archive"),
        },
    };
    tensors.map_err(|problem| match problem {
        Problem::File(source) => Error::File { path: path.to_owned(), source },
        Problem::Damaged(problem) => Error::Weights { path: path.to_owned(), problem },
    })
}

/// The first bytes, as many as [`Format::of`] looks at.
fn start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    let file = File::open(path)?;
    if file.metadata()?.len() > LONGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {LONGEST} bytes, which no file of weights has"),
        ));
    }
    file.take(16).read_to_end(&mut start)?;
    Ok(start)
}

fn safetensors(path: &Path) -> Result<HashMap<String, Tensor>, Problem> {
    let bytes = std::fs::read(path)?;
    let damaged = |error: SafeTensorError| match error {
        // The reader's own text leaves the name out.
        SafeTensorError::InvalidOffset(name) => {
            let name = shortened(&name);
            Problem::Damaged(format!(
                "`{name}`: its offsets do not follow one another or do not fit its shape"
            ))
        }
        error => Problem::Damaged(shortened(&error.to_string())),
    };
    // The reader compares offsets, shapes and types with the length of the file before it hands anything out.
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        let wrong =
            |reason: &dyn std::fmt::Display| Problem::Damaged(format!("`{}`: {reason}", shortened(&name)));
        if !is_read(view.dtype()) {
            return Err(wrong(&format!("numbers of type {:?} are not read here", view.dtype())));
        }
        let tensor = view.load(&Device::Cpu).map_err(|error| wrong(&error))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// Whether there is a conversion from a type to that of the parameters.
fn is_read(dtype: Dtype) -> bool {
    use Dtype::{BF16, F16, F32, F64, I64, U8, U32};
    matches!(dtype, F64 | F32 | F16 | BF16 | I64 | Dtype::I32 | Dtype::I16 | U32 | U8)
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_first_bytes_tell_the_format() {
        for (start, format) in [
            (&b"PK\x03\x04\0\0"[..], Format::Zip),
            (b"\x40\0\0\0\0\0\0\0{\"a\"", Format::Safetensors),
            (b"\x80\x02\x8a\x0a", Format::BarePickle),
            (b"version https://", Format::LfsPointer),
            (b"<!DOCTYPE html>", Format::Unknown),
            (b"\x40\0\0\0\0\0\0\0[", Format::Unknown),
            (b"", Format::Unknown),
        ] {
            assert_eq!(Format::of(start), format, "{start:?}");
        }
    }
}

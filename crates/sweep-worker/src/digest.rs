//! SHA-256 of files.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// Returns the SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// [`Error::Io`].
pub fn digest_file(path: &Path) -> Result<String> {
    read_digest(path).map_err(Error::io("read", path))
}

/// Like [`digest_file`], where the caller says which file could not be read.
pub(crate) fn read_digest(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hexadecimal(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

/// Returns the SHA-256 of bytes in lower-case hexadecimal.
pub(crate) fn digest_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * digest.len());
    for byte in digest {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}

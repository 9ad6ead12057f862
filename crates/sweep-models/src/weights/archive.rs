//! Zip archives as PyTorch writes them, read with bounds: entries lie uncompressed, so that nothing read is larger than
//! the file itself, and no name of an entry ever becomes a path.
//!
//! The format is that of PKWARE's APPNOTE 6.3.10 (4.3.7 to 4.3.16); of it only what PyTorch uses is understood.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::file::Problem;

/// Longest table of contents that is read; one of ten thousand tensors has less than 2 MiB.
const LONGEST_DIRECTORY: u64 = 64 << 20;
/// Length of the record that ends an archive, without its comment, and of the longest comment.
const END: usize = 22;
const LONGEST_COMMENT: usize = 65_535;
const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const END_64_SIGNATURE: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64_SIGNATURE: [u8; 4] = *b"PK\x06\x07";
const ENTRY_SIGNATURE: [u8; 4] = *b"PK\x01\x02";
const LOCAL_SIGNATURE: [u8; 4] = *b"PK\x03\x04";
/// Lengths of the fixed parts of a central and of a local header.
const ENTRY: usize = 46;
const LOCAL: u64 = 30;
/// Tag of the extra field with 64-bit numbers.
const EXTRA_64: u16 = 1;

/// An open archive.
pub(super) struct Archive {
    file: File,
    length: u64,
    entries: HashMap<String, Entry>,
}

/// Where the bytes of an entry lie, as the table of contents says.
#[derive(Clone, Copy, Debug)]
struct Entry {
    header: u64,
    size: u64,
    checksum: u32,
}

impl Archive {
    /// Opens an archive and reads its table of contents.
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let (start, size) = directory(&file, length)?;
        if size > LONGEST_DIRECTORY {
            let reason =
                format!("its table of contents has {size} bytes, expected at most {LONGEST_DIRECTORY}");
            return Err(Problem::Damaged(reason));
        }
        let bytes = read(&file, length, start, size, "its table of contents")?;
        Ok(Self { file, length, entries: entries(&bytes)? })
    }

    /// Returns the length of the file, which bounds what is in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns the names of the entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns the size of an entry, if there is one of this name.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        Some(self.entries.get(name)?.size)
    }

    /// Reads an entry and checks it against its checksum.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, Problem> {
        let missing = || Problem::Damaged(format!("it has no entry `{}`", super::shortened(name)));
        let Entry { header, size, checksum: expected } = *self.entries.get(name).ok_or_else(missing)?;
        let what = format!("its entry `{}`", super::shortened(name));
        let local = read(&self.file, self.length, header, LOCAL, &what)?;
        if local[..4] != LOCAL_SIGNATURE {
            return Err(Problem::Damaged(format!("{what} does not lie where its table of contents says")));
        }
        let start = header + LOCAL + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        let bytes = read(&self.file, self.length, start, size, &what)?;
        let found = checksum(&bytes);
        if found != expected {
            let reason = format!("{what} has the checksum {found:08x}, expected {expected:08x}");
            return Err(Problem::Damaged(reason));
        }
        Ok(bytes)
    }
}

/// Reads a part of the file; memory is taken only after the part was seen to lie within it.
fn read(file: &File, length: u64, start: u64, size: u64, what: &str) -> Result<Vec<u8>, Problem> {
    if start.checked_add(size).is_none_or(|end| end > length) {
        let reason = format!("{what} has {size} bytes from byte {start}, but the file ends at byte {length}");
        return Err(Problem::Damaged(reason));
    }
    let too_large = |_| Problem::from(io::Error::from(io::ErrorKind::OutOfMemory));
    let size = usize::try_from(size).map_err(too_large)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| Problem::from(io::Error::from(io::ErrorKind::OutOfMemory)))?;
    bytes.resize(size, 0);
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

/// Returns where the table of contents begins and how long it is.
fn directory(file: &File, length: u64) -> Result<(u64, u64), Problem> {
    let tail = length.min((END + LONGEST_COMMENT) as u64);
    let bytes = read(file, length, length - tail, tail, "its end")?;
    let end = bytes.windows(END).rposition(|window| window[..4] == END_SIGNATURE);
    let end =
        end.ok_or_else(|| Problem::Damaged("its end, with the table of contents, is missing".to_owned()))?;
    let record = &bytes[end..];
    let (size, start) = (u32_at(record, 12), u32_at(record, 16));
    match end.checked_sub(20) {
        Some(locator) if bytes[locator..][..4] == LOCATOR_64_SIGNATURE => {
            let record = read(file, length, u64_at(&bytes[locator..], 8), 56, "its 64-bit end")?;
            if record[..4] != END_64_SIGNATURE {
                return Err(Problem::Damaged("its 64-bit end is missing".to_owned()));
            }
            Ok((u64_at(&record, 48), u64_at(&record, 40)))
        }
        _ => Ok((start.into(), size.into())),
    }
}

fn entries(mut bytes: &[u8]) -> Result<HashMap<String, Entry>, Problem> {
    let mut entries = HashMap::new();
    while !bytes.is_empty() {
        let (name, entry, rest) = entry(bytes)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(Problem::Damaged(format!("it has two entries `{}`", super::shortened(&name))));
        }
        bytes = rest;
    }
    Ok(entries)
}

/// Takes one entry off the table of contents.
fn entry(bytes: &[u8]) -> Result<(String, Entry, &[u8]), Problem> {
    let damaged = || Problem::Damaged("its table of contents is damaged".to_owned());
    let (fixed, rest) = bytes.split_at_checked(ENTRY).ok_or_else(damaged)?;
    let (name, rest) = rest.split_at_checked(u16_at(fixed, 28).into()).ok_or_else(damaged)?;
    let (extra, rest) = rest.split_at_checked(u16_at(fixed, 30).into()).ok_or_else(damaged)?;
    let (_, rest) = rest.split_at_checked(u16_at(fixed, 32).into()).ok_or_else(damaged)?;
    if fixed[..4] != ENTRY_SIGNATURE {
        return Err(damaged());
    }
    let name = String::from_utf8_lossy(name).into_owned();
    let (method, is_encrypted) = (u16_at(fixed, 10), u16_at(fixed, 8) & 1 == 1);
    if method != 0 || is_encrypted {
        let what = super::shortened(&name);
        let reason = format!(
            "its entry `{what}` is compressed or encrypted, which PyTorch never does; load the file there and save it again"
        );
        return Err(Problem::Damaged(reason));
    }
    // Numbers that do not fit 32 bits stand in the extra field, in this order.
    let mut long = wide(extra);
    let mut number = |short: u32| match short {
        u32::MAX => long.next().ok_or_else(damaged),
        short => Ok(short.into()),
    };
    let (size, stored) = (number(u32_at(fixed, 24))?, number(u32_at(fixed, 20))?);
    let header = number(u32_at(fixed, 42))?;
    if size != stored {
        return Err(damaged());
    }
    Ok((name, Entry { header, size, checksum: u32_at(fixed, 16) }, rest))
}

/// Returns the 64-bit numbers of the extra fields.
fn wide(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut numbers = Vec::new();
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let Some((body, rest)) = rest.split_at_checked(u16_at(head, 2).into()) else { break };
        if u16_at(head, 0) == EXTRA_64 {
            numbers.extend(body.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)));
        }
        extra = rest;
    }
    numbers.into_iter()
}

fn u16_at(bytes: &[u8], position: usize) -> u16 {
    u16::from_le_bytes([bytes[position], bytes[position + 1]])
}

fn u32_at(bytes: &[u8], position: usize) -> u32 {
    u32::from(u16_at(bytes, position)) | u32::from(u16_at(bytes, position + 2)) << 16
}

fn u64_at(bytes: &[u8], position: usize) -> u64 {
    u64::from(u32_at(bytes, position)) | u64::from(u32_at(bytes, position + 4)) << 32
}

/// CRC-32 as zip has it (polynomial 0xEDB88320, reflected).
fn checksum(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(u32::MAX, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut value, mut bit) = (index as u32, 0);
        while bit < 8 {
            value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zip() {
        // The check value that catalogues of CRCs give for CRC-32.
        assert_eq!(checksum(b"123456789"), 0xCBF4_3926);
        assert_eq!(checksum(b""), 0);
    }
}

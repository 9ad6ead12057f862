//! Decoded, resized images in one memory-mapped file, built once and shared by every worker.
//!
//! A file is written under a temporary name, synchronized and renamed, while its builder holds a lock, so that of
//! several processes one builds and the others wait. Opening checks length, header and both digests; what does not
//! fit is built anew.
//!
//! Layout, little endian: a header of 128 bytes (magic, format, size, count, index length, cache key, index digest,
//! pixel digest), the pixels, and the index (labels, content keys; classes and the number of pictures left out as JSON).

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::sha::{FieldHasher, hex, sha256};
use crate::source::{Classes, ImageSource, MOST_CLASSES};
use crate::split::Key;

const MAGIC: [u8; 8] = *b"SWEEPIMG";
/// Raised whenever the same source would give other bytes: layout, decoding or resizing.
const FORMAT: u32 = 3;
const HEADER: usize = 128;
/// Pixels are hashed in blocks of this many bytes, in parallel; the block digests are hashed together.
const BLOCK: usize = 1 << 20;

/// What a cache file holds, and so its name.
pub(crate) struct CacheKey([u8; 32]);

impl CacheKey {
    /// `fields` tells the content apart: digest, columns, how pictures are read, split.
    pub(crate) fn new(fields: &[&str], size: u32) -> Self {
        let mut hasher = FieldHasher::new("sweep image cache");
        hasher.field(&FORMAT.to_le_bytes());
        hasher.field(&size.to_le_bytes());
        for field in fields {
            hasher.field(field.as_bytes());
        }
        Self(hasher.finish())
    }

    fn path(&self, folder: &Path, size: u32) -> PathBuf {
        folder.join(format!("images-{}-{size}px.bin", hex(&self.0[..12])))
    }
}

/// The images of one split of a source.
#[derive(Debug)]
pub(crate) struct ImageFile {
    map: Mmap,
    size: u32,
    labels: Vec<u32>,
    keys: Vec<Key>,
    classes: Classes,
    skipped: u64,
}

impl ImageFile {
    /// Opens the file of `key` in `folder`, or builds it from the source that `open_source` returns.
    pub(crate) fn open_or_build<'a>(
        folder: &Path,
        key: &CacheKey,
        size: u32,
        open_source: &mut dyn FnMut() -> Result<Box<dyn ImageSource + 'a>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let path = key.path(folder, size);
        if let Some(images) = Self::open_sound(&path, key, size)? {
            return Ok(images);
        }
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let lock = lock(&path.with_extension("lock"))?;
        // Another process may have built it while this one waited for the lock.
        if let Some(images) = Self::open_sound(&path, key, size)? {
            return Ok(images);
        }
        let source = open_source()?;
        // The lock is still held: what is removed here is no other builder's.
        write(&path, key, size, source.as_ref(), progress)
            .inspect_err(|_| drop(fs::remove_file(path.with_extension("partial"))))?;
        drop(lock);
        Self::open(&path, key, size)?.map_err(|reason| Error::CacheDamaged { path, reason })
    }

    /// Opens a file that is there and sound; a damaged one is reported and treated as absent.
    fn open_sound(path: &Path, key: &CacheKey, size: u32) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        match Self::open(path, key, size)? {
            Ok(images) => Ok(Some(images)),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "image cache is damaged and is built anew");
                Ok(None)
            }
        }
    }

    /// Opens a file; the inner error says what does not fit.
    fn open(path: &Path, key: &CacheKey, size: u32) -> Result<Result<Self, &'static str>> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: files of this name are never written in place, only replaced by a rename, so that the mapped bytes
        // do not change. A person who truncates one under a running worker ends that worker by a signal.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self::check(map, key, size))
    }

    fn check(map: Mmap, key: &CacheKey, size: u32) -> Result<Self, &'static str> {
        let header = Header::parse(&map).ok_or("it is not a cache file of this format")?;
        if header.size != size || header.key != key.0 {
            return Err("it holds other images");
        }
        let (pixels, index) = header.sections(&map).ok_or("its length does not fit its header")?;
        if sha256(index) != header.index_digest {
            return Err("the digest of its index does not fit");
        }
        if pixel_digest(pixels) != header.pixel_digest {
            return Err("the digest of its pixels does not fit");
        }
        let index = Index::parse(index, header.count as usize).ok_or("its index is not readable")?;
        let Index { labels, keys, classes, skipped } = index;
        Ok(Self { map, size, labels, keys, classes, skipped })
    }

    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub(crate) fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Returns the number of pictures that could not be read and were left out.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Gives the classes that were found in this split their numbers among all `names`, which are sorted and contain
    /// them.
    pub(crate) fn renumber(&mut self, names: &[String]) {
        if let Classes::Found(found) = &self.classes {
            let number = |name| names.binary_search(name).expect("all names contain those of each split");
            let numbers: Vec<u32> = found.iter().map(|name| number(name) as u32).collect();
            self.labels.iter_mut().for_each(|label| *label = numbers[*label as usize]);
            self.classes = Classes::Listed(names.to_vec());
        }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Returns the pixels of `row` as (size, size, 3).
    pub(crate) fn pixels(&self, row: u32) -> &[u8] {
        let length = image_length(self.size);
        &self.map[HEADER + row as usize * length..][..length]
    }
}

/// Bytes of an image; beyond what can be counted, where a header lies, as many as can be.
fn image_length(size: u32) -> usize {
    let size = size as usize;
    size.saturating_mul(size).saturating_mul(3)
}

/// Holds an exclusive lock on the file at `path` until the returned file is dropped.
fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(Error::io("create", path))?;
    file.lock().map_err(Error::io("lock", path))?;
    Ok(file)
}

struct Header {
    size: u32,
    count: u32,
    index_length: u64,
    key: [u8; 32],
    index_digest: [u8; 32],
    pixel_digest: [u8; 32],
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes.get(..HEADER)?);
        if fields.take::<8>()? != MAGIC || u32::from_le_bytes(fields.take()?) != FORMAT {
            return None;
        }
        Some(Self {
            size: u32::from_le_bytes(fields.take()?),
            count: u32::from_le_bytes(fields.take()?),
            index_length: u64::from_le_bytes(fields.take()?),
            key: fields.take()?,
            index_digest: fields.take()?,
            pixel_digest: fields.take()?,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(self.index_length.to_le_bytes());
        for digest in [self.key, self.index_digest, self.pixel_digest] {
            bytes.extend(digest);
        }
        bytes.resize(HEADER, 0);
        bytes
    }

    /// Returns the pixels and the index where the file has exactly the length the header says.
    fn sections<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let pixels = u64::from(self.count).checked_mul(image_length(self.size) as u64)?;
        let total = pixels.checked_add(self.index_length)?.checked_add(HEADER as u64)?;
        (total == bytes.len() as u64).then(|| bytes[HEADER..].split_at(pixels as usize))
    }
}

/// A reader of fixed-length fields.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

#[derive(Debug)]
struct Index {
    labels: Vec<u32>,
    keys: Vec<Key>,
    classes: Classes,
    skipped: u64,
}

impl Index {
    fn parse(bytes: &[u8], count: usize) -> Option<Self> {
        let mut fields = Fields(bytes);
        let labels: Vec<u32> =
            (0..count).map(|_| fields.take().map(u32::from_le_bytes)).collect::<Option<_>>()?;
        let keys = (0..count).map(|_| fields.take()).collect::<Option<_>>()?;
        let rest: Value = serde_json::from_slice(fields.0).ok()?;
        let (classes, skipped) = (Classes::from_json(&rest["classes"])?, rest["skipped"].as_u64()?);
        let (most, in_order) = match &classes {
            Classes::Listed(names) => (names.len(), true),
            Classes::Found(names) => (names.len(), names.is_sorted_by(|left, right| left < right)),
            Classes::Numbered => (MOST_CLASSES, true),
        };
        if !in_order || labels.iter().any(|label| *label as usize >= most) {
            return None;
        }
        Some(Self { labels, keys, classes, skipped })
    }

    fn bytes(&self) -> Vec<u8> {
        let labels = self.labels.iter().flat_map(|label| label.to_le_bytes());
        let mut bytes: Vec<u8> = labels.chain(self.keys.iter().flatten().copied()).collect();
        let rest = json!({ "classes": self.classes.to_json(), "skipped": self.skipped });
        bytes.extend(rest.to_string().into_bytes());
        bytes
    }
}

fn pixel_digest(pixels: &[u8]) -> [u8; 32] {
    let blocks: Vec<[u8; 32]> = pixels.par_chunks(BLOCK).map(sha256).collect();
    sha256(blocks.as_flattened())
}

/// The same digest for pixels that come piece by piece.
#[derive(Default)]
struct PixelHasher {
    open: Vec<u8>,
    blocks: Vec<u8>,
}

impl PixelHasher {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK - self.open.len()));
            self.open.extend_from_slice(piece);
            bytes = rest;
            if self.open.len() == BLOCK {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        self.blocks.extend(sha256(&self.open));
        self.open.clear();
    }

    fn finish(mut self) -> [u8; 32] {
        if !self.open.is_empty() {
            self.close();
        }
        sha256(&self.blocks)
    }
}

/// Writes the file at `path`; the caller holds the lock.
fn write(
    path: &Path,
    key: &CacheKey,
    size: u32,
    source: &dyn ImageSource,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let partial = path.with_extension("partial");
    let file = File::create(&partial).map_err(Error::io("create", &partial))?;
    let failed = |error| Error::io("write", &partial)(error);
    let mut file = BufWriter::new(file);
    file.write_all(&[0; HEADER]).map_err(failed)?;
    let classes = source.classes().clone();
    let mut index = Index { labels: Vec::new(), keys: Vec::new(), classes, skipped: 0 };
    let mut pixels = PixelHasher::default();
    source.read(size, &mut |records| {
        for record in records {
            let Some(record) = record else {
                index.skipped += 1;
                continue;
            };
            file.write_all(&record.pixels).map_err(failed)?;
            pixels.update(&record.pixels);
            index.labels.push(record.label);
            index.keys.push(record.key);
        }
        progress(index.labels.len() as u64 + index.skipped, source.count());
        Ok(())
    })?;
    let count = index.labels.len() as u32;
    let index = index.bytes();
    let header = Header {
        size,
        count,
        index_length: index.len() as u64,
        key: key.0,
        index_digest: sha256(&index),
        pixel_digest: pixels.finish(),
    };
    file.write_all(&index).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.write_all(&header.bytes()).map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    publish(&file, &partial, path)
}

/// Makes `partial` durable and gives it its final name.
fn publish(file: &File, partial: &Path, path: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io("synchronize", partial))?;
    fs::rename(partial, path).map_err(Error::io("rename", partial))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let synchronized = File::open(folder).and_then(|folder| folder.sync_all());
    synchronized.map_err(Error::io("synchronize", folder))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::source::{Record, Sink};

    const SIZE: u32 = 4;

    /// After every fifth image one that cannot be read.
    struct Numbers {
        classes: Classes,
        count: u32,
    }

    impl ImageSource for Numbers {
        fn count(&self) -> u64 {
            u64::from(self.count)
        }

        fn classes(&self) -> &Classes {
            &self.classes
        }

        fn read(&self, size: u32, sink: &mut Sink<'_>) -> Result<()> {
            let record = |number: u32| Record {
                pixels: vec![number as u8; image_length(size)],
                label: number % 3,
                key: [number as u8; 16],
            };
            (0..self.count).try_for_each(|number| {
                let bad = number % 5 == 4;
                sink([Some(record(number))].into_iter().chain(bad.then_some(None)).collect())
            })
        }
    }

    fn open(folder: &Path, builds: &Cell<u32>) -> ImageFile {
        let classes = Classes::Found(["a", "b", "c"].map(str::to_owned).to_vec());
        let mut source = || -> Result<Box<dyn ImageSource>> {
            builds.set(builds.get() + 1);
            Ok(Box::new(Numbers { classes: classes.clone(), count: 20 }))
        };
        let key = CacheKey::new(&["digest", "train"], SIZE);
        ImageFile::open_or_build(folder, &key, SIZE, &mut source, &mut |_, _| ()).unwrap()
    }

    fn assert_complete(images: &ImageFile) {
        assert_eq!(images.labels(), (0..20).map(|number| number % 3).collect::<Vec<_>>());
        assert!((0..20).all(|row| images.pixels(row) == vec![row as u8; image_length(SIZE)]));
        assert_eq!(images.keys()[7], [7; 16]);
        assert_eq!(*images.classes(), Classes::Found(["a", "b", "c"].map(str::to_owned).to_vec()));
        assert_eq!(images.skipped(), 4);
    }

    fn file_in(folder: &Path) -> PathBuf {
        let mut paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().is_some_and(|extension| extension == "bin")).unwrap()
    }

    #[test]
    fn it_is_built_once() {
        let folder = tempfile::tempdir().unwrap();
        let builds = Cell::new(0);
        assert_complete(&open(folder.path(), &builds));
        assert_complete(&open(folder.path(), &builds));
        assert_eq!(builds.get(), 1);
        assert!(!file_in(folder.path()).with_extension("partial").exists());
    }

    #[test]
    fn every_kind_of_damage_is_found_and_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let builds = Cell::new(0);
        drop(open(folder.path(), &builds));
        let path = file_in(folder.path());
        let sound = fs::read(&path).unwrap();
        let flipped = |position: usize| {
            let mut bytes = sound.clone();
            bytes[position] ^= 1;
            bytes
        };
        let damaged = [
            Vec::new(),
            sound[..HEADER - 1].to_vec(),
            sound[..sound.len() - 1].to_vec(),
            [sound.clone(), vec![0]].concat(),
            flipped(0),
            flipped(9),
            flipped(13),
            flipped(30),
            flipped(HEADER + 100),
            flipped(sound.len() - 60),
        ];
        for (number, bytes) in damaged.iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            assert_complete(&open(folder.path(), &builds));
            assert_eq!(builds.get() as usize, number + 2, "damage {number} was not noticed");
            assert_eq!(fs::read(&path).unwrap(), sound);
        }
    }

    #[test]
    fn of_several_builders_one_builds() {
        let folder = tempfile::tempdir().unwrap();
        let builds = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let own = Cell::new(0);
                    assert_complete(&open(folder.path(), &own));
                    builds.fetch_add(own.get(), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(builds.into_inner(), 1);
    }

    #[test]
    fn classes_get_their_numbers_among_all() {
        let folder = tempfile::tempdir().unwrap();
        let mut images = open(folder.path(), &Cell::new(0));
        images.renumber(&["a", "aa", "b", "bb", "c"].map(str::to_owned));
        assert_eq!(images.labels()[..4], [0, 2, 4, 0]);
    }

    #[test]
    fn a_failed_build_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let key = CacheKey::new(&["digest", "train"], SIZE);
        let mut fail = || -> Result<Box<dyn ImageSource>> { Err(Error::EmptySplit { split: "train" }) };
        assert!(ImageFile::open_or_build(folder.path(), &key, SIZE, &mut fail, &mut |_, _| ()).is_err());
        assert_complete(&open(folder.path(), &Cell::new(0)));
    }

    #[test]
    fn hashing_piece_by_piece_is_hashing_at_once() {
        let bytes: Vec<u8> = (0..BLOCK * 2 + 77).map(|number| (number % 251) as u8).collect();
        for piece in [1000, BLOCK, BLOCK + 1, bytes.len()] {
            let mut hasher = PixelHasher::default();
            bytes.chunks(piece).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), pixel_digest(&bytes));
        }
    }

    #[test]
    fn different_fields_have_different_keys() {
        let key = |fields: &[&str], size| CacheKey::new(fields, size).0;
        assert_ne!(key(&["ab", "c"], 4), key(&["a", "bc"], 4));
        assert_ne!(key(&["ab", "c"], 4), key(&["ab", "c"], 5));
    }
}

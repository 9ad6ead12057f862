//! Digests of files, which are the names of blobs in the cache.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// Bytes read at a time: large enough that the calls cost nothing beside the hashing.
const CHUNK: usize = 1 << 20;

/// Digest of a file as the Hub names it: large files by their sha256, those kept in git by their git object id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    /// sha256 of the content.
    Sha256([u8; 32]),
    /// Git's id of the content: sha1 of `blob LENGTH`, a zero byte and the content.
    GitSha1([u8; 20]),
}

impl Digest {
    /// The digest that is written as `name`: 64 or 40 lower-case hexadecimal digits. Nothing else names a blob.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.len() {
            64 => Some(Self::Sha256(unhex(name)?)),
            40 => Some(Self::GitSha1(unhex(name)?)),
            _ => None,
        }
    }

    /// Digest, of the same kind as `self`, of the file at `path`; reads all of it.
    pub(crate) fn of_file(self, path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(match self {
            Self::Sha256(_) => Self::Sha256(feed(&mut file, Sha256::new())?.finalize().into()),
            Self::GitSha1(_) => {
                let header = Sha1::new().chain_update(format!("blob {length}\0"));
                Self::GitSha1(feed(&mut file, header)?.finalize().into())
            }
        })
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::GitSha1(bytes) => bytes,
        }
    }
}

fn feed<D: sha2::Digest>(file: &mut File, mut hasher: D) -> io::Result<D> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    /// The digits, as the blob's name has them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Sha256(_)) { "sha256" } else { "git" };
        write!(formatter, "{kind}:{self}")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::from_name(&name).ok_or("a digest has 64 or 40 lower-case hexadecimal digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `git hash-object` and `sha256sum` of the text `hello\n`.
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn a_file_has_the_digests_of_git_and_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "hello\n").unwrap();
        for name in [GIT, SHA256] {
            let digest = Digest::from_name(name).unwrap();
            assert_eq!(digest.of_file(&path).unwrap(), digest);
            assert_eq!(digest.to_string(), name);
        }
        std::fs::write(&path, "hellp\n").unwrap();
        for name in [GIT, SHA256] {
            let digest = Digest::from_name(name).unwrap();
            assert_ne!(digest.of_file(&path).unwrap(), digest);
        }
    }

    #[test]
    fn other_names_are_no_digests() {
        let odd = ["", "..", "../../etc/passwd", &GIT[1..], &SHA256.to_uppercase(), &GIT.replace('c', "/")];
        for name in odd {
            assert_eq!(Digest::from_name(name), None, "{name:?}");
        }
        assert_eq!(Digest::from_name(&format!("{GIT}.incomplete")), None);
    }

    #[test]
    fn it_is_kept_as_its_name() {
        let digest = Digest::from_name(SHA256).unwrap();
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{SHA256}\""));
        assert!(serde_json::from_str::<Digest>("\"..\"").is_err());
    }
}

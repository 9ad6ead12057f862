//! SHA-256 over sequences of byte strings that cannot be confused with one another.

use sha2::{Digest as _, Sha256};

/// A hasher whose input is a domain name and then fields, each preceded by its length.
pub(crate) struct FieldHasher(Sha256);

impl FieldHasher {
    /// Starts a digest that differs from those of every other `domain`.
    pub(crate) fn new(domain: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.field(domain.as_bytes());
        hasher
    }

    /// Adds one field.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.length(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Adds the length of a field whose bytes follow through [`FieldHasher::raw`].
    pub(crate) fn length(&mut self, length: u64) {
        self.0.update(length.to_le_bytes());
    }

    /// Adds bytes without a length.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest.
    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Returns the SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns `bytes` in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}

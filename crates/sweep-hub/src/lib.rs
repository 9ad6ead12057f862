//! The Hugging Face Hub: weights and data at a pinned commit, through a verified cache.
//!
//! [`Hub`] is the way in: [`Hub::resolve`] pins a branch to a [`Commit`], [`Hub::files`] lists what the commit holds,
//! [`Hub::fetch`] brings files and [`Hub::cached`] finds them again. The cache has the layout of Python's
//! `huggingface_hub` (`blobs`, `snapshots`, `refs`), so both read what the other has brought.
//!
//! Nothing is returned that was not verified: the size against the commit's listing, the content against the blob's name
//! (64 hex digits are a sha256, 40 a git blob's sha1). A file is received in a folder of its own, `.locks/sweep` in the cache,
//! and moved among the blobs only once it is right; a killed process, an error page or a flipped byte leaves nothing
//! that another reader of the cache could take for the file.
//!
//! ```no_run
//! # async fn weights() -> sweep_hub::Result<()> {
//! use sweep_hub::{Hub, Repository, RepositoryKind, Settings};
//!
//! let hub = Hub::new(Settings::from_environment()?)?;
//! let model = Repository::new(RepositoryKind::Model, "timm/vit_small_patch16_224.augreg_in21k")?;
//! let commit = hub.resolve(&model, "main").await?;
//! let paths = hub.fetch(&model, &commit, &["model.safetensors"], &mut |_| ()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Commits are always asked for by their 40 digits: a branch that moves in the middle of a download does no harm.

mod answer;
mod cache;
mod digest;
mod download;
mod error;
mod http;
mod hub;
mod listing;
mod lock;
mod repository;
mod retry;
mod settings;
mod verified;

pub use digest::Digest;
pub use error::{Class, Error, Result};
pub use hub::{Hub, Progress};
pub use listing::RemoteFile;
pub use repository::{Commit, Repository, RepositoryKind};
pub use settings::{Settings, Token};

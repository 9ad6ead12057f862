//! What can go wrong while a report is made.

use std::path::PathBuf;

/// The result of making a report.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a report was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] sweep_store::Error),
    /// There is no sweep of that key any more.
    #[error("the sweep is not in the database any more")]
    Gone,
    /// A chart could not be laid out.
    #[error("cannot draw `{panel}`: {reason}")]
    Draw {
        /// Title of the panel.
        panel: String,
        /// What the drawing library said.
        reason: String,
    },
    /// A drawing could not be turned into pixels.
    #[error("cannot turn figure `{figure}` into pixels: {reason}")]
    Pixels {
        /// Name of the figure.
        figure: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The folder holds something that is no report, which is not overwritten.
    #[error("`{}` holds `{entry}`, which no report writes; give another folder, or empty this one", folder.display())]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The first entry that is not a report's.
        entry: String,
    },
    /// A file or folder could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

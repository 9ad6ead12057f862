//! What can go wrong. Everything but a damaged store or disk is somebody's wish that does not fit the runs at hand.

use std::path::PathBuf;

use sweep_core::spec::RunId;
use sweep_store::Metric;

use crate::key::Key;

/// The result of making a table or a report.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a table or a report cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] sweep_store::Error),
    /// A stored specification is not one that this program understands.
    #[error("the stored specification of run {run} cannot be read")]
    Specification {
        /// The run.
        run: RunId,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// No run has a key of that name.
    #[error("no run has the key `{key}`{}; there is {known}", near.as_ref().map_or_else(String::new, |near| format!(" (did you mean `{near}`?)")))]
    UnknownKey {
        /// What was asked for.
        key: Key,
        /// The key that is spelled most alike.
        near: Option<Key>,
        /// The keys that vary between the runs, and the main ones.
        known: String,
    },
    /// No run has that value.
    #[error("no run has {key} = `{value}`; there is {known}")]
    UnknownValue {
        /// The key.
        key: Key,
        /// What was asked for.
        value: String,
        /// The values that there are.
        known: String,
    },
    /// A table would have more cells than anybody reads.
    #[error(
        "{rows} rows and {columns} columns are {} cells, and a table has at most {}\n  hint: take keys with fewer values, or fewer of them",
        rows * columns,
        crate::pivot::MOST_CELLS
    )]
    TooManyCells {
        /// Rows.
        rows: u64,
        /// Columns.
        columns: u64,
    },
    /// Several values fit where one is needed.
    #[error("{key} = `{value}` fits {known}; say which")]
    AmbiguousValue {
        /// The key.
        key: Key,
        /// What was asked for.
        value: String,
        /// The values that fit.
        known: String,
    },
    /// A condition compares what has no order, or with what is no value of the key.
    #[error("`{condition}`: {reason}")]
    Condition {
        /// The condition.
        condition: String,
        /// What is wrong.
        reason: String,
    },
    /// The conditions leave no run.
    #[error("no run fits all conditions; each of them fits some")]
    NothingLeft,
    /// A pair was asked for with something else than two different values.
    #[error("`{text}` does not name two values of {key}: write KEY=FIRST,SECOND; there is {known}")]
    NotTwoValues {
        /// The key.
        key: Key,
        /// What stood behind the equals sign.
        text: String,
        /// The values that there are.
        known: String,
    },
    /// A metric was asked for that was not read.
    #[error("the metric {metric} is not among those compared: {known}")]
    MetricNotRead {
        /// What was asked for.
        metric: Metric,
        /// What was read.
        known: String,
    },
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
    /// A view could not be written as Parquet.
    #[error("cannot write `{view}` as Parquet")]
    Parquet {
        /// The view.
        view: &'static str,
        /// What was wrong.
        source: parquet::errors::ParquetError,
    },
    /// A key of a run would be no file within the folder of the run.
    #[error("run {run} has a key `{key}`, which MLflow does not accept")]
    MlflowName {
        /// The run.
        run: RunId,
        /// The key.
        key: String,
    },
    /// The folder holds something that no export for MLflow writes.
    #[error(
        "`{}` holds `{entry}`, which no export of sweep has written\n  hint: give a new folder, an empty one, or one of an \
         earlier export", folder.display()
    )]
    ForeignExport {
        /// The folder.
        folder: PathBuf,
        /// The first entry that is not an export's.
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

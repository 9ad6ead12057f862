//! The one error type of the crate.

use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a model is built, run, loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer refused.
    #[error(transparent)]
    Kernel(#[from] sweep_kernels::Error),
    /// candle refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Architecture numbers that describe no network.
    #[error("architecture: {name} is {value}, expected {expected}")]
    Architecture {
        /// The field.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it would have accepted, in words.
        expected: String,
    },
    /// The tensors of a checkpoint are not those of the network.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// A Hub configuration names an architecture that this crate does not know.
    #[error("architecture `{name}` is unknown; known are {}", known.join(", "))]
    UnknownArchitecture {
        /// The name in the configuration.
        name: String,
        /// The names that would have been accepted.
        known: Vec<&'static str>,
    },
    /// An entry of a Hub configuration that this crate cannot honour.
    #[error("config.json: `{key}` is {value}, expected {expected}")]
    HubSetting {
        /// The key.
        key: String,
        /// Its value as JSON.
        value: String,
        /// What it would have accepted, in words.
        expected: String,
    },
    /// timm has no architecture for these numbers, so no `config.json` can describe the model.
    #[error("timm cannot build this network: {reason}")]
    NotInTimm {
        /// What timm cannot express.
        reason: String,
    },
    /// A Hub configuration is not valid JSON of the expected form.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A file of weights cannot be understood.
    #[error("{}: {problem}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A safetensors file cannot be written.
    #[error("safetensors: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// How the tensors of a checkpoint differ from those a network needs. The lists are complete; the text names the first of
/// each kind and counts the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names the network needs and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Names the checkpoint has and the network does not know.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the network needs.
    pub misshaped: Vec<Misshaped>,
}

/// A tensor of another shape than the network needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// The tensor's name.
    pub name: String,
    /// The shape in the checkpoint.
    pub got: Vec<usize>,
    /// The shape the network needs.
    pub expected: Vec<usize>,
}

impl Mismatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the checkpoint does not fit the network")?;
        if !self.missing.is_empty() {
            write!(f, "; missing: {}", told(&self.missing))?;
        }
        if !self.unexpected.is_empty() {
            write!(f, "; unexpected: {}", told(&self.unexpected))?;
        }
        for Misshaped { name, got, expected } in self.misshaped.iter().take(MOST_TOLD) {
            let (rank, shown) = (got.len(), &got[..got.len().min(MOST_DIMENSIONS)]);
            let more =
                if rank > MOST_DIMENSIONS { format!(" and more, {rank} in all") } else { String::new() };
            write!(f, "; `{name}` has shape {shown:?}{more}, expected {expected:?}")?;
            if crate::weights::can_be_resampled(name) {
                write!(f, " (only square grids of as many channels or heads can be resampled)")?;
            }
        }
        match self.misshaped.len().checked_sub(MOST_TOLD) {
            Some(rest) if rest > 0 => write!(f, "; and {rest} more of another shape"),
            _ => Ok(()),
        }
    }
}

/// Names in a message, of each kind; a network of another kind differs in hundreds.
const MOST_TOLD: usize = 20;
/// Dimensions of a stored tensor in a message; the parameters of networks have four at most.
const MOST_DIMENSIONS: usize = 8;

fn told(names: &[String]) -> String {
    let mut text: Vec<String> =
        names.iter().take(MOST_TOLD).map(|name| crate::weights::shortened(name)).collect();
    if let Some(rest) = names.len().checked_sub(MOST_TOLD).filter(|rest| *rest > 0) {
        text.push(format!("and {rest} more"));
    }
    text.join(", ")
}

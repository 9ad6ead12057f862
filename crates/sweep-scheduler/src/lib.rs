//! The scheduler: which run starts when and where, one worker process an attempt, and everything that workers say into
//! the store.
//!
//! ```text
//! Queue (pure: what next?) → Dispatcher (claims, settles: the only writer) ⇄ Supervisor (one task an attempt) → worker
//! ```
//!
//! [`dispatch`] runs a sweep to its end, or goes on with it; [`slurm::dispatch`] does that with the jobs of a cluster. Several schedulers may work on one home folder: claims are
//! transactions, and an attempt is dead only by two witnesses: the lock on its `log.txt` is free, and the process that its
//! events name is gone from this host. Runs that begin alike wait for the one that trains their beginning, and
//! [`retention`] decides which checkpoints stay.
//!
//! Whatever dies at whatever line, the next session repairs: each step is a transaction or a file that appears whole, and
//! what a scheduler judged of an attempt's end lies beside its events before it is in the database. The scheduler prints
//! nothing, installs no signal handlers (its caller raises a [`Stop`] level instead), and does no training: it never
//! links a tensor library.

mod alive;
mod database;
mod devices;
mod dispatcher;
mod error;
mod evidence;
mod executor;
mod families;
mod files;
mod gpus;
mod launch;
mod ledger;
mod memory;
mod queue;
mod rebuild;
pub mod retention;
mod retry;
mod settings;
mod settle;
mod slots;
pub mod slurm;
mod supervise;
mod tail;
mod update;
mod verdict;
mod watch;

pub use alive::is_alive;
pub use database::open;
pub use devices::{Device, DevicesError};
pub use dispatcher::dispatch;
pub use error::Error;
pub use executor::local::WorkerCommand;
pub use gpus::{Gpu, GpusError, gpus};
pub use memory::OomKills;
pub use rebuild::{Rebuilt, rebuild};
pub use retry::RetryPolicy;
pub use settings::{DiskNeed, Settings};
pub use slots::{Slot, SlotRequest, every_gpu};

pub use supervise::Stop;
pub use sweep_core::home::Home;
pub use update::{Halt, Summary, Update};

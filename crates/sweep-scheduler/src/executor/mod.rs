//! Executors start workers. There is one so far: processes on this machine.

pub(crate) mod local;
pub(crate) mod lock;

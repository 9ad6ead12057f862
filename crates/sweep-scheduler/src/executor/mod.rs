//! Starting workers as processes of this machine: of a local scheduler, or of a task of Slurm on its node.

pub(crate) mod local;
pub(crate) mod lock;

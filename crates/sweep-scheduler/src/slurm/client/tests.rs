//! The client against commands that answer as told; against a real Slurm in `slurm/tests.rs`.

//! One run: data, training, checkpoints, evaluation.

//! The Hugging Face Hub: weights and data at a pinned commit, through a verified cache.

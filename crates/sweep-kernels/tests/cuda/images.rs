//! What begins a network: normalisation and patch embedding.

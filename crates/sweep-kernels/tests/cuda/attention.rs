//! Attention, windows and patch merging.

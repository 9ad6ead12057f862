//! Convolutions, batch norm and pools.

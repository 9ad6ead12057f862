//! Losses, optimizer steps, moving averages and gradient norms.

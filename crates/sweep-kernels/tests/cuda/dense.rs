//! Linear layers, activations, layer norm, tokens and residual connections.

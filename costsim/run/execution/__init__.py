"""A training step as its program says it, in PyTorch: operator by operator, gradients included."""

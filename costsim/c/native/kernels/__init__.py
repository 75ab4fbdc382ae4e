"""The C of the native kernels, compiled on the machine that runs them."""

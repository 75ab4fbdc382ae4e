"""The training program by native kernels: the executor, and whether it can be trusted here."""

"""The training program by native kernels: the executor, and whether it can be trusted here."""

from typing import Literal

Backend = Literal["torch", "native"]
"""Who computes a step: PyTorch, operation by operation, or kernels compiled for this machine."""

BACKENDS: tuple[Backend, ...] = ("torch", "native")
"""The first is the default."""

__all__ = ["BACKENDS", "Backend"]

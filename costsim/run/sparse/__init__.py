"""A plan in any PyTorch training loop: the training program behind an ordinary module."""

from costsim.run.sparse.compact import CompactParameter
from costsim.run.sparse.module import SparseModule, sparsify

__all__ = ["CompactParameter", "SparseModule", "sparsify"]

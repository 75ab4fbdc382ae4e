"""A plan in any PyTorch training loop: the training program behind an ordinary module."""

from costsim.sparse.compact import CompactParameter
from costsim.sparse.module import SparseModule, sparsify

__all__ = ["CompactParameter", "SparseModule", "sparsify"]

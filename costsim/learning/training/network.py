"""What the loop trains: a network as layer graphs over tensors of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from costsim.ir.graph import LayerGraph
from costsim.run.native import Backend


class Trainable(Protocol):
    """A network at any batch; training writes to its `tensors`."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its own, by the names of its graphs."""

    @property
    def backend(self) -> Backend:
        """Who computes its steps."""

    def graph(self, batch: int) -> LayerGraph:
        """The layer graph over so many samples."""

    def pass_size(self, samples: int) -> int:
        """In passes of how many samples so many are run."""


@dataclass(frozen=True, eq=False)
class OneBatch:
    """A network that takes batches of one size alone, such as an exported program."""

    only: LayerGraph
    tensors: Mapping[str, Tensor]
    backend: Backend = "torch"

    def graph(self, batch: int) -> LayerGraph:
        """The one there is."""
        return self.only

    def pass_size(self, samples: int) -> int:
        """Its batch; a pass that is not full is filled."""
        return self.only.batch

"""What the loop trains: a network as layer graphs over tensors of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

from costsim.ir.cuts import between
from costsim.ir.graph import LayerGraph
from costsim.run.execution.forward import evaluate
from costsim.run.native import Backend

Forward: TypeAlias = Callable[[Tensor], Tensor]


class Trainable(Protocol):
    """A network at any batch; training writes to its `tensors`."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Its own, by the names of its graphs."""

    @property
    def backend(self) -> Backend:
        """Who computes its steps."""

    def forward(self, batch: int, start: str, end: str | None) -> Forward:
        """From the values of `batch` samples at the cut `start` to those at `end`, or the output.

        By the tensors as they stand when it is called.
        """

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

    def forward(self, batch: int, start: str, end: str | None) -> Forward:
        """By torch."""
        return forward_by_torch(between(self.only, start, end), self.tensors)

    def pass_size(self, samples: int) -> int:
        """Its batch; a pass that is not full is filled."""
        return self.only.batch


def forward_by_torch(graph: LayerGraph, tensors: Mapping[str, Tensor]) -> Forward:
    """The output of `graph`, call by call."""
    return lambda x: evaluate(graph, tensors, x)[0]

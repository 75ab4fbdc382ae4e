"""The part of a weight that an update plan selects, and reading and writing it in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from costsim.operators import Axis, Shape


@dataclass(frozen=True)
class Selection:
    """Channels of a weight `[C_out, C_in / groups, *kernel]` (or `[C]`) along one axis.

    The *compact* form of a selection is a dense tensor with the selected channels alone: along
    dimension 0 for output channels, along dimension 1 for input channels. Input channels of a
    grouped convolution lie in different rows of the weight, so there the compact form is
    `[channels, C_out / groups, *kernel]`. A selection without channels is a whole bias.
    """

    weight: Shape
    axis: Axis = "output"
    channels: tuple[int, ...] | None = None
    groups: int = 1

    @property
    def count(self) -> int:
        """How many channels the axis has."""
        return self.weight[0] if self.axis == "output" else self.weight[1] * self.groups

    @property
    def is_whole(self) -> bool:
        """Whether everything is selected."""
        return self.channels is None or len(self.channels) == self.count

    @property
    def is_scattered(self) -> bool:
        """Whether the compact form is not a slice along one dimension of the weight."""
        return self.axis == "input" and self.groups > 1

    @property
    def dimension(self) -> int:
        """The dimension of the weight (and of the compact form) that is selected along."""
        return 0 if self.axis == "output" else 1

    @property
    def shape(self) -> Shape:
        """Shape of the compact form."""
        if self.channels is None:
            return self.weight
        n = len(self.channels)
        if self.is_scattered:
            return (n, self.weight[0] // self.groups, *self.weight[2:])
        if self.axis == "output":
            return (n, *self.weight[1:])
        return (self.weight[0], n, *self.weight[2:])

    def read(self, weight: Tensor) -> Tensor:
        """The compact form of what `weight` holds: a view where it can be one, else a copy."""
        if self.is_scattered:
            group, row = self._places(weight.device)
            return self._by_group(weight)[group, :, row]
        return weight if self.channels is None else take(weight, self.dimension, self.channels)

    def write(self, weight: Tensor, compact: Tensor) -> None:
        """Put the compact form back into `weight`; the rest of it is not touched."""
        if self.is_scattered:
            group, row = self._places(weight.device)
            self._by_group(weight)[group, :, row] = compact
        elif (part := self._view(weight)) is not None:
            part.copy_(compact)
        else:
            assert self.channels is not None
            index = torch.tensor(self.channels, device=weight.device)
            weight.index_copy_(self.dimension, index, compact)

    def add(self, weight: Tensor, compact: Tensor, factor: float) -> None:
        """`weight += factor * compact` on what is selected; the rest is not touched."""
        if self.is_scattered:
            self.write(weight, self.read(weight).add_(compact, alpha=factor))
        elif (part := self._view(weight)) is not None:
            part.add_(compact, alpha=factor)
        else:
            assert self.channels is not None
            index = torch.tensor(self.channels, device=weight.device)
            weight.index_add_(self.dimension, index, compact, alpha=factor)

    def _view(self, weight: Tensor) -> Tensor | None:
        if self.channels is None:
            return weight
        first, n = self.channels[0], len(self.channels)
        if self.channels[-1] - first + 1 != n:
            return None
        return weight.narrow(self.dimension, first, n)

    def _by_group(self, weight: Tensor) -> Tensor:
        return weight.view(self.groups, -1, *self.weight[1:])

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        assert self.channels is not None
        channels = torch.tensor(self.channels, device=device)
        return channels // self.weight[1], channels % self.weight[1]


def take(tensor: Tensor, dimension: int, channels: Sequence[int]) -> Tensor:
    """Some channels, ascending, of a tensor: a view if they follow one another, else a copy."""
    first, n = channels[0], len(channels)
    if channels[-1] - first + 1 == n:
        return tensor if n == tensor.shape[dimension] else tensor.narrow(dimension, first, n)
    return tensor.index_select(dimension, torch.tensor(channels, device=tensor.device))

"""The part of a weight that an update plan selects, and reading and writing it in place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from costsim.ir.operators import Axis, Shape
from costsim.run.execution.layout import has_channels_last, rows_of


@dataclass(frozen=True)
class Channels:
    """Indices along one dimension, ascending; as a tensor they are made once a device."""

    numbers: Sequence[int]
    _tensors: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def is_range(self) -> bool:
        """Whether they follow one another."""
        return self.numbers[-1] - self.numbers[0] + 1 == len(self.numbers)

    def index(self, device: torch.device) -> Tensor:
        """As a tensor of int64."""
        if device not in self._tensors:
            self._tensors[device] = torch.tensor(self.numbers, device=device)
        return self._tensors[device]

    def of(self, tensor: Tensor, dimension: int) -> Tensor:
        """These channels of a tensor: a view if they follow one another, else a copy."""
        if not self.is_range:
            if dimension == 1 and has_channels_last(tensor):
                n, _, height, width = tensor.shape
                rows = rows_of(tensor).index_select(1, self.index(tensor.device))
                return rows.view(n, height, width, -1).permute(0, 3, 1, 2)
            return tensor.index_select(dimension, self.index(tensor.device))
        n = len(self.numbers)
        whole = n == tensor.shape[dimension]
        return tensor if whole else tensor.narrow(dimension, self.numbers[0], n)

    def copied(self, tensor: Tensor, dimension: int, form: torch.memory_format) -> Tensor:
        """These channels of a tensor, in memory of their own that is laid out as `form`."""
        part = self.of(tensor, dimension)
        if self.is_range:
            return part.clone(memory_format=form)
        return part.contiguous(memory_format=form)


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

    @cached_property
    def picked(self) -> "Channels":
        """The channels, ready to be taken from tensors."""
        assert self.channels is not None
        return Channels(self.channels)

    @property
    def count(self) -> int:
        """How many channels the axis has."""
        return self.weight[0] if self.axis == "output" else self.weight[1] * self.groups

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
        return weight if self.channels is None else self.picked.of(weight, self.dimension)

    def write(self, weight: Tensor, compact: Tensor) -> None:
        """Put the compact form back into `weight`; the rest of it is not touched."""
        if self.is_scattered:
            group, row = self._places(weight.device)
            self._by_group(weight)[group, :, row] = compact
        elif (part := self._view(weight)) is not None:
            part.copy_(compact)
        else:
            weight.index_copy_(self.dimension, self.picked.index(weight.device), compact)

    def adder(self, weight: Tensor) -> Callable[[Tensor, float], object]:
        """(compact, factor): `weight += factor * compact` on what is selected and nowhere else.

        For one weight, so that what there is to look up is looked up once.
        """
        weight = weight.detach()
        if self.is_scattered:
            return lambda compact, factor: self.write(
                weight, self.read(weight).add_(compact, alpha=factor)
            )
        if (part := self._view(weight)) is not None:
            view = part
            return lambda compact, factor: view.add_(compact, alpha=factor)
        dimension, index = self.dimension, self.picked.index(weight.device)
        return lambda compact, factor: weight.index_add_(dimension, index, compact, alpha=factor)

    def _view(self, weight: Tensor) -> Tensor | None:
        if self.channels is None:
            return weight
        return self.picked.of(weight, self.dimension) if self.picked.is_range else None

    def _by_group(self, weight: Tensor) -> Tensor:
        return weight.view(self.groups, -1, *self.weight[1:])

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        channels = self.picked.index(device)
        return channels // self.weight[1], channels % self.weight[1]

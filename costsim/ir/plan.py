"""What to update: channels of layers, and biases."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Axis


@dataclass(frozen=True, slots=True)
class ChannelSubset:
    """Some channels of one layer's weight, along its `output` or its `input` axis.

    `channels` are distinct indices, kept in ascending order, at least one.
    """

    layer: str
    axis: Axis
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.channels))
        if not ordered:
            raise InputError(f"layer {self.layer!r}: a channel subset needs at least one channel")
        if len(set(ordered)) != len(ordered):
            raise InputError(f"layer {self.layer!r}: a channel is listed twice")
        if self.axis not in ("output", "input"):
            raise InputError(f"layer {self.layer!r}: axis {self.axis!r} is not 'output' or 'input'")
        object.__setattr__(self, "channels", ordered)


@dataclass(frozen=True)
class UpdatePlan:
    """Channel subsets, at most one a layer, and the layers whose whole bias is updated.

    A plan is a value: two plans with the same content are equal, whatever the order given.
    """

    subsets: tuple[ChannelSubset, ...] = ()
    biases: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        subsets = tuple(sorted(self.subsets, key=lambda subset: subset.layer))
        names = [subset.layer for subset in subsets]
        if len(set(names)) != len(names):
            raise InputError("a plan names a layer's weight twice")
        object.__setattr__(self, "subsets", subsets)
        object.__setattr__(self, "biases", frozenset(self.biases))

    @cached_property
    def by_layer(self) -> Mapping[str, ChannelSubset]:
        """The channel subset of each layer that has one."""
        return {subset.layer: subset for subset in self.subsets}

    def check(self, graph: LayerGraph) -> None:
        """Raise `InputError` if `graph` lacks a layer, a bias or a channel that the plan names.

        Or if the model's author froze it.
        """
        for subset in self.subsets:
            if subset.layer not in graph.layers:
                raise InputError(f"layer {subset.layer!r} is not in the model")
            graph.check_not_frozen(subset.layer, subset.axis)
            count = graph.selectable_channels(subset.layer, subset.axis)
            if subset.channels[0] < 0 or subset.channels[-1] >= count:
                raise InputError(
                    f"layer {subset.layer!r} has {count} selectable {subset.axis} channels; "
                    f"the plan asks for {subset.channels[0]} to {subset.channels[-1]}"
                )
        for name in sorted(self.biases):
            if name not in graph.layers:
                raise InputError(f"layer {name!r} is not in the model")
            if graph.layers[name].bias is None:
                raise InputError(f"layer {name!r} has no bias to update")
            graph.check_not_frozen(name, "bias")

    @classmethod
    def full(cls, graph: LayerGraph) -> "UpdatePlan":
        """Every weight and every bias of `graph` that is not frozen."""
        counts = {name: graph.selectable_channels(name, "output") for name in graph.layers}
        return cls(
            tuple(
                ChannelSubset(name, "output", tuple(range(count)))
                for name, count in counts.items()
                if count
            ),
            frozenset(name for name in graph.layers if graph.selectable(name, "bias")),
        )

    def to_json(self, order: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """The `layers` of a plan file, in the given order of layers (alphabetical without one)."""
        named = self.by_layer.keys() | self.biases
        names = sorted(named) if order is None else [name for name in order if name in named]
        return [
            {
                "name": name,
                "axis": self.by_layer[name].axis if name in self.by_layer else None,
                "channels": list(self.by_layer[name].channels) if name in self.by_layer else [],
                "bias": name in self.biases,
            }
            for name in names
        ]

    @classmethod
    def from_json(cls, layers: Iterable[Mapping[str, Any]]) -> "UpdatePlan":
        """The plan that `to_json` wrote; raises `InputError` for a malformed entry."""
        subsets, biases = [], set()
        for item in layers:
            try:
                name, axis, channels = item["name"], item["axis"], item["channels"]
                if channels:
                    subsets.append(ChannelSubset(name, axis, tuple(channels)))
                if item["bias"]:
                    biases.add(name)
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"plan layer {item!r}: needs 'name', 'axis', 'channels' and 'bias'"
                ) from error
        return cls(tuple(subsets), frozenset(biases))

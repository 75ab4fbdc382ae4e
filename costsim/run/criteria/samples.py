"""Along which dimension of each value of a network its samples lie."""

from collections.abc import Iterable, Mapping
from math import prod

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import (
    Concatenate,
    LayerNorm,
    LogSoftmax,
    Mean,
    Pad,
    Permute,
    Shape,
    Slice,
    Softmax,
)

_FIRST = frozenset(
    {"convolution", "batch_norm", "group_norm", "max_pool", "average_pool", "adaptive_average_pool"}
)
"""Kinds whose samples are those of their first dimension."""


def sample_axes(graph: LayerGraph) -> Mapping[str, int | None]:
    """By call: the dimension that samples lie along; None where that is none, or not known.

    A transformer may have its tokens first, windows lie beside samples in one dimension: such
    values cannot be cut into samples by their first dimension.
    """
    axes: dict[str, int | None] = {graph.input: 0}
    for call in graph.calls:
        if call.name == graph.input:
            continue
        found = {
            _through(call, graph[name].shape, own)
            for name in call.inputs
            if (own := axes[name]) is not None
        } - {None}
        axes[call.name] = found.pop() if len(found) == 1 else None
    return axes


def first_without_samples(graph: LayerGraph, names: Iterable[str]) -> str | None:
    """The first of these calls whose value cannot be cut into samples along its first dimension."""
    axes = sample_axes(graph)
    cannot = (
        name
        for name in names
        if graph[name].shape[:1] != (graph.batch,) or axes[name] not in (0, None)
    )
    return next(cannot, None) if graph.batch > 1 else None


def _through(call: Call, shape: Shape, axis: int) -> int | None:
    """Where the dimension `axis` of an input of `shape` is in the output; None if nowhere."""
    o, rank = call.operator, len(shape)
    if isinstance(o, Permute):
        return o.dimensions.index(axis)
    if isinstance(o, Mean):
        return None if axis in o.dimensions else _left(axis, o)
    if o.kind == "reshape":
        return _reshaped(shape, call.shape, axis)
    if isinstance(o, Slice | Concatenate | Softmax | LogSoftmax) and o.dimension % rank == axis:
        return None
    if isinstance(o, Pad) and any(o.padding[axis]):
        return None
    if o.kind in _FIRST:
        return 0 if axis == 0 else None
    inner = o.dimensions if isinstance(o, LayerNorm) else {"linear": 1, "matmul": 2}.get(o.kind, 0)
    if axis >= rank - inner:
        return None
    return axis + len(call.shape) - rank


def _left(axis: int, o: Mean) -> int:
    return axis if o.keep_dimensions else axis - sum(d < axis for d in o.dimensions)


def _reshaped(before: Shape, after: Shape, axis: int) -> int | None:
    ahead = prod(before[:axis])
    places = (
        place
        for place, size in enumerate(after)
        if size == before[axis] and prod(after[:place]) == ahead
    )
    return next(places, None)

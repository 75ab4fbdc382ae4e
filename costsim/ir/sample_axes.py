"""Along which dimension of each value of a network its samples lie."""

from collections.abc import Iterable, Mapping

from costsim.ir.graph import LayerGraph


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
            call.operator.output_dimension(graph.shapes(call), index, own)
            for index, name in enumerate(call.inputs)
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

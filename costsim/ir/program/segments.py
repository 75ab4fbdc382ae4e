"""Where a forward pass can be cut for recomputation."""

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import elements


def cut_calls(graph: LayerGraph) -> tuple[str, ...]:
    """Calls after which a single value is all that the rest of the graph reads, in order.

    Parameters used as values do not count: they are there anyway.
    """
    last_use: dict[str, int] = {}
    for position, call in enumerate(graph.calls):
        for value in call.inputs:
            last_use[value] = position
    parameters = {call.name for call in graph.calls if call.operator.source == "parameter"}
    found = []
    open_values: set[str] = set()
    for position, call in enumerate(graph.calls[:-1]):
        open_values = {v for v in open_values if last_use[v] > position}
        if call.name not in parameters:
            open_values.add(call.name)
        if open_values == {call.name} and call.name != graph.input:
            found.append(call.name)
    return tuple(found)


def even_cuts(graph: LayerGraph, count: int) -> tuple[str, ...]:
    """Cuts into `count` segments whose activations take about the same room, or fewer if the
    graph has fewer places to cut.

    Raises `InputError` for a count below 1.
    """
    if count < 1:
        raise InputError(f"recomputation in {count} segments; at least 1 is needed")
    sizes = {call.name: elements(call.shape) for call in graph.calls}
    total, passed = sum(sizes.values()), 0
    allowed, cuts = set(cut_calls(graph)), list[str]()
    for call in graph.calls:
        passed += sizes[call.name]
        enough = passed >= total * (len(cuts) + 1) / count
        if enough and call.name in allowed and len(cuts) + 1 < count:
            cuts.append(call.name)
    return tuple(cuts)


def segments(graph: LayerGraph, cuts: tuple[str, ...]) -> dict[str, int]:
    """The segment each call lies in, counted from 0, for cuts after the calls named.

    Raises `InputError` for a name after which more than one value is read.
    """
    allowed = cut_calls(graph) if cuts else ()
    for name in cuts:
        if name not in allowed:
            raise InputError(
                f"recompute: the forward pass cannot be cut after {name!r}; "
                f"possible are {', '.join(allowed) or 'no calls of this graph'}"
            )
    found, segment = {}, 0
    for call in graph.calls:
        found[call.name] = segment
        if call.name in cuts:
            segment += 1
    return found

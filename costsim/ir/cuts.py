"""Where a network can be cut in two, so that its frozen part is computed once."""

from collections.abc import Iterable
from functools import lru_cache

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Input
from costsim.ir.plan import UpdatePlan
from costsim.ir.sample_axes import sample_axes


@lru_cache(maxsize=64)
def cuts(graph: LayerGraph) -> tuple[str, ...]:
    """The calls through whose value everything from the input to the output passes, in order.

    The first is the input, the last the output. All that follows such a call reads nothing that
    comes before it, but for values that do not depend on the input. Samples lie along the first
    dimension of each, so that values of several passes can be put together and cut again.
    """
    axes = sample_axes(graph)
    after_input = graph.behind(graph.input) | {graph.input}
    found: list[str] = []
    waiting: set[str] = set()  # values computed so far that are still to be read
    readers = {name: {call.name for call in calls} for name, calls in graph.readers.items()}
    done: set[str] = set()
    for call in graph.calls:
        if call.name not in after_input:
            continue
        done.add(call.name)
        waiting.add(call.name)
        waiting = {name for name in waiting if name == call.name or readers[name] - done}
        if waiting == {call.name} and (axes[call.name] == 0 or call.name == graph.output):
            found.append(call.name)
        if call.name == graph.output:
            break
    return tuple(found)


def last_frozen_cut(graph: LayerGraph, updated: Iterable[str]) -> str:
    """The last cut before which none of the `updated` layers is computed; the input if none is."""
    layers = set(updated)
    first = next(
        (i for i, call in enumerate(graph.calls) if call.layer in layers), len(graph.calls)
    )
    places = {call.name: i for i, call in enumerate(graph.calls)}
    return [name for name in cuts(graph) if places[name] < first or name == graph.input][-1]


def updated_layers(plan: UpdatePlan) -> frozenset[str]:
    """The layers of which a plan updates anything."""
    return frozenset(plan.by_layer) | plan.biases


@lru_cache(maxsize=256)
def between(graph: LayerGraph, start: str, end: str | None = None) -> LayerGraph:
    """What is computed from the value of the cut `start` to that of the cut `end`, as a graph.

    Its input has the name and shape of `start`. Without `end`: to the output. Kept by value: every
    way of adapting that is compared asks for it again.
    """
    end = graph.output if end is None else end
    if start == graph.input and end == graph.output:
        return graph
    needed = {end} | graph.before(end)
    before = graph.before(start)
    calls = [
        call
        for call in graph.calls
        if call.name in needed and call.name != start and call.name not in before
    ]
    free = {name for call in calls for name in call.inputs} - {c.name for c in calls} - {start}
    free |= {earlier for name in free for earlier in graph.before(name)}
    shape = graph[start].shape
    entry = Call(start, Input(shape), (), shape)
    constants = [call for call in graph.calls if call.name in free]
    return LayerGraph((entry, *constants, *calls), output=end)

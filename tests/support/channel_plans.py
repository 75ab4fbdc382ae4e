"""Plans of some channels of some layers, the same ones every time."""

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Axis
from costsim.ir.plan import ChannelSubset, UpdatePlan


def every_other_channel(graph: LayerGraph) -> UpdatePlan:
    """Every other channel of every layer, alternating axes, and all biases there are."""
    subsets = []
    for i, name in enumerate(graph.layers):
        axis: Axis = "input" if i % 2 and graph.selectable_channels(name, "input") else "output"
        count = graph.selectable_channels(name, axis)
        subsets.append(ChannelSubset(name, axis, tuple(range(i % 2, count, 2))))
    return UpdatePlan(tuple(subsets), UpdatePlan.full(graph).biases)


def every_nth_layer(graph: LayerGraph, n: int) -> UpdatePlan:
    """A third of the channels of every n-th layer, alternating axes, and the biases there are."""
    subsets, biases = [], set()
    for i, name in enumerate(list(graph.layers)[::n]):
        axis: Axis = "input" if i % 2 and graph.selectable_channels(name, "input") else "output"
        count = graph.selectable_channels(name, axis)
        if count:
            subsets.append(ChannelSubset(name, axis, tuple(range(i % 3, count, 3)) or (0,)))
        if graph.layers[name].bias:
            biases.add(name)
    return UpdatePlan(tuple(subsets), frozenset(biases))


def late_plan(graph: LayerGraph, layers: int = 4) -> UpdatePlan:
    """A third of the channels of the last layers that have any, and all biases there are."""
    chosen = [name for name in graph.layers if graph.selectable_channels(name, "output") > 2]
    subsets = []
    for index, name in enumerate(chosen[-layers:]):
        axis: Axis = (
            "output" if index % 2 or not graph.selectable_channels(name, "input") else "input"
        )
        count = graph.selectable_channels(name, axis)
        subsets.append(ChannelSubset(name, axis, tuple(range(0, count, 3))))
    biases = frozenset(n for n in chosen[-layers:] if graph.layers[n].bias is not None)
    return UpdatePlan(tuple(subsets), biases)


def channel_plans(graph: LayerGraph) -> list[UpdatePlan]:
    """Everything; everything but weights; and for each axis all, one, and scattered channels."""
    full = UpdatePlan.full(graph)
    found = [full, UpdatePlan((), full.biases), UpdatePlan()]
    for name in graph.layers:
        for axis in ("output", "input"):
            count = graph.selectable_channels(name, axis)
            for channels in {
                tuple(range(count)),
                (0,)[:count],
                tuple(range(0, count, 2)),
                tuple(range(1, count)),
            }:
                if channels:
                    subset = ChannelSubset(name, axis, channels)
                    found += [UpdatePlan((subset,)), UpdatePlan((subset,), full.biases)]
    return found

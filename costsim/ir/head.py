"""What a model ends in."""

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import elements


def linear_head(graph: LayerGraph, *, pooled: bool = False) -> Call | None:
    """The linear layer, or 1x1 convolution at one place, whose outputs the model returns.

    None where another kind of layer makes them: features, in most models. Operators without
    weights that follow it and keep its channels (a softmax, a reshape) count as part of it.
    `pooled`: a 1x1 convolution at many places too, whose outputs are averaged (SqueezeNet's head).
    """
    call = graph[graph.output]
    while call.layer is None and len(call.inputs) == 1:
        before = graph[call.inputs[0]]
        if call.operator.averages and not pooled:
            return None  # of one place too: a body whose last map is 1x1 gives features
        if before.shape[1:2] != call.shape[1:2]:
            return None
        call = before
    places = 1 if pooled else elements(call.shape[2:])
    if call.weight is None or places * elements(call.weight.shape[2:]) != 1:
        return None
    return call

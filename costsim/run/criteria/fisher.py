"""Fisher information of activations: how much the loss of each sample hangs on a channel.

A channel of a layer multiplied by a gain `m` that stands at 1 changes the loss `L_n` of sample
n by `dL_n/dm = Σ_d a_nd g_nd`, with `a` the channel's activations, `g` their gradients and `d`
running over all positions (and over all calls of a layer that is used more than once). The
empirical Fisher information of the gain, halved, is the score:

    Δ = 1/(2N) Σ_n (Σ_d a_nd g_nd)²

Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018; TinyTrain,
ICML 2024. The activation is the layer's own output, before any normalisation or non-linearity
that follows as a call of its own. An element b of a bias is scored by the same formula with a gain
on it alone, `dL_n/dm = b Σ_d g_nd`: one that is 0 scores 0, however large its gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from costsim.ir.graph import Call
from costsim.ir.operators import UpdateKind
from costsim.run.criteria.base import Criterion, Request, Target

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fisher(Criterion):
    """Fisher scores from one backward pass over all samples, the graph's batch at a time.

    Along the input axis the same formula is applied to what the layer reads, with the gradient
    that this layer alone sends back: the gain is on the weights of one input channel, and other
    readers of the same value do not count.

    A graph traced for one sample serves every model; one traced for more must keep the sample
    as the first dimension of what the inspected layers read and compute.
    """

    name: ClassVar[str] = "fisher"

    def channel_scores(self, request: Request) -> Mapping[Target, NDArray[np.float64]]:
        """`Δ` of every channel of every target."""
        import torch

        from costsim.run.criteria.passes import checked_tensors
        from costsim.run.criteria.slopes import channel_count, input_gradient, slopes

        graph = request.graph
        tensors = checked_tensors(request)
        for layer in request.layers:
            # a value is differentiable once anything that it is computed from is
            source = graph.layers[layer].bias or graph.layers[layer].weight
            assert source is not None
            tensors[source.name] = tensors[source.name].requires_grad_()

        def product(
            call: Call, axis: UpdateKind, values: "Mapping[str, Tensor]", gradient: "Tensor"
        ) -> "Tensor":
            if axis == "output":
                return values[call.name].detach() * gradient
            value = values[call.inputs[0]].detach()
            return value * input_gradient(call, tensors, value, gradient)

        biases = {
            layer: tensors[request.parameter((layer, axis)).name].detach()
            for layer, axis in request.targets
            if axis == "bias"
        }
        totals = {
            target: torch.zeros(channel_count(request, target), dtype=torch.float64)
            for target in request.targets
        }
        for found in slopes(request, tensors, product, biases, reads=("input",), what=self.name):
            for target, slope in found.items():
                totals[target] += slope.square().sum(0).cpu()
        samples = len(request.images)
        return {target: (total / (2 * samples)).numpy() for target, total in totals.items()}

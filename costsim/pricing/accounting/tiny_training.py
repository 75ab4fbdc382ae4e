"""The int8 accounting of "On-Device Training Under 256KB Memory" (Lin et al., NeurIPS 2022).

What it counts, for batch 1 (established against the sizes in the authors' published schemes):

- 8 bits for each weight that is updated;
- 8 bits for each element kept for those weights' gradients: of an input-channel subset those
  channels of the input, of an output-channel subset the whole input (depthwise: the channels);
- 32 bits for each bias that is updated;
- 1 bit for each output element of a layer whose bias is updated, linear outputs included: whether
  int8 saturation stopped the gradient there;
- 8 bits for each element of the classifier's input, which is always kept. The classifier's own
  weights are not counted, and neither are gradients or optimizer state.

A tensor that two layers read is counted for each: no sharing, so that the sum is linear in the
channels chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Axis, UpdateKind, elements
from costsim.ir.plan import UpdatePlan

WEIGHT_BITS = 8
ACTIVATION_BITS = 8
BIAS_BITS = 32
MASK_BITS = 1


@dataclass(frozen=True, slots=True)
class LayerCharge:
    """Bytes one layer adds: `count * channel_bytes + fixed_bytes` for a subset of `count`."""

    channel_bytes: int
    fixed_bytes: int


@dataclass(frozen=True, slots=True)
class TinyTrainingTerms:
    """The accounting as a sum: linear in the channels of each layer, with a charge for opening it.

    `charges` has an entry for each layer and axis with selectable channels, `bias_bytes` for each
    layer with a bias; `constant_bytes` is there whatever the plan.
    """

    charges: Mapping[tuple[str, Axis], LayerCharge]
    bias_bytes: Mapping[str, int]
    constant_bytes: int

    def charge(self, layer: str, kind: UpdateKind) -> LayerCharge:
        """What channels of a layer add, or its bias alone (a count of one)."""
        if kind == "bias":
            return LayerCharge(self.bias_bytes[layer], 0)
        return self.charges[layer, kind]

    def price(self, plan: UpdatePlan) -> int:
        """Bytes of `plan`, which must fit the graph of these terms."""
        total = self.constant_bytes + sum(self.bias_bytes[name] for name in plan.biases)
        for subset in plan.subsets:
            charge = self.charges[subset.layer, subset.axis]
            total += charge.fixed_bytes + charge.channel_bytes * len(subset.channels)
        return total


def tiny_training_terms(graph: LayerGraph) -> TinyTrainingTerms:
    """The terms of every layer of `graph`, whatever batch it was traced at."""
    charges: dict[tuple[str, Axis], LayerCharge] = {}
    bias_bytes: dict[str, int] = {}
    for name, layer in graph.layers.items():
        axes: tuple[Axis, ...] = ("output", "input")
        for axis in axes:
            if count := graph.selectable_channels(name, axis):
                charges[name, axis] = _charge(graph, name, axis, count)
        if layer.bias is not None:
            outputs = sum(elements(graph[call].shape) for call in layer.calls) // graph.batch
            bias_bytes[name] = _bytes(layer.bias.size, BIAS_BITS) + _bytes(outputs, MASK_BITS)
    features = elements(graph[graph.output].shape) // graph.batch
    return TinyTrainingTerms(charges, bias_bytes, _bytes(features, ACTIVATION_BITS))


def tiny_training_bytes(graph: LayerGraph, plan: UpdatePlan) -> int:
    """Bytes of `plan` on `graph` in this accounting; raises `InputError` if it does not fit."""
    plan.check(graph)
    return tiny_training_terms(graph).price(plan)


def _charge(graph: LayerGraph, name: str, axis: Axis, count: int) -> LayerCharge:
    layer = graph.layers[name]
    assert layer.weight is not None
    channel_bytes = _bytes(layer.weight.size // count, WEIGHT_BITS)
    fixed_bytes = 0
    for call in map(graph.__getitem__, layer.calls):
        shapes = graph.shapes(call)
        for need in call.operator.weight_gradient_needs(shapes, axis):
            if need.source == "saved":
                saved = call.operator.saved(shapes)
                assert saved is not None
                fixed_bytes += _bytes(elements(saved.shape) // graph.batch, saved.bits)
                continue
            kept = shapes.output if need.source == "output" else shapes.inputs[need.index]
            size = _bytes(elements(kept) // graph.batch, ACTIVATION_BITS)
            if need.selected_only:
                channel_bytes += size // count
            else:
                fixed_bytes += size
    return LayerCharge(channel_bytes, fixed_bytes)


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)

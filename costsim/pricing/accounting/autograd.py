"""What stock PyTorch keeps for the same step, for comparison.

From the earliest updated layer on, autograd saves for each call what its backward formula names,
needed or not: a convolution and a batch norm in evaluation mode save their input even when
frozen, ReLU6 its input, ReLU its output. Source: `tools/autograd/derivatives.yaml` of PyTorch.
Verified for the built-in networks against `torch.autograd.graph.saved_tensors_hooks`.

Known limits: operators are taken out of place (an in-place ReLU6 saves its output, not its
input); attention as one fused kernel saves less than the products and softmax counted here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import (
    AdaptiveAveragePool,
    AveragePool,
    BatchNorm,
    Convolution,
    Expand,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool,
    Operator,
    Permute,
    ReLU,
    Shapes,
    Slice,
    elements,
)
from costsim.ir.operators.activation import LogSigmoid, Masked
from costsim.ir.operators.convolution import DynamicConvolution, TransposedConvolution
from costsim.ir.operators.elementwise import Where
from costsim.ir.operators.reading import Reading
from costsim.ir.operators.sampling import Embedding, Lookup
from costsim.ir.plan import UpdatePlan

ELEMENT_BYTES = 4
"""Stock training is in fp32."""
INDEX_BYTES = 8
"""Max pooling saves 64-bit indices."""


@dataclass(frozen=True, slots=True)
class AutogradMemory:
    """Bytes of one step in stock PyTorch: each tensor once, transient tensors not counted."""

    kept_bytes: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of the parts."""
        return self.kept_bytes + self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes


def autograd_memory(
    graph: LayerGraph, plan: UpdatePlan, *, optimizer_states: int = 0
) -> AutogradMemory:
    """What training `plan` on `graph` keeps in stock PyTorch, at the batch of the graph.

    A tensor can only be trained whole there: a channel subset makes its whole weight require
    gradients. `optimizer_states` tensors are kept for each trained one (SGD 0, momentum 1, Adam
    2). Raises `InputError` if the plan does not fit the graph.
    """
    plan.check(graph)
    trained = sum(
        parameter.size
        for name, layer in graph.layers.items()
        for parameter, chosen in (
            (layer.weight, name in plan.by_layer),
            (layer.bias, name in plan.biases),
        )
        if parameter is not None and chosen
    )
    return AutogradMemory(
        kept_bytes=sum(saved_bytes(graph, plan).values()),
        parameter_bytes=ELEMENT_BYTES * sum(parameter.size for parameter in graph.parameters),
        gradient_bytes=ELEMENT_BYTES * trained,
        optimizer_bytes=ELEMENT_BYTES * trained * optimizer_states,
    )


def saved_bytes(graph: LayerGraph, plan: UpdatePlan) -> dict[str, int]:
    """Bytes autograd saves, by the call whose storage they are (`name:extra` beside an output)."""
    storages = _storages(graph)
    differentiable: set[str] = set()
    saved: dict[str, int] = {}
    for call in graph.calls:
        weight_trained = call.layer is not None and call.layer in plan.by_layer
        bias_trained = call.layer is not None and call.layer in plan.biases
        flows = tuple(name in differentiable for name in call.inputs)
        if not (weight_trained or bias_trained or any(flows)):
            continue
        differentiable.add(call.name)
        for item in SAVED[call.operator](Crossing(graph, call, flows, weight_trained)):
            if isinstance(item, int):
                saved[f"{call.name}:extra"] = saved.get(f"{call.name}:extra", 0) + item
            else:
                root = storages[item]
                if graph[root].operator.source == "parameter":
                    continue  # of the model itself, and there anyway
                saved[root] = ELEMENT_BYTES * elements(graph[root].shape)
    return saved


def _storages(graph: LayerGraph) -> dict[str, str]:
    """For each call, the one whose storage its value lives in: torch's views share theirs."""
    root: dict[str, str] = {}
    contiguous: dict[str, bool] = {}
    for call in graph.calls:
        o = call.operator
        dense = all(contiguous[name] for name in call.inputs)
        if isinstance(o, Permute | Slice | Expand):
            root[call.name], contiguous[call.name] = root[call.inputs[0]], False
        elif o.is_view and (dense or _only_ones_differ(graph.shapes(call))):
            root[call.name], contiguous[call.name] = root[call.inputs[0]], dense
        else:
            root[call.name], contiguous[call.name] = call.name, True
    return root


def _only_ones_differ(shapes: Shapes) -> bool:
    """Whether a reshape adds or drops dimensions of size one: a view even of scattered rows."""
    source, target = (
        [size for size in shape if size != 1] for shape in (shapes.inputs[0], shapes.output)
    )
    return source == target


Saved = Iterator[str | int]
"""Names of calls whose value is saved, and bytes of tensors that are no call's value."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A call that a gradient crosses or stops at.

    `flows` says of each input whether the gradient goes on to it, `weight` whether the call's
    weight is trained.
    """

    graph: LayerGraph
    call: Call
    flows: tuple[bool, ...]
    weight: bool


SAVED: Reading[[Crossing], Saved] = Reading("entry in `SAVED`")
"""What each operator saves when a gradient will cross it or stop at its parameters."""


@SAVED.of(Operator)  # type: ignore[type-abstract]
def _read_by_gradients(o: Operator, s: Crossing) -> Saved:
    """The values that gradients read: autograd's formulas are ours, but for those below."""
    shapes = s.graph.shapes(s.call)
    for index, flow in enumerate(s.flows):
        for need in o.input_gradient_needs(shapes, index) if flow else ():
            yield s.call.name if need.source == "output" else s.call.inputs[need.index]


@SAVED.of(Convolution, TransposedConvolution, BatchNorm, Masked, AveragePool)
def _input(o: Operator, s: Crossing) -> Saved:
    yield s.call.inputs[0]


@SAVED.of(DynamicConvolution)
def _input_and_weight(o: DynamicConvolution, s: Crossing) -> Saved:
    yield from s.call.inputs


@SAVED.of(ReLU)
def _output(o: ReLU, s: Crossing) -> Saved:
    yield s.call.name


@SAVED.of(Linear)
def _input_for_weight(o: Linear, s: Crossing) -> Saved:
    if s.weight:
        yield s.call.inputs[0]


@SAVED.of(LayerNorm, GroupNorm)
def _input_and_statistics(o: Operator, s: Crossing) -> Saved:
    yield s.call.inputs[0]
    statistics = o.saved(s.graph.shapes(s.call))
    assert statistics is not None
    yield ELEMENT_BYTES * elements(statistics.shape)


@SAVED.of(LogSigmoid)
def _input_and_exponentials(o: LogSigmoid, s: Crossing) -> Saved:
    """On a CPU; on a GPU the second is empty."""
    yield s.call.inputs[0]
    yield ELEMENT_BYTES * elements(s.call.shape)


@SAVED.of(MaxPool)
def _input_and_indices(o: MaxPool, s: Crossing) -> Saved:
    yield s.call.inputs[0]
    yield INDEX_BYTES * elements(s.call.shape)


@SAVED.of(Lookup)
def _indices(o: Lookup, s: Crossing) -> Saved:
    yield INDEX_BYTES * len(o.places)


@SAVED.of(Embedding)
def _tokens(o: Embedding, s: Crossing) -> Saved:
    yield INDEX_BYTES * elements(s.graph.shapes(s.call).inputs[1])


@SAVED.of(Where)
def _condition(o: Where, s: Crossing) -> Saved:
    yield elements(o.condition)


@SAVED.of(AdaptiveAveragePool)
def _adaptive_pool(o: AdaptiveAveragePool, s: Crossing) -> Saved:
    if set(o.output) != {1}:  # down to one cell torch calls mean, which saves nothing
        yield s.call.inputs[0]

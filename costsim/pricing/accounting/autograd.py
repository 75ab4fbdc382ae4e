"""What stock PyTorch keeps for the same step, for comparison.

From the earliest updated layer on, autograd saves for each call what its backward formula names,
needed or not: a convolution and a batch norm in evaluation mode save their input even when
frozen, ReLU6 its input, ReLU its output. Source: `tools/autograd/derivatives.yaml` of PyTorch.
Verified for the built-in networks against `torch.autograd.graph.saved_tensors_hooks`.

Known limits: operators are taken out of place (an in-place ReLU6 saves its output, not its
input); attention as one fused kernel saves less than the products and softmax counted here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from costsim.base.errors import InputError
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import AdaptiveAveragePool, Shapes, elements
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
        if call.operator.kind not in SAVED:
            raise InputError(f"operator {call.operator.kind!r} has no entry in `SAVED`")
        for item in SAVED[call.operator.kind](graph, call, flows, weight_trained):
            if isinstance(item, int):
                saved[f"{call.name}:extra"] = saved.get(f"{call.name}:extra", 0) + item
            else:
                root = storages[item]
                saved[root] = ELEMENT_BYTES * elements(graph[root].shape)
    return saved


def _storages(graph: LayerGraph) -> dict[str, str]:
    """For each call, the one whose storage its value lives in: torch's views share theirs."""
    root: dict[str, str] = {}
    contiguous: dict[str, bool] = {}
    for call in graph.calls:
        kind = call.operator.kind
        dense = all(contiguous[name] for name in call.inputs)
        if kind in ("permute", "slice", "expand"):
            root[call.name], contiguous[call.name] = root[call.inputs[0]], False
        elif kind == "reshape" and (dense or _only_ones_differ(graph.shapes(call))):
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
Rule = Callable[[LayerGraph, Call, tuple[bool, ...], bool], Saved]


def _nothing(graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool) -> Saved:
    yield from ()


def _input(graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool) -> Saved:
    yield call.inputs[0]


def _output(graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool) -> Saved:
    yield call.name


def _input_for_weight(
    graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool
) -> Saved:
    if weight:
        yield call.inputs[0]


def _other_factor(graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool) -> Saved:
    for index, flow in enumerate(flows):
        if flow:
            yield call.inputs[1 - index]


def _input_and_statistics(
    graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool
) -> Saved:
    yield call.inputs[0]
    statistics = call.operator.saved(graph.shapes(call))
    assert statistics is not None
    yield ELEMENT_BYTES * elements(statistics.shape)


def _input_and_indices(
    graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool
) -> Saved:
    yield call.inputs[0]
    yield INDEX_BYTES * elements(call.shape)


def _adaptive_pool(graph: LayerGraph, call: Call, flows: tuple[bool, ...], weight: bool) -> Saved:
    assert isinstance(call.operator, AdaptiveAveragePool)
    if set(call.operator.output) != {1}:  # down to one cell torch calls mean, which saves nothing
        yield call.inputs[0]


SAVED: Mapping[str, Rule] = {
    "input": _nothing,
    "constant": _nothing,
    "convolution": _input,
    "linear": _input_for_weight,
    "matmul": _other_factor,
    "batch_norm": _input,
    "layer_norm": _input_and_statistics,
    "group_norm": _input_and_statistics,
    "relu": _output,
    "leaky_relu": _input,
    "clamp": _input,
    "hard_sigmoid": _input,
    "hard_swish": _input,
    "gelu": _input,
    "silu": _input,
    "elu": _input,
    "sigmoid": _output,
    "tanh": _output,
    "softmax": _output,
    "log_softmax": _output,
    "add": _nothing,
    "subtract": _nothing,
    "multiply": _other_factor,
    "scale": _nothing,
    "max_pool": _input_and_indices,
    "average_pool": _input,
    "adaptive_average_pool": _adaptive_pool,
    "mean": _nothing,
    "reshape": _nothing,
    "permute": _nothing,
    "slice": _nothing,
    "concatenate": _nothing,
    "expand": _nothing,
    "pad": _nothing,
}
"""What each operator kind saves when a gradient will cross it or stop at its parameters."""

"""The layer graph: what a model computes, without torch.

Calls are the nodes of a directed acyclic graph; the value of a call flows to the calls that name
it. A layer is what owns a weight or a bias. A module used twice is one layer with two calls.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from costsim.base.errors import InputError
from costsim.ir.operators import (
    Axis,
    Operator,
    Shape,
    ShapeError,
    Shapes,
    UpdateKind,
    elements,
    operator_from_json,
    operator_to_json,
)

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the model: its qualified name and its shape.

    `frozen`: its author wants it left as it is (`requires_grad=False`), so that no plan may update
    it. It is an ordinary weight otherwise.
    """

    name: str
    shape: Shape
    frozen: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return elements(self.shape)


@dataclass(frozen=True, slots=True)
class Call:
    """One operator call: a node of the graph, and the value it computes.

    `layer` is the name of the module (or parameter) that owns the weight or bias, which is what
    an update plan names; the name of the call itself differs from it in the second and later
    calls of a reused module. `shape` is the output's, batch dimension included.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    shape: Shape
    layer: str | None = None
    weight: Parameter | None = None
    bias: Parameter | None = None
    buffers: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """What can be updated under one name: a weight, a bias, and the calls that use them."""

    name: str
    calls: tuple[str, ...]
    weight: Parameter | None
    bias: Parameter | None


class LayerGraph:
    """The calls of a model in execution order, with one input and one output.

    Raises `InputError` for a call that names an unknown or later call, for shapes that do not
    fit, and for a graph without input or with no path from it to the output.
    """

    def __init__(self, calls: Iterable[Call], output: str | None = None) -> None:
        self.calls: tuple[Call, ...] = tuple(calls)
        if not self.calls:
            raise InputError("the layer graph has no calls")
        self.output: str = self.calls[-1].name if output is None else output
        self._by_name = {call.name: call for call in self.calls}
        if len(self._by_name) != len(self.calls):
            raise InputError("two calls of the layer graph have the same name")
        if self.output not in self._by_name:
            raise InputError(f"the output {self.output!r} is not a call of the layer graph")
        seen: set[str] = set()
        self._shapes: dict[str, Shapes] = {}  # asked for again and again
        for call in self.calls:
            if missing := [name for name in call.inputs if name not in seen]:
                raise InputError(
                    f"call {call.name!r} reads {missing[0]!r}, which comes later or never"
                )
            seen.add(call.name)
            self._shapes[call.name] = self._checked_shapes(call)
            self._check_whole(call)
        sources = [call.name for call in self.calls if call.operator.source == "sample"]
        if len(sources) != 1:
            raise InputError(f"the layer graph has {len(sources)} inputs; one is needed")
        self.input: str = sources[0]

    def _checked_shapes(self, call: Call) -> Shapes:
        inputs = tuple(self._by_name[name].shape for name in call.inputs)
        weight = call.weight.shape if call.weight else None
        try:
            shape = call.operator.output_shape(inputs, weight)
        except ShapeError as error:
            raise InputError(f"call {call.name!r} ({call.operator.kind}): {error}") from error
        if shape != call.shape:
            raise InputError(
                f"call {call.name!r} ({call.operator.kind}) has shape {call.shape}, "
                f"its operator gives {shape}"
            )
        return Shapes(inputs, call.shape, weight)

    def _check_whole(self, call: Call) -> None:
        """Refuse what is computed by parameters where no gradient could go on to them."""
        waiting = [call.inputs[index] for index in call.operator.whole_inputs]
        while waiting:
            before = self._by_name[waiting.pop()]
            if before.weight is not None or before.bias is not None:
                raise InputError(
                    f"call {call.name!r} ({call.operator.kind}): its whole numbers are computed by "
                    f"{before.name!r}; those of the sample are needed"
                )
            waiting.extend(before.inputs)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Call:
        return self._by_name[name]

    def __len__(self) -> int:
        return len(self.calls)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerGraph) and (self.calls, self.output) == (
            other.calls,
            other.output,
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.calls, self.output))

    @property
    def batch(self) -> int:
        """Samples in one pass: the input's first dimension."""
        return self[self.input].shape[0]

    @cached_property
    def digraph(self) -> "nx.DiGraph[str]":
        """The networkx view: nodes are call names with attribute `call`, edges are values."""
        import networkx as nx  # a fifth of a second that few need

        graph: nx.DiGraph[str] = nx.DiGraph()
        for call in self.calls:
            graph.add_node(call.name, call=call)
            graph.add_edges_from((name, call.name) for name in call.inputs)
        return graph

    def before(self, name: str) -> frozenset[str]:
        """All calls that the value of `name` is computed from."""
        found = set(self[name].inputs)
        for call in reversed(self.calls):  # whoever is read comes earlier
            if call.name in found:
                found.update(call.inputs)
        return frozenset(found)

    def behind(self, name: str) -> frozenset[str]:
        """All calls whose value is computed from that of `name`."""
        found = {name}
        for call in self.calls:
            if not found.isdisjoint(call.inputs):
                found.add(call.name)
        return frozenset(found - {name})

    @cached_property
    def readers(self) -> Mapping[str, tuple[Call, ...]]:
        """The calls that read each value, each once, in order; none for one that nobody reads."""
        found: dict[str, list[Call]] = {call.name: [] for call in self.calls}
        for call in self.calls:
            for name in dict.fromkeys(call.inputs):
                found[name].append(call)
        return {name: tuple(calls) for name, calls in found.items()}

    def shapes(self, call: Call) -> Shapes:
        """The shapes `call`, one of this graph's, sees."""
        return self._shapes[call.name]

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        """Every layer by name, in order of first use."""
        calls: dict[str, list[Call]] = {}
        for call in self.calls:
            if call.layer is not None:
                calls.setdefault(call.layer, []).append(call)
        return {
            name: Layer(name, tuple(call.name for call in uses), uses[0].weight, uses[0].bias)
            for name, uses in calls.items()
        }

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter and buffer once, in order of first use."""
        found = {
            parameter.name: parameter
            for call in self.calls
            for parameter in (call.weight, call.bias, *call.buffers)
            if parameter is not None
        }
        return tuple(found.values())

    @cached_property
    def frozen(self) -> tuple[Parameter, ...]:
        """The parameters of layers that are not to be updated, in order of first use."""
        owned = (part for layer in self.layers.values() for part in (layer.weight, layer.bias))
        return tuple(dict.fromkeys(part for part in owned if part is not None and part.frozen))

    def with_frozen(self, names: Collection[str]) -> "LayerGraph":
        """The same graph in which these parameters, and no others, are frozen."""
        if not names and not self.frozen:
            return self

        def marked(parameter: Parameter | None) -> Parameter | None:
            return parameter and replace(parameter, frozen=parameter.name in names)

        calls = (replace(c, weight=marked(c.weight), bias=marked(c.bias)) for c in self.calls)
        return LayerGraph(calls, self.output)

    def channels(self, layer: str, axis: Axis) -> int:
        """Channels of the weight of `layer` along `axis`, frozen or not; 0 if none."""
        call = self[self.layers[layer].calls[0]]
        if call.weight is None:
            return 0
        return call.operator.selectable_channels(self.shapes(call), axis)

    def selectable_channels(self, layer: str, axis: Axis) -> int:
        """Channels of `layer` that an update plan may select along `axis`; 0 if none.

        There are none in a frozen weight.
        """
        weight = self.layers[layer].weight
        return 0 if weight is None or weight.frozen else self.channels(layer, axis)

    def selectable(self, layer: str, kind: UpdateKind) -> int:
        """What an update plan may select of `layer`: channels along an axis, or 1 for its bias.

        0 if there is nothing: a bias is updated whole or not at all, a frozen one never.
        """
        if kind == "bias":
            bias = self.layers[layer].bias
            return int(bias is not None and not bias.frozen)
        return self.selectable_channels(layer, kind)

    def check_not_frozen(self, layer: str, kind: UpdateKind) -> None:
        """Raise `InputError` if what is to be updated of `layer` is frozen."""
        owner = self.layers[layer]
        parameter = owner.bias if kind == "bias" else owner.weight
        if parameter is not None and parameter.frozen:
            raise InputError(
                f"layer {layer!r}: {parameter.name!r} is frozen by the model's author "
                "(requires_grad=False), so that nothing may update it"
            )

    def forward_macs(self) -> int:
        """MACs of one forward pass of the whole batch."""
        return sum(call.operator.forward_macs(self.shapes(call)) for call in self.calls)

    def to_json(self) -> dict[str, Any]:
        """The graph as one JSON document, schema `costsim.graph/1`."""
        return {
            "schema": "costsim.graph/1",
            "output": self.output,
            "calls": [
                {
                    "name": call.name,
                    "operator": operator_to_json(call.operator),
                    "inputs": list(call.inputs),
                    "shape": list(call.shape),
                    "layer": call.layer,
                    "weight": _parameter_to_json(call.weight),
                    "bias": _parameter_to_json(call.bias),
                    "buffers": [_parameter_to_json(buffer) for buffer in call.buffers],
                }
                for call in self.calls
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "LayerGraph":
        """The graph that `to_json` wrote; raises `InputError` for anything else."""
        if document.get("schema") != "costsim.graph/1":
            raise InputError(f"schema {document.get('schema')!r}; 'costsim.graph/1' is needed")
        return cls(
            (
                Call(
                    name=item["name"],
                    operator=operator_from_json(item["operator"]),
                    inputs=tuple(item["inputs"]),
                    shape=tuple(item["shape"]),
                    layer=item["layer"],
                    weight=_parameter_from_json(item["weight"]),
                    bias=_parameter_from_json(item["bias"]),
                    buffers=tuple(Parameter(b["name"], tuple(b["shape"])) for b in item["buffers"]),
                )
                for item in document["calls"]
            ),
            document["output"],
        )


def _parameter_to_json(parameter: Parameter | None) -> dict[str, Any] | None:
    if parameter is None:
        return None
    frozen = {"frozen": True} if parameter.frozen else {}  # most are not, and older graphs say none
    return {"name": parameter.name, "shape": list(parameter.shape), **frozen}


def _parameter_from_json(document: Mapping[str, Any] | None) -> Parameter | None:
    if not document:
        return None
    frozen = bool(document.get("frozen", False))
    return Parameter(document["name"], tuple(document["shape"]), frozen)

"""The calls of a layer graph while the operators of an exported program are translated.

A handler of `costsim.models.tracing.aten` receives the `Builder` and the operator's arguments, in
the order of its schema, with every tensor replaced by one of the handles below; it emits calls and
returns the handle (or the list of handles) of what the operator computes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from costsim.base.errors import InputError, UnsupportedOperator
from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import (
    Add,
    Concatenate,
    Constant,
    Expand,
    Input,
    Operator,
    Permute,
    Reshape,
    Shape,
    Shapes,
    Slice,
)
from costsim.ir.operators.sampling import Lookup
from costsim.models.tracing.names import Namer, module_stack
from costsim.models.tracing.ownership import Owners, Use, check_uses

_PLAIN = (
    " (of a parametrisation, torch.nn.utils.parametrize.remove_parametrizations makes the weight a "
    "plain one)"
)


@dataclass(frozen=True, slots=True)
class Value:
    """What an emitted call computes; `index` is the call's place in the builder's list."""

    index: int
    shape: Shape


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the model itself: a parameter (`trainable`), a buffer or a lifted constant.

    A part or a transpose of one names what it is of, so that it can serve as a weight as it is
    and be computed where a value is needed.
    """

    parameter: Parameter
    trainable: bool
    origin: "tuple[Operator, Stored] | None" = None

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return self.parameter.shape


Handle: TypeAlias = Value | Stored


@dataclass(slots=True)
class _Emitted:
    operator: Operator
    inputs: tuple[Value, ...]
    shape: Shape
    weight: Stored | None
    bias: Stored | None
    buffers: tuple[Stored, ...]
    node: Node | None


@dataclass(slots=True)
class Builder:
    """Calls emitted so far, and the model's tensors by name."""

    tensors: dict[str, Tensor]
    node: Node | None = None
    dtype: torch.dtype = torch.float32
    of_tokens: bool = False
    emitted: list[_Emitted] = field(default_factory=list)
    constants: dict[str, Value] = field(default_factory=dict)
    biases: dict[str, str | None] = field(default_factory=dict)

    def emit(
        self,
        operator: Operator,
        *inputs: Handle,
        weight: Handle | None = None,
        bias: Handle | None = None,
        buffers: Sequence[Handle] = (),
    ) -> Value:
        """One more call; weight, bias and buffers must be tensors of the model itself."""
        values = tuple(self.value(handle) for handle in inputs)
        own_weight = self.stored(weight, "weight")
        try:
            shape = operator.output_shape(
                [value.shape for value in values], own_weight.shape if own_weight else None
            )
        except (ValueError, IndexError) as error:
            raise InputError(f"{self.place()}: {error}") from error
        own_bias = self.stored(bias, "bias")
        if (
            self._is_another(own_bias, own_weight) and own_bias
        ):  # a layer has one: this adds its own
            axis = operator.channel_axis(Shapes((values[0].shape,), shape), "output")
            around = (1,) * (len(shape) - 1 - axis)
            product = self.emit(operator, *values, weight=weight)
            return self.emit(Add(), product, self.reshape(own_bias, (*own_bias.shape, *around)))
        call = _Emitted(
            operator,
            values,
            shape,
            own_weight,
            own_bias,
            tuple(self.required(buffer, "statistics") for buffer in buffers),
            self.node,
        )
        self.emitted.append(call)
        return Value(len(self.emitted) - 1, shape)

    def _is_another(self, bias: Stored | None, weight: Stored | None) -> bool:
        """Whether `weight` is shared with an earlier call, which had no bias or another."""
        if weight is None:
            return False
        name = bias.parameter.name if bias else None
        return self.biases.setdefault(weight.parameter.name, name) != name

    def emit_input(self, shape: Shape) -> Value:
        """The call that stands for the sample."""
        return self.emit(Input(shape))

    def value(self, handle: Handle) -> Value:
        """`handle` as a computed value: a tensor of the model becomes a `Constant` call."""
        if isinstance(handle, Value):
            return handle
        if not isinstance(handle, Stored):
            self.unsupported(f"an argument {handle!r} where an activation is needed")
        if handle.origin is not None:
            operator, whole = handle.origin
            return self.emit(operator, whole)
        name = handle.parameter.name
        if name not in self.constants:
            tensor = self.tensors[name]
            if not tensor.is_floating_point():  # beside activations, integers count as real numbers
                return self.value(self.lift(tensor.to(self.dtype)))
            node, self.node = self.node, None
            self.constants[name] = (
                self.emit(Constant(handle.shape), bias=handle)
                if handle.trainable
                else self.emit(Constant(handle.shape), buffers=(handle,))
            )
            self.node = node
        return self.constants[name]

    def stored(self, handle: Handle | None, role: str) -> Stored | None:
        """`handle` as a tensor of the model; raises if it is computed on the way."""
        return None if handle is None else self.required(handle, role)

    def required(self, handle: Handle, role: str) -> Stored:
        """Like `stored`, and it may not be missing."""
        if not isinstance(handle, Stored):
            self.unsupported(f"with a {role} that is computed, not a parameter{_PLAIN}")
        return handle

    def sees_samples(self, handle: Handle) -> bool:
        """Whether what `handle` holds is computed from the input, not from the model alone."""
        seen = {handle.index} if isinstance(handle, Value) else set()
        for index in range(max(seen, default=-1), -1, -1):  # what a call reads stands before it
            if index in seen:
                seen |= {value.index for value in self.emitted[index].inputs}
        return any(self.emitted[index].operator.source == "sample" for index in seen)

    def are_tokens(self, handle: Handle) -> bool:
        """Whether a value is the sample itself, in other places at most: whole numbers stay whole.

        What a model takes apart from them in whole numbers is as exact in floating point.
        """
        moving = (Input, Slice, Lookup, Concatenate, Reshape, Permute, Expand)
        waiting = [handle.index] if self.of_tokens and isinstance(handle, Value) else []
        found = bool(waiting)
        while waiting:
            emitted = self.emitted[waiting.pop()]
            if not isinstance(emitted.operator, moving):
                return False
            waiting += [value.index for value in emitted.inputs]
        return found

    def operator_of(self, handle: Handle) -> Operator | None:
        """The operator that computed `handle`; None for a tensor of the model."""
        return self.emitted[handle.index].operator if isinstance(handle, Value) else None

    def inputs_of(self, value: Value) -> tuple[Value, ...]:
        """What the call that computed `value` read."""
        return self.emitted[value.index].inputs

    def reshape(self, handle: Handle, shape: Shape) -> Handle:
        """`handle` under another shape: at most one view of what is not a view itself."""
        if handle.shape == shape:
            return handle
        value = self.value(handle)
        while isinstance(self.emitted[value.index].operator, Reshape):
            (value,) = self.emitted[value.index].inputs
        return value if value.shape == shape else self.emit(Reshape(shape), value)

    def transposed(self, matrix: Stored) -> Stored:
        """A stored matrix, or kernels, with its first two dimensions exchanged, as `<name>.T`.

        It is a view of the same memory.
        """
        if matrix.origin is not None and isinstance(matrix.origin[0], Permute):
            return matrix.origin[1]
        own = self.tensors[matrix.parameter.name].detach().transpose(0, 1)
        order = (1, 0, *range(2, own.ndim))
        return self._view(f"{matrix.parameter.name}.T", own, Permute(order), matrix)

    def part(self, whole: Stored, start: int, stop: int) -> Stored:
        """Rows `start` to `stop`, named `<name>[start:stop]`: a view of the same memory."""
        own = self.tensors[whole.parameter.name].detach()[start:stop]
        return self._view(
            f"{whole.parameter.name}[{start}:{stop}]", own, Slice(0, start, stop), whole
        )

    def _view(self, name: str, tensor: Tensor, operator: Operator, whole: Stored) -> Stored:
        self.tensors.setdefault(name, tensor)
        shape = tuple(tensor.shape)
        part = Parameter(name, shape, whole.parameter.frozen)
        return Stored(part, whole.trainable, origin=(operator, whole))

    def lift(self, tensor: Tensor) -> Stored:
        """A constant computed from constants alone, kept under a name that no model's tensor has.

        What it holds may depend on the batch: with the leading dot it is no part of the weights,
        and its name says what it holds, so that graphs for several batches share one mapping.
        """
        content = tensor.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{content.dtype} {tuple(content.shape)}".encode())
        digest.update(content.view(-1).view(torch.uint8).numpy().tobytes())
        name = f".constant.{digest.hexdigest()[:8]}"
        self.tensors[name] = tensor
        return Stored(Parameter(name, tuple(tensor.shape)), trainable=False)

    def output_shape(self) -> Shape:
        """Shape of what the operator being translated computes, as the exporter recorded it."""
        assert self.node is not None
        return tuple(int(size) for size in self.node.meta["val"].shape)

    def place(self) -> str:
        """The operator being translated and the module it sits in, for messages."""
        if self.node is None:
            return "the model's input"
        stack = module_stack(self.node)
        path = stack[-1][1] if stack else ""
        where = f"module {path!r}" if path else "the model itself"
        return f"operator {self.node.target} in {where}"

    def unsupported(self, how: str = "") -> NoReturn:
        """Raise `UnsupportedOperator` naming the operator and the module it sits in."""
        place = self.place()
        if ".parametrizations." in place:
            how += _PLAIN
        raise UnsupportedOperator(" ".join(f"{place} is not supported {how}".split()))

    def graph(self, output: Handle) -> LayerGraph:
        """The layer graph of the calls that `output` depends on, named."""
        last = self.value(output)
        needed = {last.index}
        for index in range(last.index, -1, -1):
            if index in needed:
                needed |= {value.index for value in self.emitted[index].inputs}
        if 0 not in needed:
            raise InputError("the model's output does not depend on its input")
        kept = sorted(needed)
        known = Owners()
        owners = {index: _owner(self.emitted[index], known) for index in kept}
        check_uses((use for i in kept for use in _uses(self.emitted[i], owners[i])), self.tensors)
        namer = Namer(
            [(self.emitted[i].node, owners[i]) for i in kept if self.emitted[i].node is not None]
        )
        names: dict[int, str] = {}
        calls = []
        for index in kept:
            call = self.emitted[index]
            owner = owners[index]
            names[index] = (
                namer.name("input")
                if call.operator.kind == "input"
                else namer.name(owner)
                if owner
                else namer.call_name(call.node, call.operator.kind)
            )
            source = call.weight or call.bias
            calls.append(
                Call(
                    name=names[index],
                    operator=call.operator,
                    inputs=tuple(names[value.index] for value in call.inputs),
                    shape=call.shape,
                    layer=owner if source is not None and source.trainable else None,
                    weight=call.weight.parameter if call.weight else None,
                    bias=call.bias.parameter if call.bias else None,
                    buffers=tuple(buffer.parameter for buffer in call.buffers),
                )
            )
        return LayerGraph(calls, names[last.index])


def _owner(call: _Emitted, known: Owners) -> str | None:
    """What owns the weight (else the bias, else the constant) of a call."""
    if call.operator.kind == "constant":
        return (call.bias or call.buffers[0]).parameter.name.removeprefix(".")
    if call.weight:
        return known.name(call.weight.parameter.name, "weight")
    return known.name(call.bias.parameter.name, "bias") if call.bias else None


def _uses(call: _Emitted, owner: str | None) -> Iterator[Use]:
    """The trainable parameters that a call reads."""
    bias = "value" if call.operator.kind == "constant" else "bias"
    for stored, role in ((call.weight, "weight"), (call.bias, bias)):
        if stored is not None and stored.trainable:
            yield Use(stored.parameter.name, role, owner or "")


def fold(builder: Builder, node: Node, handles: Mapping[Node, Any]) -> Stored | None:
    """The result of an operator on constants alone, or None if it reads anything else.

    Tables of positions, masks and scales are often computed inside `forward`; they are constants.
    """
    target: Any = node.target
    read = [handles[source] for source in node.all_input_nodes]
    if any(not isinstance(handle, Stored) or handle.trainable for handle in read):
        return None
    if torch.Tag.nondeterministic_seeded in target.tags:
        return None

    def tensor(source: Node) -> Tensor:
        # As a view wants it: a constant may lie otherwise here than in the model.
        return builder.tensors[handles[source].parameter.name].contiguous()

    with torch.no_grad():
        result = target(*map_arg(node.args, tensor), **map_arg(node.kwargs, tensor))
    return builder.lift(result) if isinstance(result, Tensor) else None

"""Running `torch.export` and walking what it gives."""

import inspect
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from costsim.base.errors import CostsimError, InputError
from costsim.ir.graph import LayerGraph, Parameter
from costsim.models.tokens import whole_numbers_in
from costsim.models.tracing.aten import HANDLERS, PASSED_THROUGH
from costsim.models.tracing.builder import Builder, Stored, Value, fold
from costsim.models.tracing.composites import taken_apart
from costsim.models.tracing.gradient_stops import check_stopped
from costsim.models.tracing.names import plain_path
from costsim.models.tracing.own_gradients import own_gradients_refused
from costsim.models.tracing.plain_programs import functional_name, is_plain
from costsim.models.tracing.returned_inputs import (
    aliasing_composites,
    changes_in_place,
    without_idle_dropouts,
)
from costsim.models.tracing.torch_settings import plain_attention, quiet


@dataclass(frozen=True)
class Traced:
    """A model as a layer graph, and the model's own tensors that the graph names.

    `tensors` has an entry for every one of `graph.parameters`, by reference: writing to it in
    place writes to the model. A weight that the model multiplies from the right (`x @ w`) is
    there as the view `w.T`, because a linear layer's weight is [out, in]; one that it cuts up
    (attention on different queries and keys) as views `w[0:8]`, each a layer of its own.
    """

    graph: LayerGraph
    tensors: Mapping[str, Tensor]


def trace(model: nn.Module, example_input: Tensor) -> LayerGraph:
    """The layer graph of `model` for inputs of the shape of `example_input`; see `capture`."""
    return capture(model, example_input).graph


def capture(model: nn.Module, example_input: Tensor) -> Traced:
    """The layer graph of `model` and its tensors; batch and sizes are those of `example_input`.

    Raises `InputError` for a model in training mode, one that needs several inputs or returns
    anything but one tensor, one whose control flow depends on data, one that makes gradients of
    its own (an `autograd.Function`, a hook), and for weights that are not finite;
    `UnsupportedOperator` for an operator that no file of `costsim.ir.operators` describes.
    """
    check_example(example_input)
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not example_input.is_floating_point():
        model, example_input = whole_numbers_in(model), example_input.to(_floating_type(model))
    for name, module in model.named_modules():
        if module.training:
            where = f"its module {name!r}" if name else "it"
            raise InputError(f"the model: {where} is in training mode; call model.eval() before")
    _check_one_input(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    _check_finite({**parameters, **buffers})
    with quiet(), plain_attention(model), torch.enable_grad(), own_gradients_refused(model):
        try:
            exported = torch.export.export(model, (example_input,))
        except CostsimError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"the model cannot be traced on input of shape {tuple(example_input.shape)}: "
                f"{_reason(error)}"
            ) from error
    return _translate(
        exported, {**parameters, **buffers}, _CHANGES, getattr(model, "token_input", False)
    )


def capture_program(exported: ExportedProgram) -> Traced:
    """The same for a program exported elsewhere, with its own tensors and its own batch size.

    What its model said of its gradients is not in it, and so not refused: those of its operators
    are taken.
    """
    _check_finite(exported.state_dict)
    return _translate(exported, exported.state_dict, "export it after calling model.eval()")


def _floating_type(model: nn.Module) -> torch.dtype:
    """That of a model's weights."""
    weights = (tensor.dtype for tensor in model.state_dict().values())
    return next((dtype for dtype in weights if dtype.is_floating_point), torch.float32)


def check_example(example_input: object) -> None:
    """Raise `InputError` for anything but one tensor."""
    if not isinstance(example_input, Tensor):
        kind = type(example_input).__name__
        raise InputError(f"the example input is a {kind}; one tensor is needed")


_CHANGES = (
    "in evaluation mode too, which a training program would not. If that is a fake quantiser, "
    "plan the model before quantisation-aware training is prepared"
)


def _reason(error: BaseException) -> str:
    """In one line why torch could not trace a model."""
    told = _first_line(error)
    if "fake tensor in the exported program" in told:
        return (
            "its forward uses .data of a tensor, or keeps one it computed: use the tensor itself, "
            "or detach() where no gradient is to flow"
        )
    return told


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _check_one_input(model: nn.Module) -> None:
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError as error:
        raise InputError(f"the model must take one tensor; its forward(): {error}") from error


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"the model's {name!r} has values that are not finite")


def _translate(
    exported: ExportedProgram,
    given: Mapping[str, Tensor],
    changing: str,
    of_tokens: bool = False,
) -> Traced:
    """`changing` says what to do where a buffer changes; `of_tokens`: samples are whole numbers."""
    _output_node(exported)  # before the work: its complaints are the clearest
    decompositions: dict[Any, Any] = {}
    if changes_in_place(exported):
        exported = without_idle_dropouts(exported)
        decompositions = aliasing_composites(exported)
    check_stopped(exported, {name for name, t in given.items() if not t.requires_grad})
    state = {plain_path(name): tensor for name, tensor in given.items()}
    if is_plain(exported, _ancestors(_output_node(exported))):
        try:
            return _read(exported, state, of_tokens)
        except CostsimError:
            pass  # said again of the program as torch writes it out
    with quiet():
        try:
            program = taken_apart(exported.run_decompositions(decompositions))
        except Exception as error:
            raise InputError(f"the model cannot be traced: {_first_line(error)}") from error
    if program.graph_signature.buffers_to_mutate:
        changed = next(iter(program.graph_signature.buffers_to_mutate.values()))
        raise InputError(f"the model changes its buffer {plain_path(changed)!r}: {changing}")
    return _read(program, state, of_tokens)


def _read(program: ExportedProgram, state: Mapping[str, Tensor], of_tokens: bool) -> Traced:
    """Translate call after call."""
    output = _output_node(program)
    constants = {plain_path(name): tensor for name, tensor in program.constants.items()}
    builder = Builder({**state, **constants, **state}, of_tokens=of_tokens)
    handles = _placeholders(program, builder)
    needed = _ancestors(output)
    for node in program.graph.nodes:
        if node in needed and node.op != "placeholder":
            builder.node = node
            handles[node] = _call(builder, node, handles)
            _check_type(builder, node, handles[node])
    builder.node = None
    graph = builder.graph(handles[output])
    tensors = {parameter.name: builder.tensors[parameter.name] for parameter in graph.parameters}
    return Traced(graph, MappingProxyType(tensors))


def _output_node(program: ExportedProgram) -> Node:
    spec = program.call_spec.out_spec
    if spec is not None and not spec.is_leaf():
        kind = getattr(spec.type, "__name__", spec.type)
        raise InputError(f"the model returns a {kind}; one tensor is needed")
    outputs = [
        item for item in program.graph_signature.output_specs if item.kind == OutputKind.USER_OUTPUT
    ]
    name = getattr(outputs[0].arg, "name", None) if len(outputs) == 1 else None
    nodes = {node.name: node for node in program.graph.nodes}
    node: Node | None = nodes.get(name or "")
    if node is None or not isinstance(node.meta.get("val"), Tensor):
        raise InputError("the model returns no tensor; one tensor is needed")
    if not node.meta["val"].is_floating_point():
        raise InputError(f"the model returns {node.meta['val'].dtype}; floating point is needed")
    return node


def _placeholders(program: ExportedProgram, builder: Builder) -> dict[Node, Any]:
    """A handle for every input of the program; tensors that share storage share the first name."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [
        spec for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT
    ]
    if len(inputs) != 1:
        raise InputError(f"the model takes {len(inputs)} inputs; one tensor is needed")
    first_names: dict[Any, str] = {}
    for name, tensor in builder.tensors.items():
        first_names.setdefault(_storage(tensor), name)
    handles: dict[Node, Any] = {}
    for spec in program.graph_signature.input_specs:
        node = nodes[getattr(spec.arg, "name", "")]
        if spec.kind == InputKind.USER_INPUT:
            sample = node.meta["val"]
            if not isinstance(sample, Tensor) or not sample.is_floating_point():
                raise InputError("the model's input is not a floating point tensor")
            if not all(isinstance(size, int) for size in sample.shape):
                raise InputError(
                    "the model was exported with dynamic sizes; export it without dynamic_shapes"
                )
            builder.dtype = sample.dtype
            handles[node] = builder.emit_input(tuple(sample.shape))
        elif spec.target is not None:
            tensor = builder.tensors[plain_path(spec.target)]
            name = first_names[_storage(tensor)]
            trainable = spec.kind == InputKind.PARAMETER
            frozen = trainable and not tensor.requires_grad
            handles[node] = Stored(Parameter(name, tuple(tensor.shape), frozen), trainable)
    return handles


def _storage(tensor: Tensor) -> Any:
    where = tensor.untyped_storage().data_ptr()
    return (
        (where, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        if where
        else id(tensor)
    )


def _ancestors(output: Node) -> set[Node]:
    needed, waiting = {output}, [output]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in needed:
                needed.add(node)
                waiting.append(node)
    return needed


def _call(builder: Builder, node: Node, handles: Mapping[Node, Any]) -> Any:
    if node.target is operator.getitem:
        source, index = node.args
        result = handles[source][index]  # type: ignore[index]
        if result is None:
            builder.unsupported("when its second result is used")
        return result
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        builder.unsupported()
    name = functional_name(node)
    if name not in PASSED_THROUGH:
        constant = fold(builder, node, handles)
        if constant is not None:
            return constant
    if name not in HANDLERS:
        builder.unsupported()
    arguments = [_handle(argument, handles) for argument in _in_schema_order(node)]
    try:
        return HANDLERS[name](builder, *arguments)
    except CostsimError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        builder.unsupported(f"with these arguments ({_first_line(error)})")


_IGNORED = frozenset({"device", "layout", "memory_format", "out", "pin_memory"})


def _check_type(builder: Builder, node: Node, handle: Any) -> None:
    """A graph has one floating point type, the input's: nothing may be computed in another."""
    if isinstance(handle, Value):
        found, wanted = node.meta["val"].dtype, builder.dtype
        whole = builder.are_tokens(handle) and not found.is_floating_point
        if found != wanted and not whole:
            builder.unsupported(f"when it computes {found} in a model of {wanted}")


def _in_schema_order(node: Node) -> list[Any]:
    """The arguments of a call in the order of its schema, defaults filled in.

    Keyword-only arguments that say where and how a result is stored stay out.
    """
    assert isinstance(node.target, torch._ops.OpOverload)
    result = []
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.kwarg_only and argument.name in _IGNORED:
            continue
        if position < len(node.args):
            result.append(node.args[position])
        elif argument.name in node.kwargs:
            result.append(node.kwargs[argument.name])
        else:
            result.append(argument.default_value if argument.has_default_value() else None)
    return result


def _handle(argument: Any, handles: Mapping[Node, Any]) -> Any:
    if isinstance(argument, Node):
        return handles[argument]
    if isinstance(argument, list | tuple):
        return [_handle(item, handles) for item in argument]
    if isinstance(argument, float) and math.isnan(argument):
        raise InputError("the model computes with a constant that is not a number")
    return argument

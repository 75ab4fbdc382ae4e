"""Every operator a model may call, one class a kind.

To add one: a frozen dataclass with a `kind` in the file it belongs to, which `OPERATORS` finds, and
a function in the tracer's table and in each reading that must have it. The tests say which do.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from costsim.base.errors import InputError
from costsim.ir.operators import (
    activation,
    convolution,
    elementwise,
    function,
    layout,
    linear,
    matmul,
    normalization,
    pooling,
    sampling,
    source,
)
from costsim.ir.operators.activation import (
    ELU,
    GELU,
    Clamp,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from costsim.ir.operators.base import (
    WORK_KINDS,
    Axis,
    GradientForm,
    Need,
    Operator,
    Saved,
    Shape,
    ShapeError,
    Shapes,
    UpdateKind,
    elements,
)
from costsim.ir.operators.convolution import Convolution
from costsim.ir.operators.elementwise import Add, Multiply, Scale, Subtract
from costsim.ir.operators.layout import Concatenate, Expand, Pad, Permute, Reshape, Slice
from costsim.ir.operators.linear import Linear
from costsim.ir.operators.matmul import MatMul
from costsim.ir.operators.normalization import BatchNorm, GroupNorm, LayerNorm
from costsim.ir.operators.pooling import AdaptiveAveragePool, AveragePool, MaxPool, Mean
from costsim.ir.operators.source import Constant, Input

_FILES = (
    source,
    convolution,
    linear,
    matmul,
    normalization,
    activation,
    elementwise,
    function,
    pooling,
    sampling,
    layout,
)

OPERATORS: Mapping[str, type[Operator]] = {
    found.kind: found
    for file in _FILES
    for found in vars(file).values()
    if isinstance(found, type) and issubclass(found, Operator) and "kind" in vars(found)
}
"""Every class that says its kind; those that say none are what several have in common."""


def operator_to_json(operator: Operator) -> dict[str, Any]:
    """An operator as a JSON object: its kind and its attributes."""
    values = {field.name: getattr(operator, field.name) for field in fields(operator)}  # type: ignore[arg-type]
    return {"kind": operator.kind, **values}


def operator_from_json(document: Mapping[str, Any]) -> Operator:
    """The operator that `operator_to_json` wrote; raises `InputError` for an unknown kind."""
    kind = str(document.get("kind"))
    if kind not in OPERATORS:
        raise InputError(f"operator kind {kind!r} is unknown; known are {', '.join(OPERATORS)}")
    attributes = {key: _frozen(value) for key, value in document.items() if key != "kind"}
    try:
        return OPERATORS[kind](**attributes)
    except TypeError as error:
        raise InputError(f"operator {kind}: {error}") from error


def _frozen(value: object) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


__all__ = [
    "ELU",
    "GELU",
    "OPERATORS",
    "WORK_KINDS",
    "AdaptiveAveragePool",
    "Add",
    "AveragePool",
    "Axis",
    "BatchNorm",
    "Clamp",
    "Concatenate",
    "Constant",
    "Convolution",
    "Expand",
    "GradientForm",
    "GroupNorm",
    "HardSigmoid",
    "HardSwish",
    "Input",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Mean",
    "Multiply",
    "Need",
    "Operator",
    "Pad",
    "Permute",
    "ReLU",
    "Reshape",
    "Saved",
    "Scale",
    "Shape",
    "ShapeError",
    "Shapes",
    "SiLU",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Subtract",
    "Tanh",
    "UpdateKind",
    "elements",
    "operator_from_json",
    "operator_to_json",
]

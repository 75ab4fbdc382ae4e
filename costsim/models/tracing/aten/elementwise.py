"""Activations and arithmetic, element by element."""

from collections.abc import Mapping
from typing import Any

import torch

from costsim.ir.operators import (
    ELU,
    GELU,
    Add,
    Clamp,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    LogSoftmax,
    Multiply,
    Operator,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Subtract,
    Tanh,
)
from costsim.ir.operators.activation import LogSigmoid, Mish, Softplus
from costsim.ir.operators.elementwise import Divide, Larger, Where
from costsim.ir.operators.function import (
    Absolute,
    Exp,
    Log,
    Power,
    Reciprocal,
    ReciprocalSquareRoot,
    SquareRoot,
)
from costsim.models.tracing.aten.common import Handler, Result, dimension_of
from costsim.models.tracing.builder import Builder, Handle, Stored, Value

LARGEST = torch.finfo(torch.float32).max
"""The bound of a clamp without one: finite, so that a graph stays plain JSON."""


def _activation(operator: Operator) -> Handler:
    def handler(b: Builder, x: Handle) -> Result:
        return b.emit(operator, x)

    return handler


def leaky_relu(b: Builder, x: Handle, slope: float) -> Result:
    return b.emit(LeakyReLU(float(slope)), x)


def hardtanh(b: Builder, x: Handle, low: float, high: float) -> Result:
    return b.emit(Clamp(float(low), float(high), gradient_at_bounds=False), x)


def relu6(b: Builder, x: Handle) -> Result:
    return hardtanh(b, x, 0.0, 6.0)


def clamp(b: Builder, x: Handle, low: float | None, high: float | None) -> Result:
    minimum = -LARGEST if low is None else float(low)
    maximum = LARGEST if high is None else float(high)
    return b.emit(Clamp(minimum, maximum, gradient_at_bounds=True), x)


def clamp_min(b: Builder, x: Handle, low: float) -> Result:
    return clamp(b, x, low, None)


def clamp_max(b: Builder, x: Handle, high: float) -> Result:
    return clamp(b, x, None, high)


def gelu(b: Builder, x: Handle, approximate: str) -> Result:
    return b.emit(GELU(approximate), x)


def elu(b: Builder, x: Handle, alpha: float, scale: float, input_scale: float) -> Result:
    if input_scale != 1:
        b.unsupported("with a scale of its input")
    return scaled(b, b.emit(ELU(float(alpha)), x), scale)


def softplus(b: Builder, x: Handle, beta: float, threshold: float) -> Result:
    return b.emit(Softplus(float(beta), float(threshold)), x)


def _softmax(kind: type[Softmax | LogSoftmax]) -> Handler:
    def handler(b: Builder, x: Handle, dimension: int, dtype: Any) -> Result:
        if dtype not in (None, False, torch.float32):
            b.unsupported(f"in {dtype}")
        return b.emit(kind(dimension_of(dimension, len(x.shape))), x)

    return handler


def _number(b: Builder, x: Any) -> float | None:
    """`x` as a plain number: a Python one, or a constant of no dimensions."""
    if isinstance(x, Stored) and not x.trainable and x.shape == ():
        return float(b.tensors[x.parameter.name])
    return None if isinstance(x, Value | Stored) else float(x)


def scaled(b: Builder, x: Handle, factor: float) -> Handle:
    return x if factor == 1 else b.emit(Scale(factor=float(factor)), x)


def add(b: Builder, left: Any, right: Any, alpha: float = 1) -> Result:
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(offset=c * alpha), left)
    if a is not None:
        return b.emit(Scale(factor=float(alpha), offset=a), right)
    return b.emit(Add(), left, scaled(b, right, alpha))


def subtract(b: Builder, left: Any, right: Any, alpha: float = 1) -> Result:
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(offset=-c * alpha), left)
    if a is not None:
        return b.emit(Scale(factor=-float(alpha), offset=a), right)
    return b.emit(Subtract(), left, scaled(b, right, alpha))


def reverse_subtract(b: Builder, left: Any, right: Any, alpha: float = 1) -> Result:
    """`right - alpha * left`."""
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(factor=-float(alpha), offset=c), left)
    if a is not None:
        return b.emit(Scale(offset=-a * alpha), right)
    return b.emit(Subtract(), right, scaled(b, left, alpha))


def multiply(b: Builder, left: Any, right: Any) -> Result:
    a, c = _number(b, left), _number(b, right)
    if c is not None:
        return b.emit(Scale(factor=c), left)
    if a is not None:
        return b.emit(Scale(factor=a), right)
    return b.emit(Multiply(), left, right)


def divide(b: Builder, left: Any, right: Any) -> Result:
    c = _number(b, right)
    if c is not None:
        return b.emit(Scale(factor=1 / c), left) if c else b.unsupported("by zero")
    if isinstance(right, Stored) and not right.trainable:
        inverse = b.lift(torch.reciprocal(b.tensors[right.parameter.name]))
        return b.emit(Multiply(), left, inverse)
    a = _number(b, left)
    if a is not None:
        return scaled(b, b.emit(Reciprocal(), right), a)
    return b.emit(Divide(), left, right)


def power(b: Builder, x: Handle, exponent: float) -> Result:
    if exponent == 0:
        b.unsupported("with the exponent 0")
    if exponent == 1:
        return x
    if exponent not in (2, 3, 4):
        return b.emit(Power(float(exponent)), x)
    square = b.emit(Multiply(), x, x)
    if exponent == 2:
        return square
    return b.emit(Multiply(), square, x if exponent == 3 else square)


def prelu(b: Builder, x: Handle, slope: Handle) -> Result:
    """`max(x, 0) + slope * min(x, 0)`: its slopes are a layer that can be updated."""
    around = (1,) * max(len(x.shape) - 2, 0)
    slopes = b.reshape(slope, (*slope.shape, *around))
    below = b.emit(Clamp(-LARGEST, 0.0, gradient_at_bounds=True), x)
    return b.emit(Add(), b.emit(ReLU(), x), b.emit(Multiply(), below, slopes))


def _larger(smallest: bool) -> Handler:
    def handler(b: Builder, left: Handle, right: Handle) -> Result:
        return b.emit(Larger(smallest), left, right)

    return handler


def _constant(b: Builder, x: Any) -> Handle:
    """`x` as a handle: a number becomes a constant of no dimensions."""
    return x if isinstance(x, Value | Stored) else b.lift(torch.tensor(float(x), dtype=b.dtype))


def where(b: Builder, condition: Handle, left: Any, right: Any) -> Result:
    if not isinstance(condition, Stored) or condition.trainable:
        b.unsupported("with a condition that is computed from activations; a constant one is")
    operator = Where(condition.shape)
    return b.emit(operator, _constant(b, left), _constant(b, right), buffers=(condition,))


def masked_fill(b: Builder, x: Handle, mask: Handle, value: Any) -> Result:
    return where(b, mask, value, x)


def negate(b: Builder, x: Handle) -> Result:
    return b.emit(Scale(factor=-1.0), x)


HANDLERS: Mapping[str, Handler] = {
    "aten.relu.default": _activation(ReLU()),
    "aten.hardsigmoid.default": _activation(HardSigmoid()),
    "aten.hardswish.default": _activation(HardSwish()),
    "aten.silu.default": _activation(SiLU()),
    "aten.sigmoid.default": _activation(Sigmoid()),
    "aten.tanh.default": _activation(Tanh()),
    "aten.relu6.default": relu6,
    "aten.hardtanh.default": hardtanh,
    "aten.clamp.default": clamp,
    "aten.clamp_min.default": clamp_min,
    "aten.clamp_max.default": clamp_max,
    "aten.leaky_relu.default": leaky_relu,
    "aten.elu.default": elu,
    "aten.gelu.default": gelu,
    "aten.softplus.default": softplus,
    "aten.mish.default": _activation(Mish()),
    "aten.log_sigmoid.default": _activation(LogSigmoid()),
    "aten.exp.default": _activation(Exp()),
    "aten.log.default": _activation(Log()),
    "aten.sqrt.default": _activation(SquareRoot()),
    "aten.rsqrt.default": _activation(ReciprocalSquareRoot()),
    "aten.reciprocal.default": _activation(Reciprocal()),
    "aten.abs.default": _activation(Absolute()),
    "aten.softmax.int": _softmax(Softmax),
    "aten._softmax.default": _softmax(Softmax),
    "aten.log_softmax.int": _softmax(LogSoftmax),
    "aten._log_softmax.default": _softmax(LogSoftmax),
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": subtract,
    "aten.sub.Scalar": subtract,
    "aten.rsub.Tensor": reverse_subtract,
    "aten.rsub.Scalar": reverse_subtract,
    "aten.mul.Tensor": multiply,
    "aten.mul.Scalar": multiply,
    "aten.div.Tensor": divide,
    "aten.div.Scalar": divide,
    "aten.maximum.default": _larger(smallest=False),
    "aten.minimum.default": _larger(smallest=True),
    "aten.where.self": where,
    "aten.where.ScalarSelf": where,
    "aten.where.ScalarOther": where,
    "aten.masked_fill.Scalar": masked_fill,
    "aten.masked_fill.Tensor": masked_fill,
    "aten.neg.default": negate,
    "aten.pow.Tensor_Scalar": power,
    "aten.square.default": lambda b, x: power(b, x, 2),
    "aten.prelu.default": prelu,
    "aten._prelu_kernel.default": prelu,
}

"""Normalisations, in evaluation mode."""

from collections.abc import Mapping, Sequence
from typing import Any

from costsim.ir.operators import (
    Add,
    BatchNorm,
    GroupNorm,
    LayerNorm,
    Multiply,
)
from costsim.models.tracing.aten.common import Handler, Result
from costsim.models.tracing.builder import Builder, Handle, Value


def batch_norm(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    mean: Handle,
    variance: Handle,
    _momentum: float,
    eps: float,
) -> Result:
    operator = BatchNorm(eps)
    return [b.emit(operator, x, weight=weight, bias=bias, buffers=(mean, variance)), None, None]


def whole_batch_norm(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    mean: Handle | None,
    variance: Handle | None,
    training: bool,
    momentum: float,
    eps: float,
    _cudnn: bool = True,
) -> Result:
    """As it is before `torch.export` takes it apart.

    Of a weight `[1, C, ...]` it is a norm of each channel, as weights are standardised by it. Of
    samples it would depend on which others are in a pass.
    """
    if training or mean is None or variance is None:
        if x.shape[0] != 1 or mean is not None or b.sees_samples(x):
            b.unsupported("without statistics of its own")
        return _each_channel(b, x, weight, bias, eps)
    return b.emit(BatchNorm(eps), x, weight=weight, bias=bias, buffers=(mean, variance))


def batch_norm_without_statistics(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Result:
    return [whole_batch_norm(b, x, weight, bias, None, None, training, momentum, eps), None, None]  # type: ignore[list-item]


def _each_channel(
    b: Builder, x: Handle, weight: Handle | None, bias: Handle | None, eps: float
) -> Result:
    operator = GroupNorm(x.shape[1], eps)
    if not isinstance(weight, Value) and not isinstance(bias, Value):
        return b.emit(operator, x, weight=weight, bias=bias)
    result, around = b.emit(operator, x), (1,) * (len(x.shape) - 2)
    if weight is not None:
        result = b.emit(Multiply(), result, b.reshape(weight, (*weight.shape, *around)))
    if bias is not None:
        result = b.emit(Add(), result, b.reshape(bias, (*bias.shape, *around)))
    return result


def layer_norm(
    b: Builder,
    x: Handle,
    normalized_shape: Sequence[int],
    weight: Handle | None,
    bias: Handle | None,
    eps: float,
    _cudnn: bool = True,
) -> Result:
    return b.emit(LayerNorm(len(normalized_shape), eps), x, weight=weight, bias=bias)


def native_layer_norm(b: Builder, *arguments: Any) -> Result:
    return [layer_norm(b, *arguments), None, None]  # type: ignore[list-item]


def group_norm(
    b: Builder,
    x: Handle,
    groups: int,
    weight: Handle | None,
    bias: Handle | None,
    eps: float,
    _cudnn: bool = True,
) -> Result:
    return b.emit(GroupNorm(groups, eps), x, weight=weight, bias=bias)


def native_group_norm(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    _n: int,
    _c: int,
    _hxw: int,
    groups: int,
    eps: float,
) -> Result:
    return [b.emit(GroupNorm(groups, eps), x, weight=weight, bias=bias), None, None]


def instance_norm(
    b: Builder,
    x: Handle,
    weight: Handle | None,
    bias: Handle | None,
    mean: Handle | None,
    variance: Handle | None,
    use_input: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool,
) -> Result:
    """Each channel is a group of its own; with statistics of its own, it is a batch norm."""
    if use_input:
        return b.emit(GroupNorm(x.shape[1], eps), x, weight=weight, bias=bias)
    assert mean is not None
    assert variance is not None
    return b.emit(BatchNorm(eps), x, weight=weight, bias=bias, buffers=(mean, variance))


HANDLERS: Mapping[str, Handler] = {
    "aten._native_batch_norm_legit_no_training.default": batch_norm,
    "aten._native_batch_norm_legit.no_stats": batch_norm_without_statistics,
    "aten.batch_norm.default": whole_batch_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.native_group_norm.default": native_group_norm,
    "aten.instance_norm.default": instance_norm,
}

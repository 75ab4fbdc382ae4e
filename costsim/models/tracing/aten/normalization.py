"""Normalisations, in evaluation mode."""

from collections.abc import Mapping, Sequence
from typing import Any

from costsim.ir.operators import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
)
from costsim.models.tracing.aten.common import Handler, Result
from costsim.models.tracing.builder import Builder, Handle


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
    _cudnn: bool,
) -> Result:
    """As it is before `torch.export` takes it apart."""
    if training or mean is None or variance is None:
        b.unsupported("without statistics of its own")
    return b.emit(BatchNorm(eps), x, weight=weight, bias=bias, buffers=(mean, variance))


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
    "aten.batch_norm.default": whole_batch_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.native_group_norm.default": native_group_norm,
    "aten.instance_norm.default": instance_norm,
}

"""Forward calls whose output takes over the memory of one of their inputs."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.operators import (
    ELU,
    GELU,
    Add,
    BatchNorm,
    Clamp,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Multiply,
    ReLU,
    Scale,
    Sigmoid,
    SiLU,
    Softmax,
    Subtract,
    Tanh,
)
from costsim.ir.operators.activation import Activation
from costsim.ir.operators.elementwise import Divide
from costsim.ir.operators.reading import Reading
from costsim.run.execution.forward import FORWARD, Operands

IN_PLACE: Reading[[Operands, int], object] = Reading("function in place")
"""Every operator kind with `overwritable_inputs`."""


def affine(o: BatchNorm, t: Operands) -> tuple[Tensor, Tensor]:
    """Factor and offset, both [C], of a batch norm with frozen statistics."""
    mean = t.buffers[0]
    factor = normalising_factor(o, t)
    offset = mean * -factor
    return factor, offset if t.bias is None else offset.add_(t.bias)


def normalising_factor(o: BatchNorm, t: Operands) -> Tensor:
    """`weight / sqrt(variance + eps)`, [C], in at least 32 bits."""
    variance = t.buffers[1]
    if variance.element_size() < 4:
        variance = variance.float()
    factor = torch.rsqrt(variance + o.eps)
    return factor if t.weight is None else factor.mul_(t.weight)


def by_channel(vector: Tensor, x: Tensor) -> Tensor:
    """A vector [C] as it multiplies `x` [N, C, ...]."""
    return vector.view(-1, *(1,) * (x.ndim - 2))


@IN_PLACE.of(BatchNorm)
def _batch_norm(o: BatchNorm, t: Operands, index: int) -> None:
    if t.x.element_size() < 4:  # rounded once, not after the product and after the sum
        t.x.copy_(FORWARD[o](t))
        return
    factor, offset = affine(o, t)
    t.x.mul_(by_channel(factor, t.x)).add_(by_channel(offset, t.x))


@IN_PLACE.of(Softmax)
def _softmax(o: Softmax, t: Operands, index: int) -> None:
    t.x.sub_(t.x.amax(o.dimension, keepdim=True)).exp_()
    t.x.div_(t.x.sum(o.dimension, keepdim=True))


@IN_PLACE.of(Subtract)
def _subtract(o: Subtract, t: Operands, index: int) -> None:
    torch.sub(*t.inputs, out=t.inputs[index])


@IN_PLACE.of(Scale)
def _scale(o: Scale, t: Operands, index: int) -> None:
    if o.factor != 1.0:
        t.x.mul_(o.factor)
    if o.offset != 0.0:
        t.x.add_(o.offset)


IN_PLACE.of(Activation)(lambda o, t, _i: t.x.copy_(FORWARD[o](t)))
IN_PLACE.of(ReLU)(lambda _o, t, _i: t.x.relu_())
IN_PLACE.of(LeakyReLU)(lambda o, t, _i: F.leaky_relu_(t.x, o.negative_slope))
IN_PLACE.of(Clamp)(lambda o, t, _i: t.x.clamp_(o.minimum, o.maximum))
IN_PLACE.of(HardSigmoid)(lambda _o, t, _i: F.hardsigmoid(t.x, inplace=True))
IN_PLACE.of(HardSwish)(lambda _o, t, _i: F.hardswish(t.x, inplace=True))
IN_PLACE.of(GELU)(lambda o, t, _i: torch.ops.aten.gelu_(t.x, approximate=o.approximate))
IN_PLACE.of(SiLU)(lambda _o, t, _i: F.silu(t.x, inplace=True))
IN_PLACE.of(ELU)(lambda o, t, _i: F.elu_(t.x, o.alpha))
IN_PLACE.of(Sigmoid)(lambda _o, t, _i: t.x.sigmoid_())
IN_PLACE.of(Tanh)(lambda _o, t, _i: t.x.tanh_())
IN_PLACE.of(Add)(lambda _o, t, i: t.inputs[i].add_(t.inputs[1 - i]))
IN_PLACE.of(Multiply)(lambda _o, t, i: t.inputs[i].mul_(t.inputs[1 - i]))
IN_PLACE.of(Divide)(lambda _o, t, _i: t.inputs[0].div_(t.inputs[1]))

"""Which kernel of a library does an operation: the name its calibrated law is looked up under.

A library keeps several kernels for one operator and chooses by shape, and each has an overhead
and a rate of its own; one law for all of them is off by a third. The names here tell apart what
PyTorch's CPU backend chooses between (`ConvParams::use_mkldnn` in ATen's Convolution.cpp: a
single small image is unfolded and multiplied, others go to oneDNN) and what this library's own
executor does. A device whose library chooses otherwise gets a finer division than it needs.
"""

from math import prod

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Convolution, Shape
from costsim.ir.program import Direction

SMALL_IMAGE = 20480
"""Elements up to which one image alone is small."""
MANY_SAMPLES = 16
"""Samples from which on a pointwise convolution is treated as any other."""

_OWN_NAME = frozenset({Direction.KEEP, Direction.LOSS, Direction.ACCUMULATE})


def kernel_name(
    graph: LayerGraph, direction: Direction, call: str | None, optimizer: str, *, saves: bool
) -> str:
    """The kernel of one operation of a program or of a schedule.

    `call` is the operation's, None for those without; `saves`: it stores something beside its
    result for the backward pass.
    """
    if direction is Direction.RECOMPUTE:
        direction = Direction.FORWARD
    if direction in _OWN_NAME:
        return str(direction)
    if direction is Direction.UPDATE:
        return f"update, {optimizer}"
    assert call is not None
    operator = graph[call].operator
    name = f"{operator.kind} {direction}"
    if isinstance(operator, Convolution) and direction is not Direction.BIAS_GRADIENT:
        return _convolution(graph, operator, call, direction)
    return f"{name}, saving" if saves else name


def _convolution(graph: LayerGraph, operator: Convolution, call: str, direction: Direction) -> str:
    shapes = graph.shapes(graph[call])
    assert shapes.weight is not None
    kind, taps = operator.work_kind(shapes), shapes.weight[2:]
    strided = set(operator.stride) != {1}
    name = f"{kind} {direction}"
    if kind == "depthwise_convolution":
        name += f", {'x'.join(map(str, taps))}"
        return f"{name}, strided" if strided and direction is not Direction.FORWARD else name
    if kind == "pointwise_convolution" and direction is not Direction.FORWARD and not strided:
        return f"{name}, product"
    x = shapes.output if direction is Direction.INPUT_GRADIENT else shapes.inputs[0]
    name += f", {_choice(x, taps, operator.groups, strided)}"
    return f"{name}, strided" if strided else name


def _choice(x: Shape, taps: Shape, groups: int, strided: bool) -> str:
    """What PyTorch's choice depends on beside the number of threads."""
    one_small_image = groups == 1 and min(taps) <= 3 and x[0] == 1 and prod(x) <= SMALL_IMAGE
    if one_small_image:
        return "one small image"
    light = not strided and prod(taps) == 1 and x[0] < MANY_SAMPLES
    return "few samples" if light else "any"

"""Which kernel of a library does an operation: the name its calibrated law is looked up under.

A library keeps several kernels for one operator and chooses by shape, and each has an overhead
and a rate of its own; one law for all of them is off by a third. The names here tell apart what
PyTorch's CPU backend chooses between and what this library's own executor does: each operator says
which (`Operator.kernel_name`). A device whose library chooses otherwise gets a finer division than
it needs.
"""

from costsim.ir.graph import LayerGraph
from costsim.ir.program import Direction

_OWN_NAME = frozenset({Direction.KEEP, Direction.LOSS, Direction.ACCUMULATE, Direction.SCORE})


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
    operator, shapes = graph[call].operator, graph.shapes(graph[call])
    name = operator.kernel_name(str(direction), shapes)
    return f"{name}, saving" if saves else name

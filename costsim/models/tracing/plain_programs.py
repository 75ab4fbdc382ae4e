"""Exported programs that can be translated as `torch.export` gives them.

`run_decompositions` makes every operator functional, by tracing all of it a second time: most of
what tracing would cost. A program whose operators are all translated as they are, and that changes
nothing in place but values which nothing else reads, says the same before.
"""

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from costsim.models.tracing.aten import HANDLERS

_FRESH = frozenset(
    f"aten.{name}"
    for name in (
        "add.Tensor", "addmm.default", "avg_pool2d.default", "batch_norm.default", "bmm.default",
        "cat.default", "clamp.default", "conv1d.default", "conv1d.padding", "conv2d.default",
        "conv2d.padding", "conv3d.default", "conv3d.padding", "div.Tensor", "elu.default",
        "gelu.default", "group_norm.default", "hardsigmoid.default", "hardswish.default",
        "hardtanh.default", "layer_norm.default", "leaky_relu.default", "linear.default",
        "log_softmax.int", "matmul.default", "max_pool2d.default", "mean.dim", "mm.default",
        "mul.Tensor", "relu.default", "relu6.default", "sigmoid.default", "silu.default",
        "softmax.int", "sub.Tensor", "tanh.default",
    )
)  # fmt: skip
"""Operators whose result has memory of its own, whatever their arguments."""


def is_plain(program: ExportedProgram, needed: set[Node]) -> bool:
    """Whether all that `needed` has of a program can be translated as it is."""
    return all(
        node.op in ("placeholder", "output")
        or (node.op == "call_function" and _is_readable(node, node in needed))
        for node in program.graph.nodes
    )


def _is_readable(node: Node, needed: bool) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return callable(node.target) and node.target.__name__ == "getitem"
    if node.target._schema.is_mutable:
        return _changes_its_own(node)
    return not needed or str(node.target) in HANDLERS


def functional_name(node: Node) -> str:
    """The name of the operator, or of the one that an operator in place is the twin of."""
    name = str(node.target)
    assert isinstance(node.target, torch._ops.OpOverload)
    if not node.target._schema.is_mutable or name in HANDLERS:
        return name
    namespace, operator, overload = name.split(".")
    return f"{namespace}.{operator.removesuffix('_')}.{overload}"


def _changes_its_own(node: Node) -> bool:
    """Whether an operator in place can be read as its twin: nobody else sees what it changes.

    What it changes has memory of its own, of which there is no view, and is not read again:
    `torch.export` lets what follows read the result.
    """
    changed = node.args[0] if node.args else None
    return (
        functional_name(node) in _FRESH
        and functional_name(node) in HANDLERS
        and isinstance(changed, Node)
        and _has_memory_of_its_own(changed)
        and all(user is node or _reads_before(user, node) for user in changed.users)
        and list(node.all_input_nodes).count(changed) == 1
    )


def _has_memory_of_its_own(node: Node) -> bool:
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and functional_name(node) in _FRESH
    )


def _reads_before(user: Node, change: Node) -> bool:
    return _has_memory_of_its_own(user) and user < change

"""Places where a model keeps gradients from flowing, which a training program would not."""

from collections.abc import Collection

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from costsim.base.errors import InputError
from costsim.models.tracing.names import module_stack

_DETACHING = frozenset({"aten.detach.default", "aten.detach_.default"})


def check_stopped(exported: ExportedProgram, frozen: Collection[str]) -> None:
    """Raise `InputError` where `detach` or `no_grad` cuts a parameter off from the output.

    `exported` is as `torch.export` gives it: decompositions leave `no_grad` out. What depends on
    no parameter, such as the mean of the images, or on `frozen` ones alone has no gradient to stop.
    """
    trained = {
        getattr(spec.arg, "name", "")
        for spec in exported.graph_signature.input_specs
        if spec.kind == InputKind.PARAMETER and spec.target not in frozen
    }
    for node in exported.graph.nodes:
        if not any(source.name in trained for source in node.all_input_nodes):
            continue
        trained.add(node.name)
        how = _stop(node)
        if how is not None:
            stack = module_stack(node)
            path = stack[-1][1] if stack else ""
            where = f"in its module {path!r} " if path else ""
            raise InputError(
                f"the model stops gradients {where}with {how}, where they would reach its "
                "parameters: take that out, and freeze what is not to learn by the plan instead"
            )


def _stop(node: torch.fx.Node) -> str | None:
    if str(node.target) in _DETACHING:
        return "detach()"
    no_grad = str(node.target) == "wrap_with_set_grad_enabled" and node.args[0] is False
    return "torch.no_grad()" if no_grad else None

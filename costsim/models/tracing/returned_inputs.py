"""Calls that may return the very tensor they are given, though their schema promises a new one.

A dropout that is off does, and `einsum` may give a mere view. What then changes the result in place
changes the input too. `torch.export` goes by schemas and takes the result for a copy; so where a
program changes anything in place, these calls are replaced by what they are.
"""

import copy
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from costsim.models.tracing.aten import HANDLERS
from costsim.models.tracing.decompositions import decompositions

_DROPOUTS = frozenset(
    f"aten.{name}.default"
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
)
"""Each takes a probability and whether it is on; without either it hands on its input."""


def changes_in_place(program: ExportedProgram) -> bool:
    """Whether any of its operators does, in blocks such as `with torch.no_grad()` too."""
    return any(target._schema.is_mutable for target in _operators(program))


def without_idle_dropouts(program: ExportedProgram) -> ExportedProgram:
    """A program whose idle dropouts are gone; `program` itself where there is none."""
    if not any(_is_idle(node) for node in _nodes(program)):
        return program
    found = ExportedProgram(
        root=copy.deepcopy(program.graph_module),
        graph=copy.deepcopy(program.graph),
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=program.state_dict,
        range_constraints=dict(program.range_constraints),
        module_call_graph=list(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=program.verifiers,
    )
    for node in _nodes(found):
        if _is_idle(node):
            given = node.args[0]
            assert isinstance(given, Node)
            node.replace_all_uses_with(given)
            node.graph.erase_node(node)
            _rename_output(found, node.name, given.name)
    return found


def aliasing_composites(program: ExportedProgram) -> dict[Any, Any]:
    """Decompositions of all operators that torch makes of others and nobody translates whole."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    untranslated = [one for one in _operators(program) if str(one) not in HANDLERS]
    return decompositions(one for one in untranslated if one.has_kernel_for_dispatch_key(key))


def _nodes(program: ExportedProgram) -> list[Node]:
    blocks = [one for one in program.graph_module.modules() if isinstance(one, GraphModule)]
    return [node for block in blocks for node in block.graph.nodes]


def _operators(program: ExportedProgram) -> set[torch._ops.OpOverload]:
    targets = [node.target for node in _nodes(program)]
    return {target for target in targets if isinstance(target, torch._ops.OpOverload)}


def _is_idle(node: Node) -> bool:
    if node.op != "call_function" or str(node.target) not in _DROPOUTS:
        return False
    _, probability, on = node.args
    return not on or not probability


def _rename_output(program: ExportedProgram, old: str, new: str) -> None:
    for spec in program.graph_signature.output_specs:
        if getattr(spec.arg, "name", None) == old:
            spec.arg.name = new

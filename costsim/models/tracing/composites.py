"""Operators that torch itself writes as others: `einsum`, `glu`, the cells of a GRU, ...

The empty decomposition table leaves every operator whole, which keeps the large ones readable.
Those that nobody translates are taken apart, as far as that leads to operators that are.
"""

import operator
from collections.abc import Collection
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from costsim.models.tracing.aten import HANDLERS
from costsim.models.tracing.decompositions import decompositions

_ROUNDS = 4
"""What an operator is made of may be made of others in turn."""


def taken_apart(program: ExportedProgram) -> ExportedProgram:
    """`program` without the operators that can be replaced by translated ones.

    One that would leave something untranslated stays, so that an error names what the model calls.
    """
    missing = _missing(program)
    if not missing:
        return program
    whole = _rounds(program, missing)
    if not _missing(whole):
        return whole
    possible = {one for one in missing if not _missing(_rounds(program, {one})) - missing}
    return _rounds(program, possible) if possible else program


def _rounds(program: ExportedProgram, chosen: Collection[Any]) -> ExportedProgram:
    left = _missing(program) - set(chosen)
    for _ in range(_ROUNDS):
        table = decompositions(_missing(program) - left)
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def _missing(program: ExportedProgram) -> set[Any]:
    """Operators without a handler that compute with activations or parameters."""
    constant: set[Node] = set()
    lifted = {
        *program.graph_signature.inputs_to_lifted_tensor_constants,
        *program.graph_signature.inputs_to_buffers,
    }
    found = set()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in lifted:
                constant.add(node)
        elif node.op == "call_function":
            if set(node.all_input_nodes) <= constant:
                constant.add(node)
            elif node.target is not operator.getitem and str(node.target) not in HANDLERS:
                found.add(node.target)
    return found

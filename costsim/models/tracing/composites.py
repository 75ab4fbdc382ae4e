"""Operators that torch itself writes as others: `einsum`, `glu`, the cells of a GRU, ...

The empty decomposition table leaves every operator whole, which keeps the large ones readable.
Those that nobody translates are taken apart, as far as that leads to operators that are.
"""

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from costsim.models.tracing.aten import HANDLERS

_ROUNDS = 4
"""What an operator is made of may be made of others in turn."""


def taken_apart(program: ExportedProgram) -> ExportedProgram:
    """`program` without the operators that can be replaced by translated ones.

    One that would leave something untranslated stays, so that an error names what the model calls.
    """
    missing = _missing(program)
    if not missing:
        return program
    known = torch.export.default_decompositions()  # half a second for torch to list
    whole = _rounds(program, missing, known)
    if not _missing(whole):
        return whole
    possible = {one for one in missing if not _missing(_rounds(program, {one}, known)) - missing}
    return _rounds(program, possible, known) if possible else program


def _rounds(
    program: ExportedProgram, chosen: Collection[Any], known: Mapping[Any, Any]
) -> ExportedProgram:
    left = _missing(program) - set(chosen)
    for _ in range(_ROUNDS):
        table = {one: known[one] for one in _missing(program) - left if one in known}
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

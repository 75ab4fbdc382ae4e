"""What makes a gradient necessary."""

from collections.abc import Iterable

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.program.schedule import AXES, Atom, Guard


def gradient_guards(graph: LayerGraph) -> dict[str, Guard]:
    """For each call, the updates that make the gradient of its value necessary.

    They are those of the call itself and of everything it depends on.
    """
    guards: dict[str, Guard] = {}
    for call in graph.calls:
        own = frozenset(own_atoms(graph, call))
        guards[call.name] = union([own, *(guards[name] for name in call.inputs)])
    return guards


def union(guards: Iterable[Guard]) -> Guard:
    """The updates of all of `guards`.

    Where one of them holds the others it is returned itself: those of a deep network are large,
    there are as many as calls, and a set is told from itself at once.
    """
    distinct = set(guards)
    whole = max(distinct, key=len, default=frozenset[Atom]())
    for guard in distinct:
        if guard is not whole and not guard <= whole:
            whole |= guard
    return whole


def own_atoms(graph: LayerGraph, call: Call) -> list[Atom]:
    """The updates of the layer that a call belongs to."""
    if call.layer is None:
        return []
    atoms: list[Atom] = [
        (axis, call.layer) for axis in AXES if graph.selectable_channels(call.layer, axis)
    ]
    if call.bias is not None and not call.bias.frozen:
        atoms.append(("bias", call.layer))
    return atoms

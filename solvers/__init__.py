"""Solvers: one algorithm per file; each is called with a `Problem` and returns an `Answer`.

`SOLVERS` names them all. A solver's options are the fields of its dataclass.
"""

from collections.abc import Callable, Mapping

from costsim.errors import InputError
from costsim.solution import Solver

from .baselines import BiasOnly, Full, LastLayer, NoUpdate
from .brute_force import BruteForce
from .greedy import Greedy
from .ilp import IntegerProgram

SOLVERS: Mapping[str, Callable[[], Solver]] = {
    "greedy": Greedy,
    "ilp": IntegerProgram,
    "ilp-cbc": lambda: IntegerProgram(backend="CBC"),
    "brute-force": BruteForce,
    "none": NoUpdate,
    "last-layer": LastLayer,
    "bias-only": BiasOnly,
    "full": Full,
}


def make_solver(name: str) -> Solver:
    """The solver called `name` with its default options; raises `InputError` naming those known."""
    if name not in SOLVERS:
        raise InputError(f"solver {name!r}; known are {', '.join(SOLVERS)}")
    return SOLVERS[name]()


__all__ = [
    "SOLVERS",
    "BiasOnly",
    "BruteForce",
    "Full",
    "Greedy",
    "IntegerProgram",
    "LastLayer",
    "NoUpdate",
    "make_solver",
]

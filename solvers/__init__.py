"""Solvers: one algorithm per file; each is called with a `Problem` and returns an `Answer`.

`SOLVERS` names them all. A solver's options are the fields of its dataclass.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from costsim.base.errors import InputError
from costsim.problem.solution import Clock, Solver

from .baselines import BiasOnly, Full, LastLayer, NoUpdate
from .brute_force import BruteForce
from .evolutionary import Evolutionary
from .exact import Exact
from .greedy import Greedy
from .ilp import IntegerProgram
from .static_scheme import SparseUpdate

SOLVERS: Mapping[str, Callable[[], Solver]] = {
    "greedy": Greedy,
    "exact": Exact,
    "ilp": IntegerProgram,
    "ilp-cbc": lambda: IntegerProgram(backend="CBC"),
    "evolutionary": Evolutionary,
    "sparse-update": SparseUpdate,
    "brute-force": BruteForce,
    "none": NoUpdate,
    "last-layer": LastLayer,
    "bias-only": BiasOnly,
    "full": Full,
}

LOOK_AT_NO_SCORE = frozenset(solver.name for solver in (NoUpdate, LastLayer, BiasOnly, Full))
"""Names of the solvers whose choice is the same whatever the channels are worth."""


def make_solver(name: str, *, time_limit_s: float | None = None, clock: Clock = "wall") -> Solver:
    """The solver called `name` with its default options, and a time limit if it can have one.

    The limit is counted by `clock`: by that on the wall unless told otherwise, since a person who
    gives a limit means what they wait for. Without one the solver's own counts processor time.
    Raises `InputError` for an unknown name and for a time limit of a solver that takes none.
    """
    if name not in SOLVERS:
        raise InputError(f"solver {name!r} is unknown; known are {', '.join(SOLVERS)}")
    solver = SOLVERS[name]()
    if time_limit_s is None:
        return solver
    if not hasattr(solver, "time_limit_s"):
        raise InputError(f"solver {name!r} takes no time limit")
    return replace(solver, time_limit_s=time_limit_s, clock=clock)  # type: ignore[type-var]


__all__ = [
    "LOOK_AT_NO_SCORE",
    "SOLVERS",
    "BiasOnly",
    "BruteForce",
    "Evolutionary",
    "Exact",
    "Full",
    "Greedy",
    "IntegerProgram",
    "LastLayer",
    "NoUpdate",
    "SparseUpdate",
    "make_solver",
]

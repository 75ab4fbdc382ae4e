"""Solvers: one algorithm per file; each is called with a `Problem` and returns an `Answer`.

`SOLVERS` names them all. A solver's options are the fields of its dataclass.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from costsim.base.errors import InputError
from costsim.base.registry import Entry, Registry

if TYPE_CHECKING:
    from costsim.problem.solution import Clock, Solver

SOLVERS: "Registry[Solver]" = Registry(
    "solver",
    {
        "greedy": Entry("costsim.solvers.greedy:Greedy", "the paper's: by gain a byte and MAC"),
        "exact": Entry(
            "costsim.solvers.exact:Exact",
            "the best plan there is, proven",
            tags={"proves"},
        ),
        "ilp": Entry(
            "costsim.solvers.ilp:IntegerProgram",
            "the same by integer programs, with HiGHS",
            tags={"proves"},
        ),
        "ilp-cbc": Entry(
            "costsim.solvers.ilp:IntegerProgram",
            "the same with CBC",
            {"backend": "CBC"},
            {"proves"},
        ),
        "evolutionary": Entry("costsim.solvers.evolutionary:Evolutionary", "SparseUpdate's search"),
        "sparse-update": Entry(
            "costsim.solvers.static_scheme:SparseUpdate",
            "SparseUpdate's published scheme, whatever the scores",
            tags={"whole network"},
        ),
        "brute-force": Entry(
            "costsim.solvers.brute_force:BruteForce",
            "every plan, for tiny models",
            tags={"proves"},
        ),
        "none": Entry("costsim.solvers.baselines:NoUpdate", "trains nothing", tags={"no scores"}),
        "last-layer": Entry(
            "costsim.solvers.baselines:LastLayer",
            "all of the last layer",
            tags={"no scores", "whole network"},
        ),
        "bias-only": Entry(
            "costsim.solvers.baselines:BiasOnly",
            "all biases and no weight",
            tags={"no scores", "whole network"},
        ),
        "full": Entry(
            "costsim.solvers.baselines:Full",
            "every weight and every bias",
            tags={"no scores", "whole network"},
        ),
    },
    group="costsim.solvers",
    kind="costsim.problem.solution:Solver",
)
"""`proves`: it proves its plan the best there is, given the time; `no scores`: the choice is the
same whatever the channels are worth; `whole network`: it is of all of it, whatever was inspected.
"""

COMPARED = ("exact", "greedy")
"""Those that a comparison is of where nobody says which."""


def make_solver(
    name: str, *, time_limit_s: float | None = None, clock: "Clock" = "wall"
) -> "Solver":
    """The solver called `name` with its default options, and a time limit if it can have one.

    The limit is counted by `clock`: by that on the wall unless told otherwise, since a person who
    gives a limit means what they wait for. Without one the solver's own counts processor time.
    Raises `InputError` for an unknown name and for a time limit of a solver that takes none.
    """
    solver = SOLVERS.make(name)
    if time_limit_s is None:
        return solver
    if not hasattr(solver, "time_limit_s"):
        raise InputError(f"solver {name!r} takes no time limit")
    return replace(solver, time_limit_s=time_limit_s, clock=clock)  # type: ignore[type-var]

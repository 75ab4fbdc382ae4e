"""Claims of the planner and of the readers, held against oracles for as many cases as asked.

A case of the cost table is a plan of a drawn graph and step, priced by the table and by its
compiled program; one of the budgets is a budget and a solver, see `enumerating`; one of the files
is a damaged one through a command, see `damaging`. The first fault ends it.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from campaign.experiment import Experiment
from campaign.stage import Stage

GRAPHS_A_ROUND = 25
"""Rounds keep memory flat, and any of them can be run again alone, by its seed."""

Check = Callable[[st.DataObject, Counter[str]], None]


def table(data: st.DataObject, told: Counter[str]) -> None:
    """Ten plans of one graph."""
    from tabulating import check_table_against_program

    check_table_against_program(data, plans_of_each=10)
    told["cases"] += 10


def budgets(data: st.DataObject, told: Counter[str]) -> None:
    """A hundred budgets of one graph."""
    from enumerating import check_budgets

    told.update(check_budgets(data, budgets_of_each=100))


def drawn(
    check: Check, held: str, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """Rounds until there were so many cases; says what there was of what, after each."""
    told: Counter[str] = Counter()
    started = time.process_time()
    while told["cases"] < times:
        seed = chance.randrange(2**32)
        _round(check, seed, told)
        seconds = time.process_time() - started
        print(f"{seconds:.0f} s of the processor: {_counted(told)}", file=sys.stderr, flush=True)
    kinds = {name: count for name, count in told.items() if name != "cases"}
    return told["cases"], f"{held}{' (' * bool(kinds)}{_counted(kinds)}{')' * bool(kinds)}"


def _round(check: Check, seed: int, told: Counter[str]) -> None:
    @hypothesis.seed(seed)
    @settings(
        max_examples=GRAPHS_A_ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one_round(data: st.DataObject) -> None:
        check(data, told)

    try:
        one_round()
    except Exception as error:
        raise AssertionError(f"in the round of seed {seed}: {error}") from error


def _counted(told: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(told.items()))


def damaged_files(stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    """So many damaged files, from a number on that is drawn, each through a command."""
    from damaging import fuzz, kinds_of

    fuzz(kinds_of(stage.new()), stage.new(), times, first=chance.randrange(10**9))
    return times, "an answer, or one line and exit status 2; no traceback, nothing half-written"


EXPERIMENTS = (
    Experiment(
        "drawn plans", "cost table",
        partial(drawn, table, "every byte, MAC and second is that of the compiled program"),
        100_000, 0,
    ),
    Experiment(
        "drawn budgets", "solvers",
        partial(drawn, budgets, "no plan over a budget, no false proof, by the program of every "
                "plan there is"),
        100_000, 0,
    ),
    Experiment("damaged files", "all commands that read one", damaged_files, 20_000, 0),
)  # fmt: skip

"""Claims of the planner, held against independent oracles as often as one has time for.

    python tests/campaign/budgets.py table --cases 100000 [--seed N]
    python tests/campaign/budgets.py budgets --cases 100000 [--seed N]

`table`: a case is a plan of a drawn graph and step, priced by the cost table and by its compiled
program. `budgets`: a case is a budget and a solver, see `enumerating`. Cases are drawn in rounds,
each with a seed of its own, so that memory stays flat and any round can be run again; the first
fault ends it, reduced to a small one, with exit status 1. The slow tests run some thousands.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from enumerating import check_budgets
from tabulating import check_table_against_program

GRAPHS_A_ROUND = 25


def table(data: st.DataObject, told: Counter[str]) -> None:
    """Ten plans of one graph."""
    check_table_against_program(data, plans_of_each=10)
    told["cases"] += 10


def budgets(data: st.DataObject, told: Counter[str]) -> None:
    """Forty budgets of one graph."""
    told.update(check_budgets(data, budgets_of_each=40))


CAMPAIGNS: dict[str, Callable[[st.DataObject, Counter[str]], None]] = {
    "table": table,
    "budgets": budgets,
}


def run(check: Callable[[st.DataObject, Counter[str]], None], cases: int, seed: int) -> None:
    """Rounds until there were so many cases; prints what there was of what, after each."""
    told: Counter[str] = Counter()
    started, number = time.perf_counter(), seed
    while told["cases"] < cases:

        @hypothesis.seed(number)
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
        except Exception:
            print(f"a fault in the round of seed {number}", flush=True)
            raise
        number += 1
        seconds, processor = time.perf_counter() - started, time.process_time()
        print(f"{seconds:.0f} s ({processor:.0f} of the processor):", flush=True, end=" ")
        print(", ".join(f"{name} {count}" for name, count in sorted(told.items())), flush=True)


def main() -> None:
    """Run the campaign that is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("--cases", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: 0)")
    asked = parser.parse_args()
    run(CAMPAIGNS[asked.campaign], asked.cases, asked.seed)


if __name__ == "__main__":
    sys.exit(main())

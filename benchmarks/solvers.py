"""Seconds to a plan: the exact solver, integer programs and greedy on the same problems.

    python benchmarks/solvers.py [--images PATH] [--axes output|both] [--biases] [--time-limit S]
        [--plain] [--only greedy,exact]

Three networks at 128×128 by four devices by ten budgets: one tight limit and several, every
accounting. Scores are Fisher information of a 10-way 5-shot task of real images: those at PATH,
by default flowers of the development data where it is on the machine, the digits otherwise.
`--plain` adds the integer program that is given the whole problem at once. With `--biases` each
bias may be chosen too. `--only` times some of the solvers; `exact` must be among them.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from costsim.solvers.exact import Exact
from costsim.solvers.greedy import Greedy
from costsim.solvers.ilp import IntegerProgram
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from solvers_scores import NETWORKS, SHARED, scores

from costsim.device import load_device, shipped_devices
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import full_backward_macs
from costsim.problem.budget import Budget
from costsim.problem.importance import Importance
from costsim.problem.problem import Problem
from costsim.problem.solution import Solution, Solver, Status
from costsim.solving.solve import solve


@dataclass(frozen=True)
class Limits:
    """Each limit as a share of the way from the cheapest channel to everything; None: no limit."""

    memory: float | None = None
    macs: float | None = None
    latency: float | None = None
    energy: float | None = None
    accounting: str = "peak"


BUDGETS = (
    Limits(memory=0.1),
    Limits(memory=0.4),
    Limits(macs=0.15),
    Limits(latency=0.3),
    Limits(memory=0.3, macs=0.2),
    Limits(memory=0.5, latency=0.3),
    Limits(memory=0.3, macs=0.3, latency=0.3, energy=0.3),
    Limits(memory=0.15, macs=0.1),
    Limits(memory=0.4, macs=0.15, accounting="paper"),
    Limits(memory=0.4, macs=0.25, accounting="tiny-training"),
)


def problems(name: str, device: str, importance: Importance) -> Iterator[tuple[str, Problem]]:
    """The device's own budget, as far as anything fits it, and those of `BUDGETS`."""
    graph, step, spec = architecture_graph(name), TrainingStep(), load_device(device)
    target = spec.target()
    power = target.power.compute.value
    own = Budget(
        memory_bytes=spec.training_budget.memory_bytes,
        macs=int(full_backward_macs(graph, step) * spec.training_budget.macs_share.value),
    )
    free = Problem(graph, step, importance, own, timer=target, compute_w=power)
    if free.fits(np.eye(len(free.candidates), dtype=np.int64)).any():
        yield "the device's", free
    everything = np.array([[c.size * (c.axis != "input") for c in free.candidates]])
    for limits in BUDGETS:
        wide = free.within(Budget(10**15, limits.accounting, 10**15, 1e9, 1e9))
        single = wide.usage(np.eye(len(wide.candidates), dtype=np.int64))
        full = wide.usage(everything)

        def part(
            what: str,
            share: float | None,
            single: Mapping[str, np.ndarray] = single,
            full: Mapping[str, np.ndarray] = full,
        ) -> float | None:
            if share is None:
                return None
            least = float(single[what].min())
            return least + share * (float(full[what][0]) - least)

        memory, macs = part("memory_bytes", limits.memory), part("macs", limits.macs)
        budget = Budget(
            memory_bytes=None if memory is None else int(memory),
            accounting=limits.accounting,
            macs=None if macs is None else int(macs),
            latency_s=part("latency_s", limits.latency),
            energy_j=part("energy_j", limits.energy),
        )
        yield str(limits), wide.within(budget)


def show(title: str, results: Mapping[str, list[Solution]]) -> Table:
    """One row a solver: seconds, what is proven, and the share of the optimum's gain."""
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("solver", no_wrap=True)
    for heading in ("median ms", "90 % ms", "slowest ms", "proven", "gain: median", "worst"):
        table.add_column(heading, justify="right")
    for name, found in results.items():
        seconds = [solution.seconds for solution in found]
        reached = [
            solution.objective / best.objective
            for solution, best in zip(found, results["exact"], strict=True)
            if solution.objective is not None and best.objective
        ]
        proven = sum(s.status in (Status.OPTIMAL, Status.INFEASIBLE) for s in found)
        table.add_row(
            name,
            f"{statistics.median(seconds) * 1e3:.0f}",
            f"{float(np.quantile(seconds, 0.9)) * 1e3:.0f}",
            f"{max(seconds) * 1e3:.0f}",
            f"{proven}/{len(found)}" if name != "greedy" else "-",
            f"{statistics.median(reached):.2%}",
            f"{min(reached):.2%}",
        )
    return table


def plans_a_second(problem: Problem, plans: int = 2000) -> float:
    """How many plans the cost table prices in a second, all costs of each."""
    rng = np.random.default_rng(0)
    sizes = np.array([c.size for c in problem.candidates])
    selections = rng.integers(0, sizes + 1, (plans, len(sizes)))
    counts = problem.counts(selections)
    samples = []
    for _ in range(7):
        started = time.perf_counter()
        problem.table.price(counts)
        samples.append(time.perf_counter() - started)
    return plans / statistics.median(samples)


def main() -> None:
    """Time every solver on every problem, interleaved, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flowers = SHARED / "data" / "vgg_flower.tar.gz"
    parser.add_argument("--images", type=Path, default=flowers if flowers.exists() else None)
    parser.add_argument("--axes", choices=("output", "both"), default="output")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds (default: 20)")
    parser.add_argument("--biases", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--only", metavar="NAMES")
    options = parser.parse_args()
    console = Console()
    limit = options.time_limit
    solvers: dict[str, Solver] = {
        "greedy": Greedy(),
        "exact": Exact(limit),
        "ilp": IntegerProgram(time_limit_s=limit),
        "ilp (CBC)": IntegerProgram("CBC", time_limit_s=limit),
    }
    if options.plain:
        solvers["one program"] = IntegerProgram(time_limit_s=limit, by_case=False)
    if options.only:
        solvers = {name: solvers[name] for name in options.only.split(",")}
    overall: dict[str, list[Solution]] = {name: [] for name in solvers}
    for network in NETWORKS:
        importance = scores(network, options.images, options.axes == "both", options.biases)
        here: dict[str, list[Solution]] = {name: [] for name in solvers}
        for device in shipped_devices():
            for budget, problem in problems(network, device, importance):
                for name, solver in solvers.items():
                    here[name].append(solve(problem, solver))
                best = here["exact"][-1]
                for name in solvers:
                    other = here[name][-1]
                    if Status.OPTIMAL == other.status == best.status and not np.isclose(
                        other.objective or 0.0, best.objective or 0.0, rtol=1e-9, atol=0.0
                    ):
                        raise SystemExit(f"{name} and exact disagree: {network} {device} {budget}")
        console.print(show(f"{network}: {len(here['exact'])} problems", here))
        for name, found in here.items():
            overall[name] += found
        if network == "mcunet-5fps":
            rate = plans_a_second(problem)
            console.print(f"{network}: {rate:,.0f} plans priced a second by the table\n")
    console.print(show("all networks", overall))


if __name__ == "__main__":
    main()

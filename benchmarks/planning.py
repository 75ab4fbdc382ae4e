"""What planning an adaptation takes, and what two decisions of the planner cost.

    python benchmarks/planning.py whole|passes|memory [--model NAME...] [--device NAME...]

`whole`: processor seconds of choosing channels and recipe together, where the whole adaptation may
take a share of the minutes that it takes unbound. `passes`: the plan in the passes given beside the
one that `--free-passes` finds (docs/decisions/passes-as-given.md). `memory`: the gain within the
recommended memory by a step from the image on, by one from the best cut on, and without a limit
(docs/decisions/memory-from-the-image.md); Adam, 50 images. Scores are of digits.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from costsim.device import load_device
from costsim.ir.cuts import between, cuts
from costsim.ir.step import TrainingStep
from costsim.planning import PlanRequest
from costsim.planning.joint import JointAnswer, choose_jointly
from costsim.planning.joint_question import by_passes, choices, joint_question
from costsim.planning.passes import choose_passes
from costsim.planning.posed_problem import Prepared, prepare
from costsim.problem.budget import Budget
from costsim.problem.problem import Problem
from costsim.problem.task_budget import TaskBudget

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
SHARES = (0.7, 0.5, 0.35)
IMAGES = 50

T = TypeVar("T")


def main() -> int:
    """Print one of the tables."""
    tables: dict[str, tuple[Callable[[str, str], Iterator[str]], tuple[str, ...]]] = {
        "whole": (_whole, ("pi-zero-2",)),
        "passes": (_passes, ("jetson-nano", "pi-zero-2", "stm32f746")),
        "memory": (_memory, ("pi-zero-2",)),
    }
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=tables)
    parser.add_argument("--model", nargs="*", default=NETWORKS, metavar="NAME")
    parser.add_argument("--device", nargs="*", metavar="NAME")
    options = parser.parse_args()
    rows, devices = tables[options.table]
    for device in options.device or devices:
        for model in options.model:
            for row in rows(device, model):
                print(f"{device:12s} {model:16s} {row}", flush=True)
    return 0


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def _chosen(prepared: Prepared) -> JointAnswer:
    return choose_jointly(joint_question(prepared), prepared.request.solver)


def _minutes(answer: JointAnswer) -> float:
    assert answer.priced is not None
    assert answer.priced.cost.latency_s is not None
    return answer.priced.cost.latency_s.value / 60


def _whole(device: str, model: str) -> Iterator[str]:
    step = TrainingStep(IMAGES, 1, "adam")
    prepared = prepare(PlanRequest(device=load_device(device), model=model, step=step))
    seconds, unbound = _timed(lambda: _chosen(prepared))
    yield f"{seconds:5.2f} s  unbound: {_minutes(unbound):.2f} minutes"
    for share in SHARES:
        budget = TaskBudget(latency_s=share * 60 * _minutes(unbound))
        bound = replace(prepared, request=replace(prepared.request, task_budget=budget))
        seconds, answer = _timed(lambda bound=bound: _chosen(bound))  # type: ignore[misc]
        solution = answer.solution
        gain = (solution.objective or 0.0) / (unbound.solution.objective or 1.0)
        yield f"{seconds:5.2f} s  {share:4.0%}: {solution.status.value}, {gain:.1%} of the gain"


def _passes(device: str, model: str) -> Iterator[str]:
    prepared = prepare(PlanRequest(device=load_device(device), model=model))
    seconds, given = _timed(lambda: _chosen(prepared))
    yield f"{seconds:5.2f} s  given: gain {given.solution.objective or 0:.4f}"
    free = replace(prepared, request=replace(prepared.request, free_passes=True))
    seconds, found = _timed(
        lambda: choose_passes(
            lambda passes: joint_question(by_passes(free, passes)),
            choices(free),
            free.request.solver,
        )
    )
    gain = found.answer.solution.objective or 0
    same = "the same plan" if found.answer.solution.plan == given.solution.plan else "another"
    yield f"{seconds:5.2f} s  free: gain {gain:.4f} in passes of {found.passes.micro_batch}, {same}"


def _memory(device: str, model: str) -> Iterator[str]:
    prepared = prepare(PlanRequest(device=load_device(device), model=model))
    whole = prepared.problem

    def best(problem: Problem) -> float:
        plan = prepared.request.solver(problem).plan
        return 0.0 if plan is None else problem.gain(plan)

    unlimited = best(whole.within(replace(whole.budget, memory_bytes=None)))
    behind = (_behind(prepared, cut) for cut in cuts(whole.graph)[1:-1])
    from_cut = max(best(problem) for problem in behind if problem is not None)
    yield f"image {best(whole):.3f}  cut {from_cut:.3f}  no limit {unlimited:.3f}"


def _behind(prepared: Prepared, cut: str) -> Problem | None:
    """What is chosen by a step that begins at the cut; None where nothing lies behind it."""
    whole = prepared.problem
    graph = between(whole.graph, cut)
    channels = tuple(one for one in whole.importance.channels if one.layer in graph.layers)
    before = {call.layer for call in whole.graph.calls} - set(graph.layers)
    if not channels or any(one.layer in before for one in channels):
        return None
    return Problem(
        graph,
        whole.step,
        replace(whole.importance, channels=channels),
        Budget(memory_bytes=whole.budget.memory_bytes, macs=whole.budget.macs),
        with_bias=whole.with_bias,
        timer=prepared.request.device.target(None).at(whole.step.bits),
    )


if __name__ == "__main__":
    sys.exit(main())

"""What the page asks and is answered: fragments of it, and the plan file that is kept."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from costsim.base.errors import InputError
from costsim.base.files import user_path
from costsim.base.units import format_bytes, format_joules, format_percent, format_seconds
from costsim.device import DeviceSpec
from costsim.planning.exploration import (
    Elsewhere,
    Exploration,
    Sketch,
    elsewhere,
)
from costsim.planning.request import PlanRequest
from costsim.problem.budget import describe, with_unit
from costsim.problem.solution import Solver
from costsim.report.explore.controls import Controls, sliders, with_budgets
from costsim.report.explore.pictures import curve, network, timeline
from costsim.report.html import environment
from costsim.report.summary import Summary
from costsim.solving.explain import LimitPrice
from costsim.solving.planfile import write_plan


@dataclass
class Session:
    """One person at one page.

    `ask` makes a request of a device, a solver and an axis, without the budgets of the page;
    `prover` answers what nobody waits for; `devices` are those that a plan is put beside. `command`
    tells the command that makes the same plan file, and `out` where that is kept if nobody says.
    """

    exploration: Exploration
    ask: Callable[[Controls], PlanRequest]
    prover: Solver
    devices: tuple[DeviceSpec, ...]
    command: Callable[[Controls, str], str]
    out: Path
    may_replace: bool = False
    written: set[Path] = field(default_factory=set)

    def request(self, controls: Controls) -> PlanRequest:
        """What the page asks; raises `InputError` for what cannot be used."""
        return with_budgets(self.ask(controls), controls)

    def sketch(self, controls: Controls) -> dict[str, Any]:
        """The plan at once: its sentence, its pictures, and how the sliders stand."""
        request = self.request(controls)
        sketch = self.exploration.sketch(request)
        problem = sketch.prepared.problem
        shared = problem.schedule if sketch.file.order else None
        summary = Summary(sketch.file, problem.graph, shared)
        return {
            "sentence": summary.answer,
            "holds": sketch.file.predicted is not None,
            "sliders": [
                vars(slider)
                for slider in sliders(problem, self.exploration.reaches(sketch.prepared), request)
            ],
            "accounting": problem.budget.accounting,
            "command": self.command(controls, str(self.out)),
            "plan": self._plan(sketch, summary),
            "frontier": self._frontier(sketch),
        }

    def more(self, controls: Controls) -> dict[str, Any]:
        """What a little more would buy, and the same plan on other devices."""
        sketch = self.exploration.sketch_again(self.request(controls))
        prices = self.exploration.more(sketch, self.prover)
        return {
            "more": _rendered("more.html", sentences=[_told(one) for one in prices]),
            "devices": _rendered(
                "devices.html", rows=_rows(sketch, elsewhere(sketch, self.devices))
            ),
        }

    def frontier(self, controls: Controls) -> dict[str, Any]:
        """The frontier, with the plan on it."""
        sketch = self.exploration.sketch_again(self.request(controls))
        self.exploration.frontier(sketch.prepared, self.prover)
        return {"frontier": self._frontier(sketch)}

    def whole(self, controls: Controls) -> dict[str, Any]:
        """The plan with the price of the whole adaptation, and what to know of it."""
        planned = self.exploration.planned(self.exploration.prepared(self.request(controls)))
        summary = Summary(planned.file, planned.graph)
        return {
            "sentence": summary.answer,
            "whole": _rendered("whole.html", headline=summary.headline, notes=planned.warnings),
        }

    def save(self, controls: Controls, name: str) -> dict[str, Any]:
        """Write the plan file that `costsim plan --out` would; `name` is a path, as one types it.

        Raises `InputError` for a file that is there already and not this session's.
        """
        out = user_path(name.strip()) if name.strip() else self.out
        ours = out in self.written or (out == self.out and self.may_replace)
        if out.exists() and not ours:
            raise InputError(f"{out} is there already: type another name")
        planned = self.exploration.planned(self.exploration.prepared(self.request(controls)))
        write_plan(out, planned.file)
        self.written.add(out)
        held = "" if planned.file.predicted is not None else "; it holds no plan"
        return {"saved": f"Written: {out}{held}. {self.command(controls, str(out))} does the same."}

    def _plan(self, sketch: Sketch, summary: Summary) -> str:
        holds = sketch.file.predicted is not None
        return _rendered(
            "plan.html",
            budgets=(*summary.budgets, *summary.task_budgets),
            timeline=timeline(summary) if holds else None,
            bars=network(summary) if holds else (),
            chosen=summary.chosen,
            unchosen=summary.unchosen,
        )

    def _frontier(self, sketch: Sketch) -> str:
        found = self.exploration.known_frontier(sketch.prepared)
        if found is None:
            return _rendered("frontier.html", curve=None)
        problem = sketch.prepared.problem
        cost, accounting = sketch.solution.cost, problem.budget.accounting
        used = None if cost is None else cost.memory.in_accounting(accounting)
        share = problem.importance.share(sketch.solution.objective)
        return _rendered("frontier.html", curve=curve(found, used, share))


def _told(price: LimitPrice) -> str:
    """What more of a budget buys, for a person."""
    if price.rise or price.more is None:
        return price.sentence
    held = describe(price.limit, price.allowed)
    return f"{with_unit(price.limit, price.more)} more than {held} would bring nothing."


def _rows(sketch: Sketch, others: Iterable[Elsewhere]) -> list[Mapping[str, object]]:
    """The step here and elsewhere: seconds, joules, whether it fits."""
    here = sketch.prepared.request.device
    cost = sketch.solution.cost
    found = [] if cost is None else [Elsewhere(here, cost), *others]
    rows: list[Mapping[str, object]] = []
    for one in found:
        on = one.cost.on_device
        assert on is not None
        rows.append(
            {
                "name": one.device.name,
                "title": one.device.title,
                "here": one.device is here,
                "seconds": format_seconds(on.latency_s.value),
                "joules": format_joules(on.energy_j.value),
                "fits": "fits" if on.fits else ("swaps" if on.swap_s else "does not fit"),
            }
        )
    return rows


@cache
def _environment() -> Environment:
    found = environment()
    found.filters |= {"percent": format_percent, "bytes": format_bytes}
    return found


def _rendered(name: str, **values: object) -> str:
    """A fragment of the page."""
    return _environment().get_template(f"explore/{name}").render(**values)

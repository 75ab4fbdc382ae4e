"""What the rows of a study say: gain lost against the proven optimum, and how sure that is.

The loss of a solver on a problem is `(optimum - gain) / optimum`, the optimum being what `exact`
(or another solver) proved there; a solver without a plan where there is an optimum loses all of it.
Means and their intervals are those of `costsim.base.intervals`: a task is a domain and a seed
together, and its problems, which share their scores, count as their mean. Below five tasks nothing
is claimed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from costsim.base.intervals import FEWEST_TASKS, Mean
from costsim.base.units import counted, format_percent
from costsim.solvers import SOLVERS

EQUAL = 1e-9
"""Loss up to which two gains are the same."""
NOTABLE = 0.01
"""Loss from which an exact answer is said to be worth it."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One solver's row on a problem whose optimum is known.

    `tightness` is the share of all inspected gain that the optimum reaches: 1 is no constraint.
    `agreement` is the Jaccard index of the chosen channels with the optimal plan's.
    """

    row: Mapping[str, Any]
    loss: float
    tightness: float
    agreement: float

    @property
    def solver(self) -> str:
        """Who made the plan."""
        return str(self.row["solver"])

    @property
    def task(self) -> tuple[str, int]:
        """Domain and seed: what counts once in an interval."""
        return str(self.row["domain"]), int(self.row["seed"])

    @property
    def has_plan(self) -> bool:
        """Whether there is a plan."""
        return self.row["gain"] is not None


@dataclass(frozen=True, slots=True)
class Group:
    """What one solver did on the problems of one group (a budget, a tightness, everything).

    `none` are problems with an optimum where it had no plan; `equal` and `notable` are shares of
    the problems that it solved as well as the optimum, and at least `NOTABLE` worse.
    """

    solver: str
    name: str
    problems: int
    tasks: int
    none: int
    loss: Mean
    median: float
    worst: float
    equal: float
    notable: float
    agreement: float
    fullest: float
    seconds: float
    slowest_s: float


def optima(rows: Rows) -> dict[str, Mapping[str, Any]]:
    """The proven optimum of each problem that has one."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["status"] == "optimal":
            known = found.get(row["problem"])
            if known is None or row["solver"] == "exact":
                found[row["problem"]] = row
    return found


def compare(rows: Rows) -> list[Compared]:
    """Every row of a problem with a known optimum beside it, errors left out."""
    best = optima(rows)
    found = []
    for row in rows:
        optimum = best.get(row["problem"])
        if optimum is None or row["status"] == "error" or not optimum["gain"]:
            continue
        gain = row["gain"] or 0.0
        found.append(
            Compared(
                row=row,
                loss=max(0.0, 1.0 - gain / optimum["gain"]),
                tightness=optimum["gain"] / optimum["total_gain"],
                agreement=_jaccard(_channels(row), _channels(optimum)),
            )
        )
    return found


def _channels(row: Mapping[str, Any]) -> frozenset[tuple[str, str, int]]:
    layers = json.loads(row["plan"]) if row["plan"] else []
    channels = frozenset((x["name"], x["axis"], c) for x in layers for c in x["channels"])
    return channels | {(x["name"], "bias", 0) for x in layers if x["bias"]}


def _jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


TIGHTNESS = (
    (0.25, "optimum reaches up to 25 % of all gain"),
    (0.5, "25 to 50 %"),
    (0.75, "50 to 75 %"),
    (0.95, "75 to 95 %"),
    (np.inf, "more than 95 %: budgets hardly bind"),
)


def tightness_name(one: Compared) -> str:
    """The class of tightness a problem is in."""
    return next(name for most, name in TIGHTNESS if one.tightness <= most)


def groups(
    compared: Sequence[Compared], by: Callable[[Compared], str], order: Sequence[str] | None = None
) -> list[Group]:
    """One entry for each solver and each value of `by`, in `order` or as they come."""
    names = list(dict.fromkeys(by(one) for one in compared))
    if order is not None:
        names = [name for name in order if name in names]
    solvers = dict.fromkeys(one.solver for one in compared)
    found = []
    for name in names:
        for solver in solvers:
            part = [one for one in compared if one.solver == solver and by(one) == name]
            if part:
                found.append(_group(solver, name, part))
    return found


def _group(solver: str, name: str, part: Sequence[Compared]) -> Group:
    losses = np.array([one.loss for one in part])
    with_plan = [one for one in part if one.has_plan]
    seconds = [float(one.row["seconds"]) for one in part]
    fullest = [one.row["fullest"] for one in with_plan if one.row["fullest"] is not None]
    tasks = [one.task for one in part]
    return Group(
        solver=solver,
        name=name,
        problems=len(part),
        tasks=len(set(tasks)),
        none=len(part) - len(with_plan),
        loss=_mean(losses.tolist(), tasks),
        median=float(np.median(losses)),
        worst=float(losses.max()),
        equal=float((losses <= EQUAL).mean()),
        notable=float((losses >= NOTABLE).mean()),
        agreement=float(np.mean([one.agreement for one in with_plan])) if with_plan else 0.0,
        fullest=float(np.mean(fullest)) if fullest else 0.0,
        seconds=float(np.median(seconds)),
        slowest_s=max(seconds),
    )


def _mean(values: Sequence[float], tasks: Sequence[object]) -> Mean:
    """Over tasks, of at least one value."""
    mean = Mean.by_task(values, tasks)
    assert mean is not None
    return mean


def by_tightness(compared: Sequence[Compared]) -> list[Group]:
    """By the share of all gain that the optimum reaches."""
    return groups(compared, tightness_name, [name for _, name in TIGHTNESS])


def by_budget(compared: Sequence[Compared]) -> list[Group]:
    """By the budget's name."""
    return groups(compared, lambda one: str(one.row["budget"]))


def by_model(compared: Sequence[Compared]) -> list[Group]:
    """By the model."""
    return groups(compared, lambda one: str(one.row["model"]))


def overall(compared: Sequence[Compared]) -> list[Group]:
    """Everything together."""
    return groups(compared, lambda _one: "all problems")


@dataclass(frozen=True)
class SolverFindings:
    """All that a report shows of a study's rows."""

    rows: Rows
    compared: Sequence[Compared]

    @classmethod
    def of(cls, rows: Rows) -> "SolverFindings":
        """The findings of `rows`."""
        return cls(rows, compare(rows))

    @property
    def problems(self) -> int:
        """Problems that were posed."""
        return len({row["problem"] for row in self.rows})

    @property
    def proven(self) -> int:
        """Problems with a proven optimum."""
        return len({one.row["problem"] for one in self.compared})

    @property
    def without_plan(self) -> int:
        """Problems that an exact solver proved to have no plan."""
        exact = SOLVERS.tagged("proves")
        return len(
            {
                row["problem"]
                for row in self.rows
                if row["status"] == "infeasible" and row["solver"] in exact
            }
        )

    @property
    def errors(self) -> list[Mapping[str, Any]]:
        """Rows of cells that broke."""
        return [row for row in self.rows if row["status"] == "error"]

    def answer(self, solver: str = "greedy") -> list[str]:
        """When an exact answer is worth it over `solver`, in sentences."""
        mine = [one for one in self.compared if one.solver == solver]
        if not mine:
            return [f"No problem with a proven optimum was also given to {solver}."]
        told = [_sentence("Over all problems", overall(mine)[0])]
        told += [_sentence(f"Tightness, {group.name}", group) for group in by_tightness(mine)]
        told.append(_verdict(solver, by_tightness(mine)))
        told[-1:-1] = self.in_accuracy(solver)
        return [f"{sentence.rstrip('.')}." for sentence in told]

    def in_accuracy(self, solver: str = "greedy") -> list[str]:
        """What the exact plans are worth over `solver` in accuracy, where both were trained.

        The difference is paired by problem; its interval draws whole tasks.
        """
        trained: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in self.rows:
            if row["accuracy"] is not None:
                trained.setdefault(row["problem"], {})[row["solver"]] = row
        pairs = [(of["exact"], of[solver]) for of in trained.values() if {"exact", solver} <= {*of}]
        if not pairs:
            return []
        tasks = [(str(ours["domain"]), int(ours["seed"])) for ours, _ in pairs]
        better = _mean([a["accuracy"] - b["accuracy"] for a, b in pairs], tasks)
        before = float(np.mean([ours["accuracy_before"] for ours, _ in pairs]))
        mean = [float(np.mean([pair[i]["accuracy"] for pair in pairs])) for i in (0, 1)]
        sure = ""
        if better.low is not None and better.high is not None:
            sure = ", not sure to be any"
            if better.low > 0:
                sure = ", surely more"
            elif better.high < 0:
                sure = ", surely less"
        return [
            f"In accuracy, over {len(pairs)} problems of {len(set(tasks))} tasks: "
            f"{format_percent(before)} before training, {format_percent(mean[0])} after training "
            f"by the exact plan, {format_percent(mean[1])} by that of {solver}: a difference of "
            f"{better.told}{sure}"
        ]


def _verdict(solver: str, classes: Sequence[Group]) -> str:
    """In which classes of tightness an exact answer is surely worth it; none without intervals."""
    known = [group for group in classes if group.loss.low is not None]
    least = format_percent(NOTABLE)
    if not known:
        most = max(group.tasks for group in classes)
        return (
            f"Whether an exact answer is worth it over {solver} cannot be said: no class has the "
            f"{FEWEST_TASKS} tasks that an interval needs, at most {most}; compare on more seeds"
        )
    worth = [group.name for group in known if (group.loss.low or 0.0) >= NOTABLE]
    if worth:
        return (
            f"An exact answer is worth it over {solver} (at least {least} of the gain, with 95 % "
            f"confidence) in these classes: {'; '.join(worth)}"
        )
    return (
        f"In no class of {FEWEST_TASKS} tasks or more is an exact answer worth at least {least} of "
        f"the gain over {solver} with 95 % confidence."
    )


def _sentence(where: str, group: Group) -> str:
    return (
        f"{where}: {group.solver} loses {group.loss.told} of the optimal gain on average "
        f"(median {format_percent(group.median)}, worst {format_percent(group.worst)}); "
        f"{format_percent(group.equal)} of {counted(group.problems, 'problem')} it solves optimally"
        + (f", on {group.none} it finds no plan" if group.none else "")
    )

"""What a solver is asked: which channels to update so that the gain is greatest within budgets."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import (
    Atom,
    Schedule,
    build_schedule,
    compile_program,
    plan_arena,
    plan_atoms,
)
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting.tiny_training import TinyTrainingTerms, tiny_training_terms
from costsim.pricing.derivation import build_table
from costsim.pricing.table import Charge, CostTable, Floats, Integers, OperationTimer, PlanCosts
from costsim.problem.budget import Budget
from costsim.problem.importance import Importance

ROUNDING = 1e-12
"""How far a sum of seconds may exceed its limit, relatively: it depends on the order of adding.

Bytes and MACs are integers far below 1 / ROUNDING, for which this allows nothing.
"""


@dataclass(frozen=True)
class Candidate:
    """Channels of one layer along one axis, best first, with the gain of each.

    All channels of a candidate cost the same, so that for a given count the best are the first.
    Along the axis `bias` there is one: the layer's bias as a whole. It is not split by channel
    because what it costs is the reach of the backward pass, which the first element pays for all;
    an element alone takes a few bytes.
    """

    layer: str
    axis: UpdateKind
    order: tuple[int, ...]
    gains: tuple[float, ...]

    @property
    def size(self) -> int:
        """How many channels there are to choose from."""
        return len(self.order)

    @cached_property
    def cumulative(self) -> Floats:
        """Gain of the first 0, 1, ... channels."""
        return np.concatenate([[0.0], np.cumsum(self.gains)])


class Problem:
    """Choose a count for each candidate, maximising the sum of gains within the budget.

    `table` prices any plan; `selections` are rows of counts, one column a candidate. Of the
    candidates in one of `exclusive`, at most one may be opened: the two axes of a layer. `seed` is
    for solvers that draw. What they derive of all but the budget, the number of passes and seconds
    they may leave in `derived` for the next question.

    Biases are updated in one of three ways. They are not, if nothing asks for it. With
    `with_bias`, opening a candidate also updates its layer's bias, which gains nothing by itself.
    Where the importance scores biases they are candidates themselves: then the solver chooses a
    layer's channels, its bias, both or neither.

    Raises `InputError` if the importance does not fit the graph, and for biases that are to be
    candidates and to come `with_bias` all the same.
    """

    def __init__(
        self,
        graph: LayerGraph,
        step: TrainingStep,
        importance: Importance,
        budget: Budget,
        *,
        with_bias: bool = False,
        timer: OperationTimer | None = None,
        compute_w: float | None = None,
        seed: int = 0,
    ) -> None:
        self.candidates: tuple[Candidate, ...] = _candidates(importance, graph, with_bias)
        self.graph, self.step, self.importance = graph, step, importance
        self.budget, self.with_bias, self.seed = budget, with_bias, seed
        self.compute_w = compute_w
        self.derived: dict[str, Any] = {}
        if timer is None and (budget.latency_s is not None or budget.energy_j is not None):
            raise InputError("a latency or energy budget needs a device")
        self.schedule: Schedule = build_schedule(graph, step)
        orders: dict[Atom, Sequence[int]] = {(c.axis, c.layer): c.order for c in self.candidates}
        self.table: CostTable = build_table(
            graph, step, timer=timer, orders=orders, schedule=self.schedule
        )
        self.tiny_training: TinyTrainingTerms = tiny_training_terms(graph)

    def within(self, budget: Budget) -> "Problem":
        """The same choice within another budget; graph, scores and cost table are shared.

        Raises `InputError` for a budget in seconds or joules if the table has no seconds.
        """
        if self.table.seconds is None and (budget.latency_s, budget.energy_j) != (None, None):
            raise InputError("a latency or energy budget needs a device")
        other = copy(self)
        other.budget = budget
        other.__dict__.pop("seconds_limit", None)
        return other

    def among(self, layers: Collection[str]) -> "Problem":
        """The same choice among the channels of these layers alone.

        What was derived of the positions at which plans can have their peak is kept: of fewer plans
        there are no others.
        """
        scored = self.importance.channels
        channels = tuple(entry for entry in scored if entry.layer in layers)
        if len(channels) == len(scored):
            return self
        other = self.rescored(replace(self.importance, channels=channels))
        other.derived = dict(self.derived)
        return other

    def rescored(self, importance: Importance) -> "Problem":
        """The same choice by other scores, of any layers; graph and cost table are shared.

        Raises `InputError` as making the problem does.
        """
        other = copy(self)
        other.candidates = _candidates(importance, self.graph, self.with_bias)
        for name in ("columns", "bias_columns", "exclusive", "restricted"):
            other.__dict__.pop(name, None)
        other.importance, other.derived = importance, {}
        orders: dict[Atom, Sequence[int]] = {(c.axis, c.layer): c.order for c in other.candidates}
        other.table = replace(
            self.table,
            orders=tuple(
                tuple(orders.get(atom, range(size)))
                for atom, size in zip(self.table.atoms, self.table.sizes, strict=True)
            ),
        )
        return other

    def charged(self, charges: Sequence[Charge]) -> "Problem":
        """The same choice where a step is charged besides; no byte changes."""
        other = copy(self)
        other.table = self.table.charged(charges)
        return other

    def of_step(self, step: TrainingStep, budget: Budget) -> "Problem":
        """The same choice for a step of more or fewer passes; the schedule is shared.

        Each of several passes does the same, so that MACs are in proportion, as are the seconds of
        all but the updates, and no byte changes. Raises `InputError` where that is not so: one
        pass, or another step.
        """
        before = self.step
        same = replace(step, batch=before.batch, micro_batch=before.micro_batch) == before
        if not same or step.samples_a_pass != before.samples_a_pass:
            raise InputError("the steps differ in more than their number of passes")
        if min(step.passes, before.passes) < 2:
            raise InputError("several passes are needed to share a cost table")
        other = self.within(budget)
        other.step = step
        other.table = self.table.repeated(before.passes, step.passes)
        return other

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Column of each candidate in the table."""
        return tuple(self.table.index((c.axis, c.layer)) for c in self.candidates)

    @cached_property
    def bias_columns(self) -> tuple[int | None, ...]:
        """Column of the bias that comes with each candidate, if one does."""
        return tuple(
            self.table.index(("bias", c.layer))
            if self.with_bias and self.graph.selectable(c.layer, "bias")
            else None
            for c in self.candidates
        )

    @cached_property
    def exclusive(self) -> tuple[tuple[int, ...], ...]:
        """Groups of candidates of which at most one may be opened."""
        by_layer: dict[str, list[int]] = {}
        for index, candidate in enumerate(self.candidates):
            if candidate.axis != "bias":
                by_layer.setdefault(candidate.layer, []).append(index)
        groups = {tuple(group) for group in by_layer.values() if len(group) > 1}
        for keep in self.table.shared_keeps:
            readers = tuple(i for i, column in enumerate(self.columns) if column in keep.readers)
            if len(readers) > 1:
                groups.add(readers)
        return tuple(sorted(groups))

    @cached_property
    def restricted(self) -> tuple[tuple[str, ...], ...]:
        """Groups of layers of which at most one may keep channels of a tensor they all read.

        Then what is kept is one layer's count and not a union of sets, which would depend on
        which channels are chosen. Plans outside this are priced right but never proposed.
        """
        layers = (
            tuple(dict.fromkeys(self.candidates[i].layer for i in group))
            for group in self.exclusive
        )
        return tuple(group for group in layers if len(group) > 1)

    @cached_property
    def seconds_limit(self) -> float | None:
        """The tighter of the latency and the energy budget, in seconds of computing."""
        limits = [] if self.budget.latency_s is None else [self.budget.latency_s]
        if self.budget.energy_j is not None:
            assert self.compute_w is not None
            limits.append(self.budget.energy_j / self.compute_w)
        return min(limits, default=None)

    def plan(self, selection: Sequence[int] | Integers) -> UpdatePlan:
        """The plan that takes the first `selection[i]` channels of candidate i."""
        opened = [(c, k) for c, k in zip(self.candidates, selection, strict=True) if k]
        return UpdatePlan(
            tuple(
                ChannelSubset(c.layer, c.axis, c.order[:k]) for c, k in opened if c.axis != "bias"
            ),
            frozenset(
                c.layer
                for c, _ in opened
                if c.axis == "bias" or (self.with_bias and self.graph.selectable(c.layer, "bias"))
            ),
        )

    def gain(self, plan: UpdatePlan) -> float:
        """The sum of the scores of what `plan` updates; what has no score counts nothing."""
        scores: Mapping[Atom, Sequence[float]] = {
            (entry.axis, entry.layer): entry.scores for entry in self.importance.channels
        }
        return float(
            sum(
                scores[atom][channel]
                for atom, channels in plan_atoms(plan).items()
                if atom in scores
                for channel in channels
            )
        )

    def gains(self, selections: Integers) -> Floats:
        """The gain of each row of `selections` [plans, candidates]."""
        total = np.zeros(len(selections))
        for index, candidate in enumerate(self.candidates):
            total += candidate.cumulative[selections[:, index]]
        return total

    def counts(self, selections: Integers) -> Integers:
        """Counts [plans, atoms] for the table."""
        counts = np.zeros((len(selections), len(self.table.atoms)), dtype=np.int64)
        for index, (column, bias) in enumerate(zip(self.columns, self.bias_columns, strict=True)):
            counts[:, column] = selections[:, index]
            if bias is not None:
                counts[:, bias] |= selections[:, index] > 0
        return counts

    def usage(self, selections: Integers) -> dict[str, NDArray[Any]]:
        """What each row of `selections` takes of each limit that is set, by name of the limit."""
        counts = self.counts(selections)
        return self._usage(self.table.price(counts), lambda: self._tiny_training(selections))

    def plan_usage(self, plan: UpdatePlan) -> dict[str, float]:
        """What `plan` takes of each limit that is set, by name of the limit."""
        usage = self._usage(
            self.table.price_plan(plan), lambda: np.array([self.tiny_training.price(plan)])
        )
        found = {name: float(values[0]) for name, values in usage.items()}
        if "memory_bytes" in found and self.budget.accounting == "arena":
            program = compile_program(self.graph, plan, self.step, self.schedule)
            found["memory_bytes"] = float(plan_arena(program).size_bytes)
        return found

    def _usage(self, costs: PlanCosts, tiny_training: Any) -> dict[str, NDArray[Any]]:
        found: dict[str, NDArray[Any]] = {}
        for name, _ in self.limits():
            match name:
                case "memory_bytes" if self.budget.accounting == "tiny-training":
                    found[name] = tiny_training()
                case "memory_bytes" if self.budget.accounting == "paper":
                    found[name] = costs.paper_bytes
                case "memory_bytes" | "working_bytes":
                    found[name] = costs.peak_bytes
                case "macs":
                    found[name] = costs.backward_macs
                case _:
                    assert costs.step_s is not None
                    power = 1.0 if name == "latency_s" else self.compute_w
                    assert power is not None
                    found[name] = costs.step_s * power
        return found

    def _tiny_training(self, selections: Integers) -> Integers:
        terms = self.tiny_training
        total = np.full(len(selections), terms.constant_bytes, dtype=np.int64)
        opened = selections > 0
        for index, candidate in enumerate(self.candidates):
            charge = terms.charge(candidate.layer, candidate.axis)
            fixed = charge.fixed_bytes
            if self.bias_columns[index] is not None:
                fixed += terms.bias_bytes[candidate.layer]
            total += opened[:, index] * fixed + selections[:, index] * charge.channel_bytes
        return total

    def limits(self) -> Iterator[tuple[str, float]]:
        """The limits that are set, by name."""
        for name in ("memory_bytes", "macs", "latency_s", "energy_j", "working_bytes"):
            limit = getattr(self.budget, name)
            if limit is not None:
                yield name, limit

    def fits(self, selections: Integers) -> NDArray[np.bool_]:
        """Whether each row of `selections` is allowed: within all limits, one axis a layer."""
        usage = self.usage(selections)
        allowed = np.ones(len(selections), dtype=bool)
        for name, limit in self.limits():
            allowed &= usage[name] <= limit * (1 + ROUNDING)
        for group in self.exclusive:
            allowed &= (selections[:, list(group)] > 0).sum(axis=1) <= 1
        return allowed

    def exceeded(self, plan: UpdatePlan) -> dict[str, tuple[float, float]]:
        """The limits that `plan` breaks: what it takes and what is allowed."""
        usage = self.plan_usage(plan)
        return {
            name: (usage[name], limit)
            for name, limit in self.limits()
            if usage[name] > limit * (1 + ROUNDING)
        }


def _candidates(
    importance: Importance, graph: LayerGraph, with_bias: bool
) -> tuple[Candidate, ...]:
    importance.check(graph)
    if not importance.channels:
        raise InputError("no layer was scored; there is nothing to choose from")
    if with_bias and any(entry.axis == "bias" for entry in importance.channels):
        raise InputError(
            "biases are scored, to be chosen one by one; they cannot also come with the layers"
        )
    return tuple(_candidate(entry.layer, entry.axis, entry.scores) for entry in importance.channels)


def _candidate(layer: str, axis: UpdateKind, scores: Sequence[float]) -> Candidate:
    order = sorted(range(len(scores)), key=lambda channel: (-scores[channel], channel))
    return Candidate(layer, axis, tuple(order), tuple(scores[channel] for channel in order))

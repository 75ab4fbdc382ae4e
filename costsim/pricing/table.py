"""The cost of every plan at once: coefficient tables derived from the schedule.

A plan is a row of counts, one column an atom: how many channels of a layer it updates along one
axis, or whether it updates a bias. Every cost of the training program is then

    constant + clauses · [clause met] + channels · count + a few products

where a clause is a set of atoms and is met when one of them is in the plan. Memory has one such
row for each position of the program, and the peak is the greatest. The tables give, to the byte
and to the MAC, what compiling the plan and reading the program gives; a solver can put the
coefficients into constraints, and thousands of plans are priced in one matrix product.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from costsim.ir.plan import UpdatePlan
from costsim.ir.program.compile import plan_atoms
from costsim.ir.program.schedule import (
    Atom,
    Guard,
)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class OperationTimer(Protocol):
    """What can say how long an operation takes, in seconds; arrays in, arrays out."""

    def operation_seconds(
        self,
        work_kind: str,
        direction: str,
        macs: Floats,
        moved_bytes: Floats,
        *,
        kernel: str | None = None,
    ) -> Floats:
        """Seconds of one execution, for arrays of MACs and of bytes moved that match."""


@dataclass(frozen=True)
class Linear:
    """`constant + clauses · met + channels · count`: one value a plan, or one a position.

    `clauses` is [number of clauses, positions], `channels` [number of atoms, positions].
    """

    constant: Floats
    clauses: Floats
    channels: Floats

    def __call__(self, met: NDArray[np.bool_], counts: Integers) -> Floats:
        """Values [plans, positions] of `met` [plans, clauses] and `counts` [plans, atoms]."""
        values: Floats = self.constant + met @ self.clauses + counts @ self.channels
        return values

    def with_clauses(self, constants: Floats) -> "Linear":
        """With clauses more, each of which costs as much at every position."""
        more = np.broadcast_to(constants[:, None], (len(constants), len(self.constant)))
        return replace(self, clauses=np.vstack([self.clauses, more]))

    def with_each(self, made: Callable[[Floats, Floats], Floats], other: "Linear") -> "Linear":
        """Of each part that which is `made` of it and of the same part of `other`."""
        return Linear(
            made(self.constant, other.constant),
            made(self.clauses, other.clauses),
            made(self.channels, other.channels),
        )


@dataclass(frozen=True)
class Conjunction:
    """Bytes at some positions while both of two clauses are met."""

    first: int
    second: int
    bytes_at: Floats


@dataclass(frozen=True)
class SharedKeep:
    """A value of which several layers may keep channels, or that may be kept whole instead.

    `across_loss`: kept from the first forward pass, not only from a recomputed one. Live at the
    positions of `segments` while their clause is met: `channel_bytes` for each
    channel in the union of what its readers select, unless the clause `whole` is met.
    """

    value: str
    channel_bytes: int
    readers: tuple[int, ...]
    whole: int
    segments: tuple[tuple[int, Floats], ...]
    across_loss: bool


@dataclass(frozen=True, slots=True)
class Charge:
    """What a step is charged besides while one of `atoms` is in its plan: a clause of its own.

    The MACs count as computed again.
    """

    atoms: Guard
    seconds: float
    macs: int


@dataclass(frozen=True)
class PlanCosts:
    """Costs of many plans; each an array with one entry a plan. MACs and seconds are of a step."""

    peak_bytes: Integers
    kept_bytes: Integers
    gradient_bytes: Integers
    optimizer_bytes: Integers
    updated_weight_bytes: Integers
    recompute_macs: Integers
    input_gradient_macs: Integers
    weight_gradient_macs: Integers
    step_s: Floats | None

    @property
    def paper_bytes(self) -> Integers:
        """The `paper` accounting: updated weights, gradients, optimizer, kept activations."""
        return (
            self.updated_weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.kept_bytes
        )

    @property
    def backward_macs(self) -> Integers:
        """MACs of the backward pass, recomputation included."""
        return self.recompute_macs + self.input_gradient_macs + self.weight_gradient_macs


@dataclass(frozen=True)
class CostTable:
    """Coefficients of every cost of one graph and one way of stepping.

    `orders` gives, for each atom, its channels in the order in which they are taken: a count of
    k stands for the first k. `count_seconds[atom]` are the seconds that depend on the atom's
    count, for 0 to all of its channels. `update_seconds` and `count_update_seconds` are the part
    of those seconds that is spent once a step, however many passes it has.
    """

    atoms: tuple[Atom, ...]
    sizes: tuple[int, ...]
    orders: tuple[tuple[int, ...], ...]
    clauses: tuple[Guard, ...]
    membership: NDArray[np.bool_]
    memory: Linear
    conjunctions: tuple[Conjunction, ...]
    shared_keeps: tuple[SharedKeep, ...]
    kept: Linear
    gradients: Linear
    optimizer: Linear
    updated_weights: Linear
    recompute: Linear
    input_gradient: Linear
    weight_gradient: Linear
    forward_macs: int
    seconds: Linear | None
    count_seconds: tuple[Floats, ...]
    keep_seconds: Mapping[str, Floats]
    update_seconds: Linear
    count_update_seconds: tuple[Floats, ...]

    def index(self, atom: Atom) -> int:
        """Column of an atom; raises `KeyError`."""
        return self._indices[atom]

    @cached_property
    def _indices(self) -> dict[Atom, int]:
        return {atom: i for i, atom in enumerate(self.atoms)}

    def counts(self, plans: Iterable[UpdatePlan]) -> Integers:
        """Counts [plans, atoms]. Which channels a plan selects is lost unless `orders` says so."""
        indices = self._indices
        rows = []
        for plan in plans:
            row = np.zeros(len(self.atoms), dtype=np.int64)
            for atom, channels in plan_atoms(plan).items():
                row[indices[atom]] = len(channels)
            rows.append(row)
        return np.array(rows).reshape(len(rows), len(self.atoms))

    def repeated(self, before: int, after: int) -> "CostTable":
        """Of a step of `after` passes, where this one is of `before`, both several.

        MACs are exact: they are integers, and `before` divides each. Seconds are, but for rounding.
        """

        def scaled(each: Linear) -> Linear:
            return each.with_each(lambda part, _: part / before * after, each)

        def timed(all_of_it: Floats, updates: Floats) -> Floats:
            return (all_of_it - updates) / before * after + updates

        seconds = self.seconds
        return replace(
            self,
            recompute=scaled(self.recompute),
            input_gradient=scaled(self.input_gradient),
            weight_gradient=scaled(self.weight_gradient),
            forward_macs=self.forward_macs // before * after,
            seconds=None if seconds is None else seconds.with_each(timed, self.update_seconds),
            count_seconds=tuple(map(timed, self.count_seconds, self.count_update_seconds)),
            keep_seconds={name: each / before * after for name, each in self.keep_seconds.items()},
        )

    def charged(self, charges: Sequence[Charge]) -> "CostTable":
        """With these charges; a table without seconds takes none of their seconds."""
        members = np.zeros((len(charges), len(self.atoms)), dtype=bool)
        for row, charge in enumerate(charges):
            members[row, [self.index(atom) for atom in charge.atoms]] = True
        seconds = np.array([charge.seconds for charge in charges], dtype=np.float64)
        macs = np.array([charge.macs for charge in charges], dtype=np.float64)
        nothing = np.zeros(len(charges))
        return replace(
            self,
            clauses=(*self.clauses, *(charge.atoms for charge in charges)),
            membership=np.vstack([self.membership, members]),
            memory=self.memory.with_clauses(nothing),
            kept=self.kept.with_clauses(nothing),
            gradients=self.gradients.with_clauses(nothing),
            optimizer=self.optimizer.with_clauses(nothing),
            updated_weights=self.updated_weights.with_clauses(nothing),
            recompute=self.recompute.with_clauses(macs),
            input_gradient=self.input_gradient.with_clauses(nothing),
            weight_gradient=self.weight_gradient.with_clauses(nothing),
            seconds=None if self.seconds is None else self.seconds.with_clauses(seconds),
            update_seconds=self.update_seconds.with_clauses(nothing),
        )

    def price(self, counts: Integers) -> PlanCosts:
        """Costs of the plans in the rows of `counts` [plans, atoms]."""
        return self._price(counts, [self._union(keep, counts) for keep in self.shared_keeps])

    def price_plan(self, plan: UpdatePlan) -> PlanCosts:
        """Costs of one plan, whichever channels it selects."""
        return self._price(self.counts([plan]), self._unions(plan))

    def live_bytes(self, plan: UpdatePlan) -> Integers:
        """Bytes that are live at each position of the table, of which the peak is the greatest."""
        counts = self.counts([plan])
        return _whole(self._live(self._met(counts), counts, self._unions(plan))[0])

    def _unions(self, plan: UpdatePlan) -> list[Integers]:
        """Of each shared keep, how many channels its readers keep under `plan`."""
        atoms = plan_atoms(plan)
        return [
            np.array([len(set().union(*(atoms.get(self.atoms[r], ()) for r in keep.readers)))])
            for keep in self.shared_keeps
        ]

    def _union(self, keep: SharedKeep, counts: Integers) -> Integers:
        """Channels in the union of the readers' first `count` channels."""
        if len(keep.readers) == 1:
            single: Integers = counts[:, keep.readers[0]]
            return single
        chosen = np.zeros((len(counts), max(self.sizes[r] for r in keep.readers)), dtype=bool)
        for reader in keep.readers:
            rank = np.argsort(np.array(self.orders[reader]))
            chosen[:, : len(rank)] |= rank < counts[:, reader, None]
        union: Integers = chosen.sum(axis=1)
        return union

    def _met(self, counts: Integers) -> NDArray[np.bool_]:
        """Which clauses are met [plans, clauses]."""
        updated = counts > 0
        some = np.flatnonzero(updated.any(axis=0))
        parts = self.membership[:, some].T.astype(np.float64)
        met: NDArray[np.bool_] = updated[:, some].astype(np.float64) @ parts > 0
        return met

    def _live(self, met: NDArray[np.bool_], counts: Integers, unions: Sequence[Integers]) -> Floats:
        """Live bytes [plans, positions]."""
        live = self.memory(met, counts)
        for both in self.conjunctions:
            live += (met[:, both.first] & met[:, both.second])[:, None] * both.bytes_at
        for keep, union in zip(self.shared_keeps, unions, strict=True):
            partial = keep.channel_bytes * union * ~met[:, keep.whole]
            for clause, positions in keep.segments:
                live += (partial * met[:, clause])[:, None] * positions
        return live

    def _price(self, counts: Integers, unions: Sequence[Integers]) -> PlanCosts:
        met = self._met(counts)
        live = self._live(met, counts, unions)
        kept = self.kept(met, counts)[:, 0]
        seconds = None if self.seconds is None else self.seconds(met, counts)[:, 0]
        for keep, union in zip(self.shared_keeps, unions, strict=True):
            partial = union * ~met[:, keep.whole]
            kept += keep.channel_bytes * partial * keep.across_loss
            if seconds is not None:
                seconds += self.keep_seconds[keep.value][partial]
        if seconds is not None:
            for atom, lookup in enumerate(self.count_seconds):
                seconds += lookup[counts[:, atom]]
        return PlanCosts(
            peak_bytes=_whole(live.max(axis=1)),
            kept_bytes=_whole(kept),
            gradient_bytes=_whole(self.gradients(met, counts)[:, 0]),
            optimizer_bytes=_whole(self.optimizer(met, counts)[:, 0]),
            updated_weight_bytes=_whole(self.updated_weights(met, counts)[:, 0]),
            recompute_macs=_whole(self.recompute(met, counts)[:, 0]),
            input_gradient_macs=_whole(self.input_gradient(met, counts)[:, 0]),
            weight_gradient_macs=_whole(self.weight_gradient(met, counts)[:, 0]),
            step_s=seconds,
        )


def _whole(values: Floats) -> Integers:
    """Exact: every coefficient and every sum is an integer far below 2^53."""
    return np.rint(values).astype(np.int64)

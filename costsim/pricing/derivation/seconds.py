"""The seconds of a table, where there is a timer."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from costsim.device.kernels import kernel_name
from costsim.ir.program import Direction, Guard, Step
from costsim.pricing.derivation.coefficients import Clauses, Coefficients
from costsim.pricing.derivation.schedule_index import Scheduled
from costsim.pricing.table import Floats, OperationTimer


@dataclass(frozen=True)
class Seconds:
    """What the steps of a schedule take; without a timer all keeping takes none."""

    of: Scheduled
    timer: OperationTimer | None

    def rows(
        self, clauses: Clauses, shared: Collection[str]
    ) -> tuple[Coefficients, tuple[Floats, ...]]:
        """Seconds by clause, and of each atom by the count of its channels.

        `shared` are the values whose kept channels several atoms share: those are not in it.
        """
        kept = Direction.KEEP
        total, by_count = self._of(
            (step for step in self.of.schedule.steps if step.direction is not kept), clauses
        )
        for value, seconds_by_count in self.of_keeps().items():
            if value not in shared:
                (atom,) = {atom for _, atom in self.of.part_readers(value)}
                by_count[self.of.index[atom]] += seconds_by_count
        return total, tuple(by_count)

    def of_updates(self, clauses: Clauses) -> tuple[Coefficients, tuple[Floats, ...]]:
        """Of `rows`, what updates take: that is done once a step, all else in every pass."""
        update = Direction.UPDATE
        total, by_count = self._of(
            (step for step in self.of.schedule.steps if step.direction is update), clauses
        )
        return total, tuple(by_count)

    def _of(self, steps: Iterable[Step], clauses: Clauses) -> tuple[Coefficients, list[Floats]]:
        total = Coefficients(clauses)
        by_count = [np.zeros(size + 1) for size in self.of.sizes]
        for step in steps:
            times = 1 if step.direction is Direction.UPDATE else self.of.step.passes
            if step.channels_of is not None:
                index = self.of.index[step.channels_of]
                counts = np.arange(1.0, self.of.sizes[index] + 1)
                by_count[index][1:] += times * self._step_seconds(step, counts)
                continue
            (seconds,) = times * self._step_seconds(step, np.zeros(1), met=frozenset())
            optional = [a for a in step.writes if a.guard is not None]
            if step.guard is None:
                total.constant += seconds
            else:
                total.add_clause(step.guard, float(seconds))
            for access in optional:
                assert access.guard is not None
                (more,) = times * self._step_seconds(step, np.zeros(1), met=access.guard)
                total.add_clause(access.guard, float(more - seconds))
        return total, by_count

    def _step_seconds(self, step: Step, counts: Floats, met: Guard = frozenset()) -> Floats:
        """Seconds of one step; of a step restricted to channels, for each of `counts`."""
        assert self.timer is not None
        moved = np.zeros(len(counts))
        for access in (*step.reads, *step.writes):
            if access.guard is None or access.guard == met:
                moved += access.bytes * (counts if access.selected_only else 1)
        macs = step.macs * (counts if step.channels_of else np.ones(1))
        stored = [a for a in step.writes if a.guard is None or a.guard == met]
        kernel = kernel_name(
            self.of.schedule.graph,
            step.direction,
            step.call,
            self.of.step.optimizer,
            saves=len(stored) > 1,
        )
        return self.timer.operation_seconds(
            step.work_kind, str(step.direction), macs, moved, kernel=kernel
        )

    def of_keeps(self) -> dict[str, Floats]:
        """Seconds of keeping channels of each value that is kept in part, by their count."""
        return {value: self._of_keep(value) for value in self.of.schedule.partial_keeps}

    def _of_keep(self, value: str) -> Floats:
        most = max(self.of.sizes[self.of.index[atom]] for _, atom in self.of.part_readers(value))
        seconds = np.zeros(most + 1)
        if self.timer is not None:
            counts = np.arange(1.0, most + 1)
            step = self.of.schedule.steps[self.of.schedule.partial_keeps[value].position]
            seconds[1:] = self.of.step.passes * self._step_seconds(step, counts)
        return seconds

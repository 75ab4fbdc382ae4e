"""Which probe to run next: the one that leaves the least doubt about real steps.

The laws are linear in what is fitted, so the doubt that a set of probes leaves is known before
they run (linear regression; Bayesian D- and V-optimal design, Chaloner and Verdinelli 1995). For
each kernel, with rows x = (1, MACs, bytes) / seconds of the operations seen so far,

    P = P_0 + sum x x^T,      Var(sum over a step) = sigma^2 sum_k phi_k^T P_k^-1 phi_k

with phi_k the sum of a step's terms of that kernel. The next probe is the one that lowers the
relative variance most, averaged over steps as deep as real ones, for each second it takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costsim.device import ComputeTarget
from costsim.hardware.calibration.probes import Probe
from costsim.pricing.cost import operation_work

Floats = NDArray[np.float64]

IGNORANCE = 0.05
"""What is known of each term before anything is measured, as a share of one sample."""


@dataclass(frozen=True)
class Rows:
    """The operations of a step by kernel: `terms` [operations, 3], and `seconds` it may take."""

    terms: Mapping[str, Floats]
    seconds: Mapping[str, Floats]

    @property
    def total_s(self) -> float:
        """Of the whole step."""
        return sum(float(each.sum()) for each in self.seconds.values())


def rows_of(probe: Probe, target: ComputeTarget) -> Rows:
    """The rows of a probe, with the seconds that `target` gives its operations so far."""
    terms: dict[str, list[tuple[float, float, float]]] = {}
    seconds: dict[str, list[float]] = {}
    program = probe.program()
    for operation in program.operations:
        kind, direction, macs, moved, kernel = operation_work(program, operation)
        terms.setdefault(kernel, []).append((1.0, macs, moved))
        seconds.setdefault(kernel, []).append(
            target.operation_seconds(kind, direction, macs, moved, kernel=kernel)
        )
    return Rows(
        {kernel: np.array(rows) for kernel, rows in terms.items()},
        {kernel: np.array(each) for kernel, each in seconds.items()},
    )


@dataclass
class Doubt:
    """What probes seen so far leave unknown about the steps of `goals`."""

    goals: Sequence[Rows]
    precision: dict[str, Floats] = field(default_factory=dict)
    sums: list[tuple[float, dict[str, Floats]]] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = [
            (goal.total_s, {kernel: rows.sum(axis=0) for kernel, rows in goal.terms.items()})
            for goal in self.goals
        ]
        for goal in self.goals:
            for kernel, rows in goal.terms.items():
                # In a step's own units: each term alone could be all of the kernel's time.
                unit = np.maximum(rows.mean(axis=0), 1e-30) / goal.seconds[kernel].mean()
                self.precision.setdefault(kernel, IGNORANCE * np.diag(unit**2))

    def learn(self, rows: Rows) -> None:
        """Take a measured probe into account."""
        for kernel, more in self._information(rows).items():
            self.precision[kernel] = self.precision[kernel] + more

    def gain(self, rows: Rows) -> float:
        """By how much a probe would lower the relative variance of the goals, on average."""
        lowered = 0.0
        for kernel, more in self._information(rows).items():
            before = np.linalg.pinv(self.precision[kernel], hermitian=True)
            after = np.linalg.pinv(self.precision[kernel] + more, hermitian=True)
            for total, sums in self.sums:
                if kernel in sums:
                    phi = sums[kernel]
                    lowered += float(phi @ (before - after) @ phi) / total**2
        return lowered / max(1, len(self.sums))

    def _information(self, rows: Rows) -> dict[str, Floats]:
        found = {}
        for kernel in rows.terms.keys() & self.precision.keys():
            scaled = rows.terms[kernel] / rows.seconds[kernel][:, None]
            found[kernel] = scaled.T @ scaled
        return found


def next_probe(
    doubt: Doubt, pool: Mapping[Probe, Rows], longest_s: float, shortest_s: float
) -> Probe | None:
    """The probe of `pool` that is worth most for its time; None if there is none short enough.

    Steps of less than `shortest_s` cost as much, for what is around them.
    """
    worth = {
        probe: doubt.gain(rows) / max(rows.total_s, shortest_s) ** 0.5
        for probe, rows in pool.items()
        if rows.total_s <= longest_s
    }
    return max(worth, key=lambda probe: worth[probe]) if worth else None

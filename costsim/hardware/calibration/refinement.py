"""A spec made better by steps of real plans that were measured on the device.

What was measured over what the spec predicts says how far off the spec is: as a whole always, and
by kind and direction where plans differ enough to tell them apart (`apart`). Intervals follow: what
was seen is as wide as measured steps scatter about the refined spec, what was not seen in any of
them moves with the rest and stays as uncertain as it was.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from costsim.base.errors import InputError
from costsim.base.units import counted, format_percent, format_seconds
from costsim.device import ComputeTarget, DeviceSpec
from costsim.device.calibration import QUANTILE
from costsim.hardware.calibration.attribution import Factors, Row, tell_apart
from costsim.hardware.calibration.measured_steps import MeasuredStep, measured_steps
from costsim.hardware.calibration.parts import rescaled, step_parts
from costsim.hardware.calibration.power import with_power
from costsim.hardware.results.record import Machine

UNLIKELY = 300.0
"""No device is so many times slower or faster than its own spec."""
NOTABLE = 0.01
"""Parts below this share of all measured time are not worth a word."""


@dataclass(frozen=True)
class Refined:
    """The spec with every duration times `factor`, and how well a step is known now (relative).

    `apart`: the factors of parts that the measurements tell apart, `factor` included, by their
    share of the measured time. `left_out`: errors on plans left out, see `Factors`. `plans` counts
    the different plans among `steps`. `power`: a sentence on what was measured of it, if anything.
    """

    spec: DeviceSpec
    factor: float
    deviation: float
    steps: tuple[MeasuredStep, ...]
    plans: int
    apart: Mapping[str, float]
    left_out: tuple[float, float] | None
    power: str | None = None

    @property
    def sentence(self) -> str:
        """What was done, for a person."""
        return f"{self._durations} {self.power or ''}".strip()

    @property
    def _durations(self) -> str:
        told = (
            f"with {len(self.steps)} measured steps of {self.plans} plans every duration is "
            f"{self.factor:.2f} times what it was, known to {format_percent(self.deviation)}"
        )
        if self.left_out is None:
            return f"{told}; too few different plans to tell kinds of operations apart."
        one, parted = self.left_out
        if not self.apart:
            return (
                f"{told}; kinds of operations cannot be told apart by them (plans left out are "
                f"predicted within {format_percent(one)} by one factor, and no better otherwise)."
            )
        some = ", ".join(f"{part} {factor:.2f}" for part, factor in self.apart.items())
        return (
            f"{told}; told apart: {some}. Plans left out are predicted within "
            f"{format_percent(parted)} that way, within {format_percent(one)} by one factor."
        )


def refine(device: DeviceSpec, steps: Sequence[MeasuredStep], target: str | None = None) -> Refined:
    """The spec that `steps`, predicted for `device`, make more likely.

    Raises `InputError` for no steps, and for steps that must not be mixed with one another or with
    what the spec is of.
    """
    if not steps:
        raise InputError("no measured steps to refine with")
    for step in steps:
        if not 1 / UNLIKELY < step.ratio < UNLIKELY:
            raise InputError(
                f"{step.source}: a step of {format_seconds(step.measured_s)} where "
                f"{format_seconds(step.predicted.value)} were predicted: not this device, or not "
                "this step"
            )
    name = target or device.default_target
    check_alike(steps, device.target(name))
    rows = _rows(steps, device.target(name))
    believed = statistics.mean(
        math.log(step.predicted.high / step.predicted.low) / (2 * QUANTILE) for step in steps
    )
    factors = tell_apart(rows, believed)
    spec = _apply(device, name, factors, rows, len(steps))
    if factors.apart:
        # The sum of parts is linear in the factors; a spec, with its limits, is not quite.
        one = tell_apart(rows, believed, whole_only=True)
        plain = _apply(device, name, one, rows, len(steps))
        if _misfit(steps, spec.target(name)) > _misfit(steps, plain.target(name)):
            factors, spec = one, plain
    draws = [step.draw for step in steps if step.draw is not None]
    spec, power = with_power(spec, name, draws, counted(len(draws), "run"))
    return Refined(
        spec,
        factors.whole,
        factors.deviation,
        tuple(steps),
        len(rows),
        _notable(rows, factors),
        factors.left_out,
        power,
    )


def check_alike(steps: Sequence[MeasuredStep], target: ComputeTarget) -> None:
    """Raise `InputError` where steps were measured on other machines or threads than one another,
    or than the spec that is to be refined was calibrated on or is of.
    """
    known = [(step.source, step.machine) for step in steps if step.machine is not None]
    for one in known[1:]:
        _refuse_mixing(known[0], one)
    if not known:
        return
    source, machine = known[0]
    if (calibration := target.calibration) is not None:
        if differences := list(calibration.conditions.unlike(machine)):
            raise InputError(
                f"{source}: measured under other conditions than the spec was calibrated under "
                f"({'; '.join(differences)}); they cannot be mixed"
            )
    elif machine.threads != (wanted := int(target.threads.value)):
        raise InputError(
            f"{source}: measured on {machine.threads} threads, but the spec is of {wanted}: "
            f"measure with --threads {wanted}, or correct the spec"
        )


def _refuse_mixing(one: tuple[str, Machine], other: tuple[str, Machine]) -> None:
    for name in ("cpu", "cores", "threads"):
        mine, theirs = getattr(one[1], name), getattr(other[1], name)
        if mine != theirs:
            raise InputError(
                f"{other[0]}: measured under other conditions than {one[0]} "
                f"({name} {theirs} and {mine}); they cannot be mixed"
            )


def _rows(steps: Sequence[MeasuredStep], target: ComputeTarget) -> list[Row]:
    """One row a plan: the median of its runs. Steps whose operations are not known stand alone."""
    plans: dict[object, list[MeasuredStep]] = defaultdict(list)
    for number, step in enumerate(steps):
        plans[step.work or number].append(step)
    return [
        Row(
            step_parts(runs[0].work, target),
            statistics.median(step.measured_s for step in runs),
            runs[0].predicted.value,
            runs[0].model,
        )
        for runs in plans.values()
    ]


def _apply(
    device: DeviceSpec, name: str, factors: Factors, rows: Sequence[Row], count: int
) -> DeviceSpec:
    touched = {part for row in rows for part in row.parts}

    def deviation(part: str, before: float) -> float:
        if touched and part not in touched:
            return before
        known = math.hypot(factors.known.get(part, 0.0), factors.deviation)
        return max(factors.deviation, min(before, known))

    told = f"with {counted(count, 'measured step')} of {counted(len(rows), 'plan')}"
    if factors.apart:
        told += ", by kind and direction"
    return rescaled(
        device,
        name,
        whole=factors.whole,
        apart=factors.apart,
        deviation=deviation,
        common=factors.deviation,
        told=told,
    )


def _misfit(steps: Sequence[MeasuredStep], target: ComputeTarget) -> float:
    """Mean square of the logarithms of measured over predicted by `target`."""
    return statistics.mean(
        math.log(step.measured_s / target.total_seconds(step.work).value) ** 2 for step in steps
    )


def _notable(rows: Sequence[Row], factors: Factors) -> dict[str, float]:
    """The parts that are worth a word, the longest first, with their whole factors."""
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        for part, share in row.parts.items():
            seconds[part] += share / sum(row.parts.values()) / len(rows)
    return {
        part: factors.whole * factors.apart[part]
        for part in sorted(seconds, key=lambda part: -seconds[part])
        if part in factors.apart and seconds[part] >= NOTABLE
    }


__all__ = ["MeasuredStep", "Refined", "check_alike", "measured_steps", "refine"]

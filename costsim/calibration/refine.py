"""A spec made better by steps of real plans that were measured on the device.

What was measured over what the spec predicts, as logarithms y_i, says how far off the spec is as a
whole. With delta the true offset, believed beforehand to lie around 0 with the standard deviation
c that the spec's own interval implies, and each y_i = delta + e_i, e_i of standard deviation s,

    delta | y  ~  N( c^2 sum y_i / (s^2 + n c^2),  c^2 s^2 / (s^2 + n c^2) )

so one measurement moves a spec that was little trusted by nearly all of the difference, and a
calibrated one by little. s is taken from the measurements where there are some, and is never below
the noise between runs. Every rate is scaled by the same factor: measurements of whole steps cannot
tell one kind of operation from another.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from costsim.cost import step_seconds
from costsim.device import DeviceSpec
from costsim.device.calibration import QUANTILE
from costsim.device.interval import Interval
from costsim.errors import InputError
from costsim.planfile import PlanFile
from costsim.program import compile_program
from costsim.step import BitWidths
from costsim.targets.measured import MeasurementFile
from costsim.targets.outcome import Outcome

LEAST_SCATTER = 0.03
"""Relative: no two plans are mispredicted by the same factor more nearly than this."""


@dataclass(frozen=True)
class MeasuredStep:
    """The median step of one plan on one target, begun at `when` (ISO 8601), and its prediction."""

    source: str
    model: str
    target: str
    when: str
    measured_s: float
    predicted: Interval

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured_s / self.predicted.value

    @property
    def holds(self) -> bool:
        """Whether the measured step lies in the predicted interval."""
        return self.predicted.low <= self.measured_s <= self.predicted.high


@dataclass(frozen=True)
class Refined:
    """The spec with every duration times `factor`, and how well that is known (relative)."""

    spec: DeviceSpec
    factor: float
    deviation: float
    steps: tuple[MeasuredStep, ...]


def measured_steps(
    paths: Sequence[Path], device: DeviceSpec | None, target: str | None = None
) -> list[MeasuredStep]:
    """Every timed run in files of `costsim measure`, in order of time.

    Predicted anew for `device`; without one the prediction that was made then stands. Raises
    `InputError` for a file without timed steps, or without a prediction where none can be made.
    """
    found: list[MeasuredStep] = []
    for path in paths:
        file = MeasurementFile.read(path)
        before = len(found)
        for run in file.runs:
            measurement = run.outcome.measurement
            # On one thread, what the processor took: a calibration is of that too.
            timed = run.outcome.processor_step_s or (measurement.step_s if measurement else ())
            if measurement is None or not timed:
                continue
            seconds = statistics.median(timed)
            if seconds <= 0:
                raise InputError(f"{path}: runs: a step of {seconds} s; more than 0 is needed")
            found.append(
                MeasuredStep(
                    str(path),
                    measurement.model,
                    run.outcome.target,
                    run.started,
                    seconds,
                    _predicted(path, file, run.outcome, device, target),
                )
            )
        if len(found) == before:
            raise InputError(f"{path}: runs: none has a timed step")
    return sorted(found, key=lambda step: step.when)


def _predicted(
    path: Path,
    file: MeasurementFile,
    outcome: Outcome,
    device: DeviceSpec | None,
    target: str | None,
) -> Interval:
    asked = file.predicted_for(outcome)
    if device is not None:
        own_bits = asked is file.predicted_own
        return price_again(file.plan_file(str(path)), device, target, own_bits=own_bits)
    latency = asked.latency_s
    if latency is None:
        raise InputError(f"{path}: predicted: no latency_s; give --device to predict it now")
    return Interval(latency.value, latency.low, latency.high)


def price_again(
    plan: PlanFile, device: DeviceSpec, target: str | None = None, *, own_bits: bool = False
) -> Interval:
    """Seconds of a plan's step on `device`: in 32 bits, as PyTorch runs it, or in its own."""
    from costsim.training.loading import load_subject

    subject = load_subject(
        plan.model.spec,
        weights=None,
        resolution=plan.model.resolution,
        seed=plan.seed,
        batch=plan.step.samples_a_pass,
    )
    step = plan.step if own_bits else replace(plan.step, bits=BitWidths())
    program = compile_program(subject.graph, plan.plan, step)
    return step_seconds(program, device.target(target))


def refine(device: DeviceSpec, steps: Sequence[MeasuredStep], target: str | None = None) -> Refined:
    """The spec that `steps`, predicted for `device`, make more likely."""
    if not steps:
        raise InputError("no measured steps to refine with")
    errors = [math.log(step.ratio) for step in steps]
    believed = statistics.mean(
        math.log(step.predicted.high / step.predicted.low) / (2 * QUANTILE) for step in steps
    )
    scatter = max(LEAST_SCATTER, statistics.stdev(errors) if len(errors) > 1 else believed / 2)
    n, prior, noise = len(errors), max(believed, LEAST_SCATTER) ** 2, scatter**2
    shift = prior * sum(errors) / (noise + n * prior)
    # What is left: how well the offset is known, and how far single plans scatter about it.
    deviation = math.sqrt(prior * noise / (noise + n * prior) + noise)
    name = target or device.default_target
    factor = math.exp(shift)
    spec = _scaled(device, name, factor, deviation, len(steps))
    return Refined(spec, factor, deviation, tuple(steps))


def _scaled(
    device: DeviceSpec, name: str, factor: float, deviation: float, count: int
) -> DeviceSpec:
    document = device.to_json()
    place: dict[str, Any] = document["targets"][name]
    if "calibration" in place:
        place["calibration"]["step_factor"] *= factor
        place["calibration"]["common"] = deviation
        return DeviceSpec.from_json(document, "the refined device")
    width = math.exp(QUANTILE * deviation)

    def scale(number: dict[str, Any], by: float) -> dict[str, Any]:
        value = number["value"] * by
        source = number["source"].partition("; refined with ")[0]
        return {
            "value": value,
            "low": value / width,
            "high": value * width,
            "provenance": "calibrated",
            "source": f"{source}; refined with {count} measured steps",
        }

    place["overhead"] = scale(place["overhead"], factor)
    place["bandwidth"] = scale(place["bandwidth"], 1 / factor)
    for table in ("throughput", "throughput_int8"):
        for rates in place.get(table, {}).values():
            for direction in rates:
                rates[direction] = scale(rates[direction], 1 / factor)
    for width_name, peak in place["peak"].items():
        # A peak is a limit: it gives way where measurements are beyond it, and stays otherwise.
        if factor < 1:
            place["peak"][width_name] = scale(peak, 1 / factor)
    return DeviceSpec.from_json(document, "the refined device")

"""A file of measurements: one plan, what it was predicted to cost, and every run of it.

Schema `costsim.measurements/1`. It holds the whole plan, so that whoever reads it later can price
the same step again: to refine a device's spec, or to follow how far off predictions are over time.
"""

import statistics
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from costsim.base.errors import InputError
from costsim.device import DeviceSpec
from costsim.device.base import Named
from costsim.device.interval import Interval
from costsim.hardware.results.document import Amount, Count, Document, Listed, Record
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.results.record import Machine
from costsim.hardware.targets.base import How, Reason
from costsim.hardware.targets.job import PlanJob
from costsim.ir.program import compile_program
from costsim.ir.step import BitWidths
from costsim.pricing.cost import price
from costsim.solving.planfile import PlanFile, Range


class PredictedStep(Record):
    """What one step should cost: seconds and joules on `device`, where one was named.

    `peak_bytes` are those of the step as it runs, without the kernels' scratch memory.
    """

    device: str | None
    latency_s: Range | None = None
    energy_j: Range | None = None
    peak_bytes: Count
    arena_bytes: Count | None = None


class Asked(Record):
    """How each run was asked for; see `RunOptions`."""

    steps: Count
    threads: Count | None
    memory_limit_bytes: Count | None


class Run(Record):
    """One job on one target, begun at `started` (UTC, ISO 8601)."""

    started: str
    outcome: Outcome


class Failure(Record):
    """Why a target brought nothing, or nothing more."""

    target: str
    reason: Reason
    message: str
    predicted: bool = False
    """Whether the prediction said so: more memory needed than allowed."""


class Beside(Record):
    """One quantity of one target, predicted beside measured (or emulated).

    `quantity` is `step` (by the clock on the wall), `processor` (see `Outcome`), `energy
    (INSTRUMENT)`, `live peak`, or `arena` (as touched on a microcontroller). `measured` is the
    median over all runs; `floor` how far the runs' own medians lie apart, as a share of it (None
    for a single run); `ratio` measured over predicted; `holds` whether the measured value is within
    the predicted range. None where there was no prediction; `ratio` and `holds` also of seconds and
    joules on another machine than they were predicted for.
    """

    target: str
    how: How
    quantity: str
    unit: Literal["s", "J", "bytes"]
    predicted: Amount | None
    low: Amount | None
    high: Amount | None
    measured: Amount
    floor: Amount | None
    ratio: Amount | None
    holds: bool | None


class MeasurementFile(Document):
    """Everything that `costsim measure` found.

    `predicted` is of the step in 32 bits, as PyTorch runs it; `predicted_own` in the plan's bit
    widths, where they are others and a target runs those (its measurement's dtype says so).
    `unlike` says of a target why it is not the device that seconds and joules were predicted for:
    those of it are not judged. `asked` is not in files of older versions.
    """

    schema_name: ClassVar[str] = "costsim.measurements/1"

    plan: dict[str, Any]
    predicted: PredictedStep
    predicted_own: PredictedStep | None = None
    runs: Annotated[tuple[Run, ...], Listed] = ()
    failures: Annotated[tuple[Failure, ...], Listed] = ()
    notes: Annotated[tuple[str, ...], Listed] = ()
    unlike: Named[str] = Field(default_factory=dict, validate_default=True)
    asked: Asked | None = None

    def plan_file(self, source: str = "measurements") -> PlanFile:
        """The plan; raises `InputError` naming `source` if it is none."""
        return PlanFile.from_json(self.plan, f"{source}: plan")

    def with_run(self, run: Run) -> "MeasurementFile":
        """The same with one run more."""
        return self.model_copy(update={"runs": (*self.runs, run)})

    def with_unlike(self, target: str, why: str) -> "MeasurementFile":
        """The same where `target` is found not to be the device predicted for; no change without
        a reason.
        """
        return self.model_copy(update={"unlike": {**self.unlike, target: why}}) if why else self

    def with_failure(self, failure: Failure) -> "MeasurementFile":
        """The same with one failure more."""
        return self.model_copy(update={"failures": (*self.failures, failure)})

    def gone_on(self, path: Path, again: Collection[str]) -> "MeasurementFile":
        """The file at `path`, begun like this one, less the failures of the targets `again`.

        Raises `InputError` for one of another plan, prediction or way to run.
        """
        there = MeasurementFile.read(path)
        for name in ("plan", "predicted", "predicted_own", "asked"):
            if getattr(there, name) != getattr(self, name):
                raise InputError(
                    f"{path}: {name} is not that of these measurements, which cannot go on with "
                    "it; move the file away to start afresh"
                )
        failures = tuple(one for one in there.failures if one.target not in again)
        return there.model_copy(update={"failures": failures, "notes": self.notes})

    @property
    def whole_runs(self) -> Counter[str]:
        """How many runs got to their end, by target."""
        return Counter(run.outcome.target for run in self.runs if not run.outcome.partial)

    def predicted_for(self, outcome: Outcome) -> PredictedStep:
        """The prediction of the step as it ran there."""
        measurement = outcome.measurement
        narrow = measurement is not None and measurement.dtype != "float32"
        return self.predicted_own if narrow and self.predicted_own else self.predicted

    def comparisons(self) -> tuple[Beside, ...]:
        """Predicted beside measured, target by target."""
        targets = dict.fromkeys(run.outcome.target for run in self.runs)
        return tuple(row for target in targets for row in self._rows(target))

    def _rows(self, target: str) -> Iterator[Beside]:
        judged = target not in self.unlike
        outcomes = [run.outcome for run in self.runs if run.outcome.target == target]
        measured = [one.measurement for one in outcomes if one.measurement is not None]
        how, asked = outcomes[0].how, self.predicted_for(outcomes[0])
        if times := [list(one.step_s) for one in measured if one.step_s]:
            yield _beside(target, how, "step", "s", asked.latency_s, times, judged)
        if times := [list(one.processor_step_s) for one in outcomes if one.processor_step_s]:
            yield _beside(target, how, "processor", "s", asked.latency_s, times, judged)
        by_source = [one.joules_by_source() for one in outcomes]
        for source in dict.fromkeys(source for one in by_source for source in one):
            joules = [[one[source]] for one in by_source if source in one]
            yield _beside(target, how, f"energy ({source})", "J", asked.energy_j, joules, judged)
        if peaks := [[float(one.program_peak_bytes)] for one in measured if one.operations]:
            exact = Range(
                value=float(asked.peak_bytes),
                low=float(asked.peak_bytes),
                high=float(asked.peak_bytes),
            )
            yield _beside(target, how, "live peak", "bytes", exact, peaks)
        arenas = [[one.counts["arena_bytes"]] for one in outcomes if "arena_bytes" in one.counts]
        if arenas:
            size = asked.arena_bytes
            planned = None if size is None else Range(value=size, low=size, high=size)
            yield _beside(target, how, "arena", "bytes", planned, arenas)


def _beside(
    target: str,
    how: How,
    quantity: str,
    unit: Literal["s", "J", "bytes"],
    predicted: Range | None,
    runs: list[list[float]],
    judged: bool = True,
) -> Beside:
    value = statistics.median(sample for run in runs for sample in run)
    medians = [statistics.median(run) for run in runs]
    floor = (max(medians) - min(medians)) / value if len(runs) > 1 and value else None
    return Beside(
        target=target,
        how=how,
        quantity=quantity,
        unit=unit,
        predicted=None if predicted is None else predicted.value,
        low=None if predicted is None else predicted.low,
        high=None if predicted is None else predicted.high,
        measured=value,
        floor=floor,
        ratio=value / predicted.value if judged and predicted and predicted.value else None,
        holds=predicted.low <= value <= predicted.high if judged and predicted else None,
    )


def predict(
    job: PlanJob,
    device: DeviceSpec | None = None,
    compute_target: str | None = None,
    *,
    own_bits: bool = False,
) -> tuple[PredictedStep, tuple[str, ...]]:
    """What the step of `job` is predicted to cost, and notes on that.

    It is that of 32 bits, as PyTorch runs it, or with `own_bits` of the plan's bit widths. For
    `device`, by default the plan's, it is priced anew where it is not the plan's own step and
    target; else the plan's own prediction stands.
    """
    plan = job.plan
    others = plan.step.bits != BitWidths() and not own_bits
    if device is None and plan.device is not None and (others or compute_target is not None):
        device, compute_target = plan.device_spec, compute_target or plan.device.target
    step = plan.step if own_bits else replace(plan.step, bits=BitWidths())
    program = compile_program(job.graph, plan.plan, step)
    cost = price(program, device, compute_target)
    notes = []
    if plan.step.bits != step.bits:
        notes.append("the plan is for other bit widths; the step is run and priced in 32 bits")
    if (on := cost.on_device) is not None:
        latency = on.latency_s + (on.swap_s or Interval.exactly(0.0))
        if not on.fits:
            told = "swaps" if on.swap_s is not None else "runs out of memory"
            notes.append(f"the step is predicted not to fit in the RAM of {on.device}: it {told}")
        return PredictedStep(
            device=on.device,
            latency_s=_range(latency),
            energy_j=_range(on.energy_j),
            peak_bytes=cost.memory.peak_bytes,
            arena_bytes=cost.memory.arena_bytes,
        ), tuple(notes)
    assert plan.predicted is not None
    step_s, joules = plan.predicted.latency_s, plan.predicted.energy_interval_j
    swap_s = plan.predicted.swap_s
    if plan.step.bits != step.bits:
        step_s = joules = None
        notes.append("seconds and joules are not predicted for it: give --device to have them")
    return PredictedStep(
        device=None if plan.device is None else plan.device.name,
        latency_s=(
            None
            if step_s is None
            else _range(
                Interval(step_s.step, step_s.low, step_s.high)
                + (
                    Interval.exactly(0.0)
                    if swap_s is None
                    else Interval(swap_s.value, swap_s.low, swap_s.high)
                )
            )
        ),
        energy_j=joules,
        peak_bytes=cost.memory.peak_bytes,
        arena_bytes=cost.memory.arena_bytes,
    ), tuple(notes)


def unlike_prediction(
    plan: PlanFile, device: DeviceSpec | None, target: str | None, machine: Machine
) -> str:
    """Why `machine` is not the one that seconds are predicted for; empty if nothing shows it.

    They are predicted for `device` on `target`; without one for the plan's.
    """
    if device is None and plan.device is not None:
        device, target = plan.device_spec, target or plan.device.target
    return "" if device is None else device.unlike(machine, target)


def _range(interval: Interval) -> Range:
    return Range(value=interval.value, low=interval.low, high=interval.high)

"""A calibration from end to end: choose, run, keep, fit; resumable after each probe."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from costsim.calibration.choose import Doubt, next_probe, rows_of
from costsim.calibration.device_file import calibrated_spec
from costsim.calibration.fit import FEWEST_PROBES, fit_calibration, kernel_samples
from costsim.calibration.probes import Probe, candidates, checks, references
from costsim.calibration.samples import SampleFile, check_conditions, read_samples, seen
from costsim.data.source import Progress
from costsim.device import Calibration, ComputeTarget, Conditions, DeviceSpec
from costsim.errors import InputError
from costsim.files import write_json
from costsim.targets.base import Session
from costsim.targets.job import KernelJob, RunOptions

PROBES = 50
POOL = 160
"""Probes that are chosen from."""
CHECK_EVERY = 4
"""One probe in so many is as deep as a real network."""
NOISY = 0.05
"""A noise floor above which a calibration should not be trusted."""

Runner = Callable[[Sequence[str], float], dict[str, Any]]
"""(names of probes, seconds for each) to what `costsim.calibration.timing.run_batch` returns."""


@dataclass(frozen=True)
class CalibrationRequest:
    """What is asked of `calibrate`. `samples`: the file that readings are kept in.

    `batch` probes are run at a time: 1 where starting costs nothing. They are chosen from a `pool`
    of so many. `conditions`: those now, where
    they are known before anything runs.
    """

    base: DeviceSpec
    runner: Runner
    samples: Path
    target: str | None = None
    time_limit_s: float = 300.0
    probes: int = PROBES
    resume: bool = False
    batch: int = 1
    pool: int = POOL
    conditions: Conditions | None = None


@dataclass(frozen=True)
class Calibrated:
    """The spec as calibrated, what it was fitted to, and sentences for a person."""

    spec: DeviceSpec
    calibration: Calibration
    samples: SampleFile
    warnings: tuple[str, ...]


def calibrate(request: CalibrationRequest, progress: Progress | None = None) -> Calibrated:
    """Measure probes until there are enough or time is up, and fit the laws of the target.

    Every reading is in `request.samples` as soon as it is taken. Raises `InputError`, with what
    was measured kept, for samples of other conditions and for too few of them.
    """
    session = _Session(request, progress or (lambda what, done, total: None))
    session.first_visits()
    session.second_visits()
    if session.samples is None:
        raise InputError(f"{request.samples}: nothing was measured")
    return conclude(request.base, request.target, session.samples)


def conclude(base: DeviceSpec, target: str | None, samples: SampleFile) -> Calibrated:
    """Fit the laws to what was measured, and put them into the spec."""
    taken = datetime.now(UTC).replace(microsecond=0).isoformat()
    calibration = fit_calibration(samples, taken)
    operations = [s for probe in kernel_samples(seen(samples)) for s in probe.samples]
    spec = calibrated_spec(base, target or base.default_target, calibration, operations)
    return Calibrated(spec, calibration, samples, tuple(_warnings(calibration)))


def _warnings(calibration: Calibration) -> list[str]:
    found = []
    if calibration.noise_floor > NOISY:
        found.append(
            f"this machine is too noisy to trust: the same kernel measured twice differs by "
            f"{calibration.noise_floor:.0%} (median); calibrate again when nothing else runs"
        )
    return found


@dataclass
class _Session:
    """The run under way."""

    request: CalibrationRequest
    report: Progress
    samples: SampleFile | None = None
    started: float = field(default_factory=time.monotonic)
    speed: float = 1.0
    """Seconds measured over seconds believed, so far."""

    def __post_init__(self) -> None:
        path = self.request.samples
        if path.exists():
            if not self.request.resume:
                raise InputError(
                    f"{path}: holds measurements of an earlier run; give --resume to go on with "
                    "them, or move the file away"
                )
            self.samples = read_samples(path)
            if self.request.conditions is not None:
                check_conditions(self.samples.conditions, self.request.conditions, str(path))

    @property
    def _seconds_each(self) -> float:
        # A part is left for compiling, choosing and fitting.
        return 0.75 * self.request.time_limit_s / (2 * self.request.probes)

    def _time_is_up(self, share: float = 1.0) -> bool:
        return time.monotonic() - self.started > share * 0.9 * self.request.time_limit_s

    def first_visits(self) -> None:
        """Run the probes that are worth most, one after another."""
        self.report("choosing probes", 0, 0)
        target = self.request.base.target(self.request.target)
        plain = target.model_copy(update={"calibration": None})
        doubt = Doubt([rows_of(probe, plain) for probe in references()])
        pool = {probe: rows_of(probe, plain) for probe in candidates(self.request.pool)}
        deep = {probe: rows_of(probe, plain) for probe in checks()}
        done = {one.probe for one in seen(self.samples)} if self.samples else set()
        for known in (pool, deep):
            for probe in done & known.keys():
                doubt.learn(known.pop(probe))
        count = len(done)
        while count < self.request.probes:
            if self._time_is_up(0.6) and count >= FEWEST_PROBES:
                break
            chosen: list[Probe] = []
            while len(chosen) < min(self.request.batch, self.request.probes - count):
                longest = self._seconds_each / 10 / self.speed
                found: Probe | None = None
                if (count + len(chosen)) % CHECK_EVERY == CHECK_EVERY - 1:
                    found = next((p for p, rows in deep.items() if rows.total_s <= longest), None)
                found = found or next_probe(doubt, pool, longest, 1e-3 / self.speed)
                if found is None:
                    break
                doubt.learn((pool if found in pool else deep).pop(found))
                chosen.append(found)
            if not chosen:
                break
            self.report(f"measuring {chosen[0].name}", count, self.request.probes)
            self._visit(chosen)
            count += len(chosen)
            self._learn_speed(plain)

    def second_visits(self) -> None:
        """Run them again, in another order, so that a slow hour is not one probe's."""
        assert self.samples is not None
        visited = [r.name for r in self.samples.probes]
        waiting = [one.probe for one in seen(self.samples) if visited.count(one.probe.name) < 2]
        random.Random(0).shuffle(waiting)
        total = len(waiting)
        while waiting and not self._time_is_up():
            some, waiting = waiting[: self.request.batch], waiting[self.request.batch :]
            self.report(f"measuring {some[0].name} again", total - len(waiting) - len(some), total)
            self._visit(some)

    def _visit(self, probes: Sequence[Probe]) -> None:
        found = self.request.runner([probe.name for probe in probes], self._seconds_each)
        more = SampleFile.from_json({"schema": SampleFile.schema_name, **found}, "the target")
        path = str(self.request.samples)
        self.samples = more if self.samples is None else self.samples.with_readings(more, path)
        write_samples(self.request.samples, self.samples)

    def _learn_speed(self, target: ComputeTarget) -> None:
        assert self.samples is not None
        found = seen(self.samples)
        believed = sum(rows_of(one.probe, target).total_s for one in found[-5:])
        self.speed = sum(one.step_s for one in found[-5:]) / believed


def write_samples(path: Path, samples: SampleFile) -> None:
    """Write the readings, whole or not at all."""
    write_json(path, samples.to_json())


def local_runner(threads: int) -> Runner:
    """Runs probes in this process."""

    def run(names: Sequence[str], seconds_each: float) -> dict[str, Any]:
        from costsim.calibration.timing import run_batch

        options = SimpleNamespace(threads=threads)
        return run_batch(
            {"probes": list(names), "seconds_each": seconds_each},
            options,
            lambda what, done, total: None,
        )

    return run


def target_runner(session: Session, threads: int) -> Runner:
    """Runs probes on a target, some at a time: each job starts a process there."""

    def run(names: Sequence[str], seconds_each: float) -> dict[str, Any]:
        outcome = session.perform(
            KernelJob(
                "costsim.calibration.timing:run_batch",
                {"probes": list(names), "seconds_each": seconds_each},
                RunOptions(threads=threads),
            )
        )
        if not isinstance(outcome.samples, dict):
            raise InputError(f"{session.target.name}: brought no samples")
        return outcome.samples

    return run


__all__ = [
    "Calibrated",
    "CalibrationRequest",
    "Runner",
    "calibrate",
    "check_conditions",
    "conclude",
    "local_runner",
    "target_runner",
    "write_samples",
]

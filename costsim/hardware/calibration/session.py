"""A calibration from end to end: choose, run, keep, fit; resumable after each probe."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from costsim.base.errors import CostsimError, InputError
from costsim.base.files import write_json
from costsim.base.progress import Progress, silent
from costsim.base.units import counted, format_percent
from costsim.device import Calibration, ComputeTarget, Conditions, DeviceSpec
from costsim.hardware.calibration.device_file import calibrated_spec
from costsim.hardware.calibration.fit import FEWEST_PROBES, fit_calibration, kernel_samples
from costsim.hardware.calibration.probe_choice import Doubt, next_probe, rows_of
from costsim.hardware.calibration.probes import Probe, assorted, candidates, checks, references
from costsim.hardware.calibration.samples import SampleFile, check_conditions, read_samples, seen
from costsim.hardware.meters.conditions import SLOWED
from costsim.hardware.targets.base import TargetError
from costsim.ir.program import Category, memory_timeline

PROBES = 50
POOL = 160
"""Probes that are chosen from."""
CHECK_EVERY = 4
"""One probe in so many is as deep as a real network."""
RARE_EVERY, FIRST_RARE = 12, 5
"""One in so many has the kinds of operators that the candidates lack, from the sixth on."""
NOISY = 0.05
"""A noise floor above which a calibration should not be trusted."""

STARTING = 0.3
"""The share of the time that may go into starting processes on a device."""
FIRST = 4
"""Probes in the first run: by them it is seen how fast the device is."""

Runner = Callable[[Sequence[str], float], dict[str, Any]]
"""(names of probes, seconds for each) to what `timing.run_batch` returns."""


@dataclass(frozen=True)
class CalibrationRequest:
    """What is asked of `calibrate`. `samples`: the file that readings are kept in.

    `start_s`: what each call of `runner` takes before it measures (a process on a device); the
    longer, the more probes are run by one call. Probes are chosen from a `pool` of so many.
    `conditions`: those now, where they are known before anything runs.
    """

    base: DeviceSpec
    runner: Runner
    samples: Path
    target: str | None = None
    time_limit_s: float = 300.0
    probes: int = PROBES
    resume: bool = False
    start_s: float = 0.0
    pool: int = POOL
    conditions: Conditions | None = None

    @property
    def batch(self) -> int:
        """Probes in one call, so that starting does not take more than its share."""
        calls = max(2.0, STARTING * self.time_limit_s / max(self.start_s, 1e-9))
        return min(self.probes, math.ceil(2 * self.probes / calls))

    @property
    def seconds_each(self) -> float:
        """For one visit to one probe; a part is left for starting, compiling and fitting."""
        starting = min(STARTING * self.time_limit_s, 2 * self.probes / self.batch * self.start_s)
        return (0.75 * self.time_limit_s - starting) / (2 * self.probes)


@dataclass(frozen=True)
class Calibrated:
    """The spec as calibrated, what it was fitted to, and sentences for a person."""

    spec: DeviceSpec
    calibration: Calibration
    samples: SampleFile
    warnings: tuple[str, ...]


def calibrate(request: CalibrationRequest, progress: Progress | None = None) -> Calibrated:
    """Measure probes until there are enough or time is up, and fit the laws of the target.

    Raises what `measure_probes` and `conclude` do.
    """
    samples, left_out = measure_probes(request, progress)
    (progress or silent)("fitting", 0, 0)
    return conclude(request.base, request.target, samples, left_out)


def compile_probes(pool: int = POOL) -> None:
    """Compile what probes are chosen from; done before a device waits for it."""
    for probe in (*candidates(pool), *checks(), *references(), *assorted()):
        probe.program()


def measure_probes(
    request: CalibrationRequest, progress: Progress | None = None
) -> tuple[SampleFile, tuple[str, ...]]:
    """The readings, and the names of probes that the device had no memory for.

    Every reading is in `request.samples` as soon as it is taken. Raises `InputError` for samples
    of other conditions, and `CostsimError` where the target gives up; what was measured is kept.
    """
    session = _Session(request, progress or silent)
    try:
        session.first_visits()
        session.second_visits()
    except TargetError as error:
        raise CostsimError(f"{error}{session.kept()}") from error
    if session.samples is None:
        raise InputError(f"{request.samples}: nothing was measured")
    return session.samples, tuple(session.left_out)


def conclude(
    base: DeviceSpec, target: str | None, samples: SampleFile, left_out: Sequence[str] = ()
) -> Calibrated:
    """Fit the laws to what was measured, and put them into the spec.

    Raises `InputError` for too few probes.
    """
    taken = datetime.now(UTC).replace(microsecond=0).isoformat()
    calibration = fit_calibration(samples, taken)
    operations = [s for probe in kernel_samples(seen(samples)) for s in probe.samples]
    spec = calibrated_spec(base, target or base.default_target, calibration, operations)
    return Calibrated(spec, calibration, samples, tuple(_warnings(calibration, left_out)))


def _warnings(calibration: Calibration, left_out: Sequence[str]) -> list[str]:
    found = []
    first, worst = calibration.conditions.clock_hz, calibration.conditions.slowest_clock_hz
    if first and worst and worst < SLOWED * first:
        found.append(
            f"the clock fell from {first / 1e6:.0f} to {worst / 1e6:.0f} MHz meanwhile: too hot, "
            "or a governor that saves power; calibrate again with the clock held"
        )
    if left_out:
        found.append(
            f"{counted(len(left_out), 'probe')} left out, for which the device had no memory: "
            + ", ".join(left_out)
        )
    if calibration.noise_floor > NOISY:
        load, cores = calibration.conditions.load, calibration.conditions.cores
        busy = f", load {load:.1f} on {cores} cores when it began" if load else ""
        found.append(
            f"this machine is too noisy to trust: the same kernel measured twice differs by "
            f"{format_percent(calibration.noise_floor)} (median{busy}); calibrate again when "
            "nothing else runs"
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
    each_s: float = 0.0
    """What a visit to one probe took of late, compiling it included."""
    left_out: list[str] = field(default_factory=list)
    """Probes that the device had no memory for."""

    def __post_init__(self) -> None:
        path = self.request.samples
        if path.exists():
            if not self.request.resume:
                raise InputError(
                    f"{path}: holds measurements of an earlier run; give --resume to go on with "
                    "them, or move the file away"
                )
            kept = read_samples(path)
            if self.request.conditions is not None:
                check_conditions(kept.conditions, self.request.conditions, str(path))
            self.samples = kept if kept.probes else None

    @property
    def _remaining_s(self) -> float:
        return self.started + 0.9 * self.request.time_limit_s - time.monotonic()

    def _time_is_up(self, share: float = 1.0) -> bool:
        return self._remaining_s < (1 - share) * 0.9 * self.request.time_limit_s

    def _batch(self, done: int) -> int:
        """Probes for the next call: no more than there is time for, but enough for a fit."""
        request = self.request
        room = (self._remaining_s - request.start_s) / max(self.each_s, request.seconds_each)
        least = 1 if request.batch == 1 else max(1, FEWEST_PROBES - done)
        return min(max(least, int(room)), request.batch if done else min(FIRST, request.batch))

    def kept(self) -> str:
        """What a person may do with what was measured before something went wrong."""
        if self.samples is None:
            return ""
        number, path = len({r.name for r in self.samples.probes}), self.request.samples
        return (
            f"; the readings of {counted(number, 'probe')} are kept in {path}: go on with --resume"
        )

    def first_visits(self) -> None:
        """Run the probes that are worth most, one after another."""
        self.report("choosing probes", 0, 0)
        request = self.request
        target = request.base.target(request.target)
        plain = target.model_copy(update={"calibration": None})
        doubt = Doubt([rows_of(probe, plain) for probe in references()])
        pool = {p: rows_of(p, plain) for p in candidates(request.pool) if self._fits(p)}
        deep = {p: rows_of(p, plain) for p in checks() if self._fits(p)}
        rare = {p: rows_of(p, plain) for p in assorted() if self._fits(p)}
        done = {one.probe for one in seen(self.samples)} if self.samples else set()
        for known in (pool, deep, rare):
            for probe in done & known.keys():
                doubt.learn(known.pop(probe))
        tried = len(done)
        while tried < request.probes:
            if self._time_is_up(0.6) and len(done) >= FEWEST_PROBES:
                break
            chosen: list[Probe] = []
            while len(chosen) < min(self._batch(len(done)), request.probes - tried):
                longest = request.seconds_each / 10 / self.speed
                number, known = tried + len(chosen), pool
                if number % RARE_EVERY == FIRST_RARE:
                    known = rare
                elif number % CHECK_EVERY == CHECK_EVERY - 1:
                    known = deep
                short = (p for p, rows in known.items() if rows.total_s <= longest)
                found = None if known is pool else next(short, None)
                found = found or next_probe(doubt, pool, longest, 1e-3 / self.speed)
                if found is None and pool and len(done) + len(chosen) < FEWEST_PROBES:
                    found = min(pool, key=lambda probe: pool[probe].total_s)
                if found is None:
                    break
                doubt.learn(next(some for some in (pool, deep, rare) if found in some).pop(found))
                chosen.append(found)
            if not chosen:
                break
            self.report(f"measuring {chosen[0].name}", tried, request.probes)
            self._visit(chosen)
            tried += len(chosen)
            done = {one.probe for one in seen(self.samples)} if self.samples else set()
            self._learn_speed(plain)

    def _fits(self, probe: Probe) -> bool:
        """Whether the device should have the memory for it."""
        program = probe.program()
        frozen = sum(b.bytes for b in program.buffers if b.category is Category.FROZEN_WEIGHTS)
        peak = memory_timeline(program).peak_bytes
        return peak + frozen <= self.request.base.largest_block_bytes

    def second_visits(self) -> None:
        """Run them again, in another order, so that a slow hour is not one probe's."""
        if self.samples is None:
            return
        visited = [r.name for r in self.samples.probes]
        waiting = [one.probe for one in seen(self.samples) if visited.count(one.probe.name) < 2]
        random.Random(0).shuffle(waiting)
        total = len(waiting)
        while waiting and not self._time_is_up():
            size = self._batch(FEWEST_PROBES)
            some, waiting = waiting[:size], waiting[size:]
            self.report(f"measuring {some[0].name} again", total - len(waiting) - len(some), total)
            self._visit(some)

    def _visit(self, probes: Sequence[Probe]) -> None:
        request, started = self.request, time.monotonic()
        try:
            found = request.runner([probe.name for probe in probes], request.seconds_each)
        except TargetError as error:
            if error.reason != "memory":
                raise
            if len(probes) == 1:
                self.left_out.append(probes[0].name)
            else:  # one of them was too much, but which?
                for probe in probes:
                    self._visit([probe])
            return
        more = SampleFile.from_json({"schema": SampleFile.schema_name, **found}, "the target")
        path = str(request.samples)
        self.samples = more if self.samples is None else self.samples.with_readings(more, path)
        write_samples(request.samples, self.samples)
        self.each_s = (time.monotonic() - started - request.start_s) / len(probes)

    def _learn_speed(self, target: ComputeTarget) -> None:
        if self.samples is None:
            return
        found = seen(self.samples)
        believed = sum(rows_of(one.probe, target).total_s for one in found[-5:])
        self.speed = sum(one.step_s for one in found[-5:]) / believed


def write_samples(path: Path, samples: SampleFile) -> None:
    """Write the readings, whole or not at all."""
    write_json(path, samples.to_json())


def local_runner(threads: int) -> Runner:
    """Runs probes in this process."""

    def run(names: Sequence[str], seconds_each: float) -> dict[str, Any]:
        from costsim.hardware.calibration.timing import run_batch

        options = SimpleNamespace(threads=threads)
        return run_batch(
            {"probes": list(names), "seconds_each": seconds_each},
            options,
            lambda _what, _done, _total: None,
        )

    return run


__all__ = [
    "Calibrated",
    "CalibrationRequest",
    "Runner",
    "calibrate",
    "check_conditions",
    "compile_probes",
    "conclude",
    "local_runner",
    "measure_probes",
    "write_samples",
]

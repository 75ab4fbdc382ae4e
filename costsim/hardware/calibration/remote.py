"""Calibrations on targets: a process there for some probes at a time, several devices at once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from costsim.base.errors import CostsimError, InputError
from costsim.device import Conditions, DeviceSpec
from costsim.hardware.calibration.device_file import machine_spec
from costsim.hardware.calibration.samples import SampleFile
from costsim.hardware.calibration.session import (
    Calibrated,
    CalibrationRequest,
    Runner,
    compile_probes,
    conclude,
    measure_probes,
)
from costsim.hardware.targets.base import TIMED, Session, Target, Watch
from costsim.hardware.targets.job import KernelJob, RunOptions
from costsim.hardware.targets.parallel import in_parallel

RUNNER = "costsim.hardware.calibration.timing:run_batch"


@dataclass(frozen=True)
class Order:
    """A calibration to be made on `target`; the rest as in `CalibrationRequest`.

    `base` None: a first guess from what the device says of itself.
    """

    target: Target
    base: DeviceSpec | None
    samples: Path
    threads: int
    compute_target: str | None = None
    time_limit_s: float = 300.0
    probes: int = 50
    resume: bool = False

    def __post_init__(self) -> None:
        if self.target.how != "measured":
            raise InputError(
                f"--on {self.target.name}: an emulator counts, it does not time; allowed are "
                f"{' and '.join(TIMED)}"
            )


Answer: TypeAlias = tuple[Order, Calibrated | CostsimError]


def calibrate_on(orders: Sequence[Order], watch: Watch, found: Callable[[Answer], None]) -> None:
    """Carry all `orders` out in parallel; `found` gets each with its outcome, as it ends.

    Interrupted, it waits until every device is clean; see `in_parallel`.
    """
    in_parallel([partial(_carry_out, order, watch) for order in orders], watch, found)


def _carry_out(order: Order, watch: Watch, found: Callable[[Answer], None]) -> None:
    try:
        found((order, calibrate_target(order, watch)))
    except CostsimError as error:
        if not watch.stopping.is_set():
            found((order, error))
    except Exception as error:  # of a target of somebody else's: the others go on
        told = " ".join(str(error).split())
        message = f"{order.target.name}: {type(error).__name__}: {told}"
        found((order, CostsimError(message)))


def calibrate_target(order: Order, watch: Watch) -> Calibrated:
    """Measure probes on one target and fit its laws, as `calibrate` does here.

    A first look, before any probe, says under which conditions and how long starting takes.
    Raises `CostsimError`, with what was measured kept.
    """
    started = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        watch.report(f"{order.target.name}: {what}", done, total)

    report("compiling probes", 0, 0)
    compile_probes()
    with order.target.session(replace(watch, report=report)) as session:
        report("looking at the device", 0, 0)
        conditions, start_s = look(session, order.threads)
        base = order.base or machine_spec(conditions, order.target.name)
        request = CalibrationRequest(
            base,
            target_runner(session, order.threads),
            order.samples,
            target=order.compute_target,
            time_limit_s=max(order.time_limit_s - (time.monotonic() - started), 1.0),
            probes=order.probes,
            resume=order.resume,
            start_s=start_s,
            conditions=conditions,
        )
        samples, left_out = measure_probes(request, report)
    report("fitting", 0, 0)
    return conclude(base, order.compute_target, samples, left_out)


def look(session: Session, threads: int) -> tuple[Conditions, float]:
    """The conditions on a target, and the seconds that a job without probes takes there."""
    session.ship(_job((), 0.0, threads))
    started = time.monotonic()
    session.run()
    document = {"schema": SampleFile.schema_name, **_samples(session, session.collect().samples)}
    seconds = time.monotonic() - started
    return SampleFile.from_json(document, session.target.name).conditions, seconds


def target_runner(session: Session, threads: int) -> Runner:
    """Runs probes on a target, some at a time: each job starts a process there."""

    def run(names: Sequence[str], seconds_each: float) -> dict[str, Any]:
        return _samples(session, session.perform(_job(names, seconds_each, threads)).samples)

    return run


def _job(names: Sequence[str], seconds_each: float, threads: int) -> KernelJob:
    batch = {"probes": list(names), "seconds_each": seconds_each}
    return KernelJob(RUNNER, batch, RunOptions(threads=threads))


def _samples(session: Session, found: object) -> dict[str, Any]:
    if not isinstance(found, dict) or "conditions" not in found:
        raise CostsimError(f"{session.target.name}: brought no samples")
    return found

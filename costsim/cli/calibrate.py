"""`costsim calibrate`: measure a device, refine its spec, or follow how far off it is."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text
from costsim.base.units import counted, format_percent, parse_seconds
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.model_options import named_models_option
from costsim.cli.next_steps import tell_next
from costsim.cli.options import (
    check_positive,
    check_writable,
    compute_target_option,
    json_option,
    page_option,
    path_option,
    threads_option,
)
from costsim.cli.progress import progress_on_stderr
from costsim.cli.refinement import Measured, refine_spec, show_drift
from costsim.cli.signature import taking
from costsim.cli.target_options import (
    ReachingOptions,
    ended_like_interrupted,
    reaching,
    target_options,
)
from costsim.cli.values import Quantity
from costsim.hardware.targets.base import TIMED

if TYPE_CHECKING:
    from costsim.base.progress import Progress
    from costsim.device import DeviceSpec
    from costsim.hardware.calibration.session import Calibrated

T = TypeVar("T")

SLOW_START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(ReachingOptions):
    """What was typed of `costsim calibrate`."""

    files: tuple[Path, ...]
    refine: bool
    plans: tuple[Path, ...]
    drift: bool
    places: tuple[str, ...]
    devices: tuple[str, ...]
    compute_target: str | None
    outs: tuple[Path, ...]
    threads: int
    time_limit: float
    probes: int
    resume: bool
    picture: Path | None
    report: Path | None
    named_models: tuple[str, ...]
    as_json: bool


@click.command("calibrate", cls=Command)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--from",
    "refine",
    is_flag=True,
    help="Refine the spec with FILES that costsim measure or costsim validate wrote, instead of "
    "measuring.",
)
@click.option(
    "--plan",
    "plans",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --from or --drift: the plan of a measurement that costsim validate wrote.",
)
@click.option("--drift", is_flag=True, help="Show predicted against measured of FILES over time.")
@click.option(
    "--on",
    "places",
    multiple=True,
    metavar="TARGET",
    help=f"Where to measure: {', or '.join(TIMED)}; give it again for more, in parallel, "
    "each with an --out of its own.  [default: local]",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME|FILE",
    shell_complete=completion.devices,
    help="The spec to start from, a shipped one or a YAML file; for several --on one each, or one "
    "for all.  [default: a guess from what the machine says of itself]",
)
@compute_target_option
@path_option(
    "--out",
    "outs",
    multiple=True,
    help="Write the calibrated spec there; for several --on one each, in the same order.",
)
@threads_option
@click.option(
    "--time-limit",
    type=Quantity("TIME", parse_seconds),
    default="5min",
    show_default=True,
    metavar="TIME",
    help="Measure no longer than this.",
)
@click.option(
    "--probes",
    type=int,
    default=50,
    show_default=True,
    metavar="N",
    help="Small steps to measure.",
)
@click.option("--resume", is_flag=True, help="Go on with the readings beside --out.")
@path_option("--picture", help="Draw the drift as SVG.")
@page_option("Write the drift as a page (HTML, nothing else needed).")
@reaching
@named_models_option
@json_option()
@taking(CalibrateOptions)
def command(given: CalibrateOptions) -> int:
    """Measure small training steps on a device and fit its spec to them.

    Operations are timed in their place in about fifty small steps, chosen by the doubt they leave
    about real ones. Readings are kept beside --out (OUT.samples.json) as they come in: after an
    interruption --resume goes on with them, under the same conditions only. Over SSH it works in
    a folder of its own that is gone afterwards, with every process. Exit status 2: some target
    brought nothing; what the others brought is written.

    \b
    Examples
      costsim calibrate --out this-machine.yaml
      costsim calibrate --on ssh://pi@10.0.0.7 --device pi-zero-2 --threads 4 --out my-pi.yaml
      costsim calibrate --on ssh://a --out a.yaml --on ssh://b --out b.yaml
      costsim calibrate --from measured.json more.json --device my-pi.yaml --out better.yaml
      costsim calibrate --drift week1.json week2.json --device my-pi.yaml --report drift.html
    """
    if given.refine and given.drift:
        raise InputError("--from and --drift: give one of them")
    if given.refine or given.drift:
        if not given.files:
            raise InputError("FILES: missing; give what costsim measure --out wrote")
        return _refine(given) if given.refine else _drift(given)
    for option, value in (("--picture", given.picture), ("--report", given.report)):
        if value is not None:
            raise InputError(f"{option}: goes with --drift")
    if given.files:
        raise InputError(f"{given.files[0]}: measurements are read with --from or --drift")
    return _measure(given)


def _refine(given: CalibrateOptions) -> int:
    out = _one(given.outs, "--out")
    return refine_spec(_measured(given), out)


def _drift(given: CalibrateOptions) -> int:
    return show_drift(_measured(given), picture=given.picture, page=given.report)


def _measured(given: CalibrateOptions) -> Measured:
    return Measured(
        given.files,
        given.plans,
        device=_one(given.devices, "--device"),
        compute_target=given.compute_target,
        as_json=given.as_json,
    )


def _one(values: Sequence[T], option: str) -> T | None:
    """What was given at most once; None if it was not."""
    if len(values) > 1:
        raise InputError(f"{option}: once is enough; given are {', '.join(map(str, values))}")
    return values[0] if values else None


def _measure(given: CalibrateOptions) -> int:
    check_positive(threads=given.threads, probes=given.probes)
    if not given.time_limit > 0:
        raise InputError("--time-limit: more than 0 is needed")
    places = list(given.places or ("local",))
    if len(given.outs) != len(places):
        told = "missing; name the file for the calibrated spec" if len(places) == 1 else "one each"
        raise InputError(f"--out: {told} (--on: {', '.join(places)})")
    outs = list(given.outs)
    for out in outs:
        check_writable(out, "--out")
    for option, texts in (("--on", places), ("--out", list(map(str, outs)))):
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise InputError(f"{option}: {twice[0]} is given twice")
    devices = list(given.devices)
    if len(devices) not in (0, 1, len(places)):
        raise InputError(f"--device: {len(devices)} are given for {counted(len(places), 'target')}")
    # Read when torch loads: its libraries keep pools of their own threads.
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))

    from costsim.device import load_device
    from costsim.hardware.calibration.fit import FEWEST_PROBES

    if given.probes < FEWEST_PROBES:
        raise InputError(f"--probes is {given.probes}; at least {FEWEST_PROBES} are needed")
    bases = [load_device(device) for device in devices]
    for base in bases:
        base.target(given.compute_target)
    if given.compute_target is not None and not bases:
        raise InputError("--compute-target: give --device too")
    if len(bases) < len(places):
        bases *= len(places)
    with progress_on_stderr() as progress, ended_like_interrupted():
        if places == ["local"]:
            found, failed = _here(given, outs[0], bases[0] if bases else None, progress), False
            results = [("local", outs[0], found)]
        else:
            results, failed = _there(given, places, outs, bases or [None] * len(places), progress)
    _tell(results, as_json=given.as_json, several=len(places) > 1)
    steps = [("plan", "--device", out, "--out", "plan.json") for _, out, _ in results]
    tell_next(*steps, as_json=given.as_json)
    return 2 if failed else 0


Result = tuple[str, Path, "Calibrated"]


def _here(
    given: CalibrateOptions, out: Path, base: "DeviceSpec | None", progress: "Progress"
) -> "Calibrated":
    """In this process."""
    from costsim.hardware.calibration.conditions import describe_conditions
    from costsim.hardware.calibration.device_file import machine_spec, write_device
    from costsim.hardware.calibration.session import CalibrationRequest, calibrate, local_runner

    conditions = describe_conditions(given.threads)
    found = calibrate(
        CalibrationRequest(
            base or machine_spec(conditions),
            local_runner(given.threads),
            samples_path(out),
            target=given.compute_target,
            time_limit_s=given.time_limit,
            probes=given.probes,
            resume=given.resume,
            conditions=conditions,
        ),
        progress,
    )
    write_device(out, found.spec)
    return found


def _there(
    given: CalibrateOptions,
    places: Sequence[str],
    outs: Sequence[Path],
    bases: Sequence["DeviceSpec | None"],
    progress: "Progress",
) -> tuple[list[Result], bool]:
    """On targets, in parallel; whether any failed. Each spec is written as soon as it is known."""
    from costsim.base.errors import CostsimError
    from costsim.hardware.calibration.device_file import write_device
    from costsim.hardware.calibration.remote import Answer, Order, calibrate_on
    from costsim.hardware.targets.base import Watch, parse_target

    # The limit is on measuring and kept from here; a device may be slow to start.
    options = target_options(given, given.time_limit + SLOW_START_S)
    paths = {}
    orders = []
    for place, out, base in zip(places, outs, bases, strict=True):
        order = Order(
            parse_target(place, options),
            base,
            samples_path(out),
            given.threads,
            compute_target=given.compute_target,
            time_limit_s=given.time_limit,
            probes=given.probes,
            resume=given.resume,
        )
        orders.append(order)
        paths[order.target.name] = out
    results: list[Result] = []
    failures: list[str] = []

    def keep(answer: Answer) -> None:
        order, found = answer
        if isinstance(found, CostsimError):
            failures.append(str(found))
        else:
            write_device(paths[order.target.name], found.spec)
            results.append((order.target.name, paths[order.target.name], found))

    calibrate_on(orders, Watch(progress, warn=_warn), keep)
    for failure in failures:
        print(f"costsim: {failure}", file=sys.stderr)
    return results, bool(failures)


def _tell(results: Sequence[Result], *, as_json: bool, several: bool) -> None:
    documents = []
    for place, out, found in results:
        for warning in found.warnings:
            _warn(f"{place}: {warning}" if several else warning)
        calibration = found.calibration
        if as_json:
            documents.append(calibration.model_dump(mode="json"))
            continue
        click.echo(
            f"{out}: {counted(calibration.probes, 'probe')}, "
            f"{counted(len(calibration.kernels), 'kernel')} on "
            f"{counted(calibration.conditions.threads, 'thread')} of "
            f"{calibration.conditions.cpu}. Steps are predicted within "
            f"{format_percent(calibration.common)} (standard deviation) of what "
            "left-out probes took; the same kernel measured twice differs by "
            f"{format_percent(calibration.noise_floor)}."
        )
    if as_json and several:
        rows = zip(results, documents, strict=True)
        click.echo(to_json_text([{"target": p, "out": str(o), **d} for (p, o, _), d in rows]))
    elif documents:
        click.echo(to_json_text(documents[0]))


def _warn(message: str) -> None:
    print(f"costsim: warning: {message}", file=sys.stderr)


def samples_path(out: Path) -> Path:
    """Where the readings behind a calibrated spec are kept."""
    return out.with_name(f"{out.name}.samples.json")

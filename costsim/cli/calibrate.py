"""`costsim calibrate`: measure a device, refine its spec, or follow how far off it is."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costsim.cli.options import Quantity, check_writable, progress_on_stderr
from costsim.errors import InputError
from costsim.files import to_json_text, write_atomically
from costsim.units import parse_seconds

if TYPE_CHECKING:
    from costsim.calibration.session import Runner
    from costsim.device import DeviceSpec


@click.command("calibrate")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--from",
    "refine",
    is_flag=True,
    help="Refine the spec with FILES that `costsim measure` wrote, instead of measuring.",
)
@click.option("--drift", is_flag=True, help="Show predicted against measured of FILES over time.")
@click.option(
    "--on",
    "place",
    default="local",
    show_default=True,
    metavar="TARGET",
    help="Where to measure: local, or ssh://user@host:port.",
)
@click.option(
    "--device",
    metavar="DEVICE",
    help="The spec to start from, a file or a shipped one [default: a guess at this machine].",
)
@click.option(
    "--compute-target", metavar="NAME", help="Its compute target to calibrate [default: its own]."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the calibrated spec there.",
)
@click.option(
    "--threads", type=int, default=1, show_default=True, help="Threads that PyTorch computes on."
)
@click.option(
    "--time-limit",
    type=Quantity("TIME", parse_seconds),
    default="5min",
    show_default=True,
    metavar="TIME",
    help="Measure no longer than this.",
)
@click.option("--probes", type=int, default=50, show_default=True, help="Small steps to measure.")
@click.option("--resume", is_flag=True, help="Go on with the readings beside --out.")
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE", help="Draw the drift as SVG."
)
@click.option(
    "--identity", type=click.Path(path_type=Path), metavar="FILE", help="Private key for SSH."
)
@click.option("--trust-new-host", is_flag=True, help="Pin the key of a host not known yet.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(**given: Any) -> int:
    """Measure small training steps on a device and fit its spec to them.

    Operations are timed in their place in about fifty small steps, chosen by the doubt they leave
    about real ones. Readings are kept beside --out (OUT.samples.json) as they come in: after an
    interruption --resume goes on with them, under the same conditions only.

    \b
    Examples
      costsim calibrate --out this-machine.yaml
      costsim calibrate --on ssh://pi@10.0.0.7 --device pi-zero-2 --threads 4 --out my-pi.yaml
      costsim calibrate --from measured.json --device my-pi.yaml --out better.yaml
      costsim calibrate --drift week1.json week2.json --device my-pi.yaml --picture drift.svg
    """
    if given["refine"] and given["drift"]:
        raise InputError("--from and --drift: give one of them")
    if given["refine"] or given["drift"]:
        if not given["files"]:
            raise InputError("give files that `costsim measure --out` wrote")
        return _refine(given) if given["refine"] else _drift(given)
    if given["files"]:
        raise InputError(f"{given['files'][0]}: measurements are read with --from or --drift")
    return _measure(given)


def _measure(given: dict[str, Any]) -> int:
    for name in ("threads", "probes"):
        if given[name] < 1:
            raise InputError(f"--{name} is {given[name]}; at least 1 is needed")
    if not given["time_limit"] > 0:
        raise InputError("--time-limit: more than 0 is needed")
    out = _out(given)
    # Read when torch loads: its libraries keep pools of their own threads.
    os.environ.setdefault("OMP_NUM_THREADS", str(given["threads"]))
    local = given["place"] == "local"
    if not local and given["device"] is None:
        raise InputError("--on: give --device too, the spec of that device")

    from costsim.calibration.conditions import describe_conditions
    from costsim.calibration.device_file import machine_spec, write_device
    from costsim.calibration.session import CalibrationRequest, calibrate, local_runner
    from costsim.device import load_device

    conditions = describe_conditions(given["threads"]) if local else None
    if conditions is not None and given["device"] is None:
        base = machine_spec(conditions)
    else:
        base = load_device(given["device"])
    base.target(given["compute_target"])
    with progress_on_stderr() as progress:
        runner: Runner = local_runner(given["threads"])
        stack = None
        if not local:
            stack, runner = _remote_runner(given, progress)
        try:
            found = calibrate(
                CalibrationRequest(
                    base,
                    runner,
                    samples_path(out),
                    target=given["compute_target"],
                    time_limit_s=given["time_limit"],
                    probes=given["probes"],
                    resume=given["resume"],
                    batch=1 if local else 8,
                    conditions=conditions,
                ),
                progress,
            )
        finally:
            if stack is not None:
                stack.__exit__(None, None, None)
    write_device(out, found.spec)
    for warning in found.warnings:
        print(f"costsim: warning: {warning}", file=sys.stderr)
    calibration = found.calibration
    if given["as_json"]:
        click.echo(to_json_text(calibration.model_dump(mode="json")))
    else:
        click.echo(
            f"{out}: {calibration.probes} probes, {len(calibration.kernels)} kernels on "
            f"{calibration.conditions.threads} thread(s) of {calibration.conditions.cpu}. Steps "
            f"are predicted within {calibration.common:.0%} (standard deviation) of what "
            f"left-out probes took; the same kernel measured twice differs by "
            f"{calibration.noise_floor:.1%}."
        )
    return 0


def _remote_runner(given: dict[str, Any], progress: Any) -> tuple[Any, "Runner"]:
    """A session on the target, to be left, and what runs probes in it."""
    from costsim.calibration.session import target_runner
    from costsim.targets.base import TargetOptions, Watch, parse_target

    options = TargetOptions(
        time_limit_s=given["time_limit"],
        identity=given["identity"],
        trust_new_hosts=given["trust_new_host"],
    )
    session = parse_target(given["place"], options).session(Watch(progress))
    session.__enter__()
    return session, target_runner(session, given["threads"])


def samples_path(out: Path) -> Path:
    """Where the readings behind a calibrated spec are kept."""
    return out.with_name(f"{out.name}.samples.json")


def _out(given: dict[str, Any]) -> Path:
    out = given["out"]
    if out is None:
        raise InputError("--out: missing; name the file for the calibrated spec")
    check_writable(out, "--out")
    assert isinstance(out, Path)
    return out


def _device(given: dict[str, Any]) -> "DeviceSpec | None":
    from costsim.device import load_device

    device = None if given["device"] is None else load_device(given["device"])
    if device is not None:
        device.target(given["compute_target"])
    return device


def _refine(given: dict[str, Any]) -> int:
    out, device = _out(given), _device(given)
    if device is None:
        raise InputError("--from: give --device too, the spec to refine")

    from costsim.calibration.device_file import write_device
    from costsim.calibration.refine import measured_steps, refine

    steps = measured_steps(given["files"], device, given["compute_target"])
    refined = refine(device, steps, given["compute_target"])
    write_device(out, refined.spec)
    if given["as_json"]:
        click.echo(
            to_json_text(
                {
                    "steps": len(steps),
                    "factor": refined.factor,
                    "deviation": refined.deviation,
                    "out": str(out),
                }
            )
        )
    else:
        click.echo(
            f"{out}: with {len(steps)} measured steps every duration is {refined.factor:.2f} times "
            f"what it was, known to {refined.deviation:.0%}"
        )
    return 0


def _drift(given: dict[str, Any]) -> int:
    check_writable(given["picture"], "--picture")

    from costsim.calibration.refine import measured_steps
    from costsim.report.drift import drift_svg, render_drift

    steps = measured_steps(given["files"], _device(given), given["compute_target"])
    if given["picture"] is not None:
        write_atomically(given["picture"], drift_svg(steps))
    if given["as_json"]:
        rows = [
            {
                "when": step.when,
                "target": step.target,
                "model": step.model,
                "predicted_s": step.predicted.to_json(),
                "measured_s": step.measured_s,
                "ratio": step.ratio,
                "holds": step.holds,
            }
            for step in steps
        ]
        click.echo(to_json_text({"schema": "costsim.drift/1", "steps": rows}))
    else:
        from rich.console import Console

        render_drift(Console(), steps)
    return 0

"""`--from` and `--drift` of `costsim calibrate`: what measurements say of a spec that there is."""

from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text, write_atomically
from costsim.cli.options import check_writable

if TYPE_CHECKING:
    from costsim.device import DeviceSpec


def refine_spec(given: dict[str, Any]) -> int:
    """`--from`: write the spec refined by what was measured since; the exit status."""
    out, device = _one(given, "outs", "--out"), _device(given)
    if out is None:
        raise InputError("--out: missing; name the file for the refined spec")
    check_writable(out, "--out")
    if device is None:
        raise InputError("--from: give --device too, the spec to refine")

    from costsim.hardware.calibration.device_file import write_device
    from costsim.hardware.calibration.refinement import measured_steps, refine

    steps = measured_steps(given["files"], device, given["compute_target"], given["plans"])
    refined = refine(device, steps, given["compute_target"])
    write_device(out, refined.spec)
    if given["as_json"]:
        click.echo(
            to_json_text(
                {
                    "steps": len(steps),
                    "plans": refined.plans,
                    "factor": refined.factor,
                    "deviation": refined.deviation,
                    "apart": dict(refined.apart),
                    "left_out": refined.left_out,
                    "power": refined.power,
                    "out": str(out),
                }
            )
        )
    else:
        click.echo(f"{out}: {refined.sentence}")
    return 0


def show_drift(given: dict[str, Any]) -> int:
    """`--drift`: show predicted against measured over time; the exit status."""
    for name in ("picture", "report"):
        check_writable(given[name], f"--{name}")

    from costsim.hardware.calibration.refinement import measured_steps
    from costsim.report.drift import drift_svg, render_drift, write_drift_page

    steps = measured_steps(given["files"], _device(given), given["compute_target"], given["plans"])
    if given["picture"] is not None:
        write_atomically(given["picture"], drift_svg(steps))
    if given["report"] is not None:
        write_drift_page(given["report"], steps)
    if given["as_json"]:
        rows = [
            {
                "when": step.when,
                "target": step.target,
                "model": step.model,
                "predicted_s": step.predicted.to_json(),
                "measured_s": step.measured_s,
                "ratio": None if step.unlike else step.ratio,
                "holds": None if step.unlike else step.holds,
                "unlike": step.unlike or None,
            }
            for step in steps
        ]
        click.echo(to_json_text({"schema": "costsim.drift/1", "steps": rows}))
    else:
        from rich.console import Console

        render_drift(Console(), steps)
    return 0


def _one(given: dict[str, Any], name: str, option: str) -> Any:
    """What was given at most once; None if it was not."""
    values = given[name]
    if len(values) > 1:
        raise InputError(f"{option}: once is enough; given are {', '.join(map(str, values))}")
    return values[0] if values else None


def _device(given: dict[str, Any]) -> "DeviceSpec | None":
    from costsim.device import load_device

    name = _one(given, "devices", "--device")
    device = None if name is None else load_device(name)
    if device is not None:
        device.target(given["compute_target"])
    return device

"""`--from` and `--drift` of `costsim calibrate`: what measurements say of a spec that there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text, write_atomically
from costsim.cli.made import made_now
from costsim.cli.options import check_writable

if TYPE_CHECKING:
    from costsim.device import DeviceSpec


@dataclass(frozen=True)
class Measured:
    """The files that were measured, the plans they name, and the device they are of, if named."""

    files: Sequence[Path]
    plans: Sequence[Path]
    device: str | None
    compute_target: str | None
    as_json: bool

    def spec(self) -> "DeviceSpec | None":
        """The device's spec; raises `InputError` for one that cannot be read."""
        from costsim.device import load_device

        device = None if self.device is None else load_device(self.device)
        if device is not None:
            device.target(self.compute_target)
        return device


def refine_spec(given: Measured, out: Path | None) -> int:
    """`--from`: write the spec refined by what was measured since; the exit status."""
    device = given.spec()
    if out is None:
        raise InputError("--out: missing; name the file for the refined spec")
    check_writable(out, "--out")
    if device is None:
        raise InputError("--from: give --device too, the spec to refine")

    from costsim.hardware.calibration.device_file import write_device
    from costsim.hardware.calibration.refinement import measured_steps, refine

    steps = measured_steps(given.files, device, given.compute_target, given.plans)
    refined = refine(device, steps, given.compute_target)
    write_device(out, refined.spec)
    if given.as_json:
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


def show_drift(given: Measured, *, picture: Path | None, page: Path | None) -> int:
    """`--drift`: show predicted against measured over time; the exit status."""
    check_writable(picture, "--picture")
    check_writable(page, "--report")

    from costsim.hardware.calibration.refinement import measured_steps
    from costsim.report.drift import drift_svg, render_drift, write_drift_page

    steps = measured_steps(given.files, given.spec(), given.compute_target, given.plans)
    if picture is not None:
        write_atomically(picture, drift_svg(steps))
    if page is not None:
        write_drift_page(page, steps, made_now())
    if given.as_json:
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
        from costsim.cli.console import Console

        render_drift(Console(), steps)
    return 0

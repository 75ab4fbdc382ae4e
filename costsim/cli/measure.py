"""`costsim measure`: run a plan's step on real devices, predicted beside measured."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError
from costsim.base.files import scratch_folder, to_json_text, write_atomically
from costsim.base.units import parse_bytes, parse_seconds
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.made import made_now
from costsim.cli.model_options import moved_weights_option, named_models_option
from costsim.cli.options import (
    check_positive,
    compute_target_option,
    json_option,
    page_option,
    path_option,
    plan_argument,
)
from costsim.cli.outputs import check_outputs
from costsim.cli.planned import given_plan
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking
from costsim.cli.target_options import (
    ReachingOptions,
    ended_like_interrupted,
    reaching,
    target_options,
)
from costsim.cli.values import Quantity
from costsim.hardware.targets.base import EXAMPLES

if TYPE_CHECKING:
    from costsim.hardware.results.measurement_file import MeasurementFile
    from costsim.hardware.targets.base import Target


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(ReachingOptions):
    """What was typed of `costsim measure`."""

    plan: Path
    targets: tuple[str, ...]
    device: str | None
    compute_target: str | None
    repeats: int
    steps: int
    threads: int | None
    memory_limit: int | None
    weights: Path | None
    named_models: tuple[str, ...]
    time_limit: float
    out: Path | None
    report: Path | None
    resume: bool
    as_json: bool


@click.command("measure", cls=Command)
@plan_argument
@click.option(
    "--on",
    "targets",
    multiple=True,
    metavar="TARGET",
    help=f"Where to run it; give it again for more, in parallel: {', '.join(EXAMPLES)}.  "
    "[default: local]",
)
@click.option(
    "--device",
    metavar="NAME|FILE",
    shell_complete=completion.devices,
    help="Predict for this device, a shipped one or a YAML file.  [default: as the plan says]",
)
@compute_target_option
@click.option(
    "--repeats", type=int, default=1, show_default=True, metavar="N", help="Runs on each target."
)
@click.option(
    "--steps", type=int, default=10, show_default=True, metavar="N", help="Steps to time in a run."
)
@click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Threads that PyTorch computes on, on this machine and over SSH.  [default: as many as "
    "the device was calibrated on, else 1]",
)
@click.option(
    "--memory-limit",
    type=Quantity("SIZE", parse_bytes),
    metavar="SIZE",
    help="Let the step have only so much memory, updated weights included and frozen weights "
    "apart; exit status 1 if it does not fit.  [default: none]",
)
@moved_weights_option
@named_models_option
@click.option(
    "--time-limit",
    type=Quantity("TIME", parse_seconds),
    default="30min",
    show_default=True,
    metavar="TIME",
    help="End a run that takes longer.",
)
@reaching
@path_option("--out", help="Write all measurements there; kept up to date while they come in.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the runs in --out: only what is missing of --repeats is run.",
)
@page_option()
@json_option()
@taking(MeasureOptions)
def command(given: MeasureOptions) -> int:
    """Run the training step of PLAN on each TARGET and put it beside the prediction.

    Over SSH it works in a folder of its own that is gone afterwards, with every process, also
    after Ctrl-C and when the connection never comes back. Measurements already taken are kept when
    something fails, the steps of an unfinished run too. Exit status 1: it ran out of memory, or a
    target was lost before its last run ended; 2: a target brought nothing for any other reason.
    After a kill --resume takes what is missing.

    \b
    Examples
      costsim measure plan.json
      costsim measure plan.json --on ssh://pi@10.0.0.7 --on ssh://me@10.0.0.8 --out measured.json
      costsim measure plan.json --on 'ssh://pi@10.0.0.7?python=/opt/py/bin/python&patience=300'
      costsim measure plan.json --memory-limit 64MiB
    """
    check_positive(repeats=given.repeats, steps=given.steps, threads=given.threads)
    check_outputs({"--out": given.out, "--report": given.report})
    if given.resume and given.out is None:
        raise InputError("--resume: nothing to go on with: name the measurements with --out")

    from costsim.device import load_device
    from costsim.hardware.targets.base import Watch
    from costsim.ir.step import BitWidths

    targets = _targets(given)
    plan = given_plan(given.plan, given.named_models)
    if given.device == "":
        raise InputError("--device is empty: the name of a shipped device or a YAML file")
    device = None if given.device is None else load_device(given.device)
    if device is None and plan.device is None and given.compute_target is not None:
        raise InputError("--compute-target: the plan is for no device; give --device too")
    priced = device or plan.device_spec
    target = given.compute_target
    if device is None and target is None and plan.device is not None:
        target = plan.device.target
    calibration = None if priced is None else priced.target(target).calibration

    from costsim.hardware.results.measurement_file import (
        Asked,
        Failure,
        MeasurementFile,
        predict,
        unlike_prediction,
    )
    from costsim.hardware.ssh.shipment import plan_job
    from costsim.hardware.targets.fan_out import Found, measure_on
    from costsim.hardware.targets.job import RunOptions

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what is counted here is not what is timed
    threads: int = given.threads or 1
    told: tuple[str, ...] = ()
    if given.threads is None and calibration is not None and any(t.threaded for t in targets):
        threads = calibration.conditions.threads
        whose = given.device or "the plan's device"
        told = (f"--threads is {threads}: {whose} was calibrated on so many",)
    run_options = RunOptions(given.steps, threads, given.memory_limit)
    with (
        scratch_folder() as folder,
        progress_on_stderr() as report,
    ):
        report("loading the model", 0, 0)
        job = plan_job(
            plan,
            folder,
            source=str(given.plan),
            weights=given.weights,
            options=run_options,
        )
        predicted, notes = predict(job, device, given.compute_target)
        own = None
        if plan.step.bits != BitWidths() and any(target.own_bits for target in targets):
            own, own_notes = predict(job, device, given.compute_target, own_bits=True)
            elsewhere = any(not target.own_bits for target in targets)
            notes = tuple(dict.fromkeys((*(notes if elsewhere else ()), *own_notes)))
        found = MeasurementFile(
            plan=plan.to_json(),
            predicted=predicted,
            predicted_own=own,
            notes=(*told, *notes),
            asked=Asked(
                steps=run_options.steps,
                threads=run_options.threads,
                memory_limit_bytes=run_options.memory_limit_bytes,
            ),
        )
        if given.resume and given.out is not None and given.out.exists():
            found = found.gone_on(given.out, [target.name for target in targets])

        def keep(item: Found) -> None:
            nonlocal found
            if isinstance(item, Failure):
                found = found.with_failure(item)
            else:
                found = found.with_run(item)
                if (ran := item.outcome.measurement) is not None:
                    why = unlike_prediction(plan, device, given.compute_target, ran.machine)
                    found = found.with_unlike(item.outcome.target, why)
            if given.out is not None:
                found.write(given.out)

        watch = Watch(report, warn=_warn)
        with ended_like_interrupted():
            measure_on(
                targets,
                job,
                repeats=given.repeats,
                watch=watch,
                found=keep,
                done=found.whole_runs,
            )
    for name, why in sorted(found.unlike.items()):
        _warn(f"{name}: the prediction is for other conditions: {why}")
    if given.report is not None:
        from costsim.report.measurement_page import render_measurement_page

        write_atomically(given.report, render_measurement_page(found, made_now()))
    return _tell(found, as_json=given.as_json)


def _targets(given: MeasureOptions) -> "list[Target]":
    from costsim.hardware.targets.base import parse_target

    options = target_options(given, given.time_limit)
    targets = [parse_target(text, options) for text in given.targets or ("local",)]
    names = [target.name for target in targets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--on: {twice[0]} is given twice; give --repeats for more runs")
    return targets


def _tell(found: "MeasurementFile", *, as_json: bool) -> int:
    if as_json:
        rows = [row.model_dump(mode="json") for row in found.comparisons()]
        click.echo(to_json_text({**found.to_json(), "comparisons": rows}))
    elif found.runs:
        from costsim.cli.console import Console
        from costsim.report.measurements import render_measurements

        render_measurements(Console(), found)
    for failure in found.failures:
        print(f"costsim: {failure.target}: {failure.message}", file=sys.stderr)
    brought = {run.outcome.target for run in found.runs}
    if any(one.reason != "memory" and one.target not in brought for one in found.failures):
        return 2
    return 1 if found.failures else 0


def _warn(message: str) -> None:
    print(f"costsim: warning: {message}", file=sys.stderr)

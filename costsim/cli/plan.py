"""`costsim plan`: choose what to update within a device's budgets, and price it."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError, one_line
from costsim.base.files import to_json_text, write_atomically
from costsim.cli import completion
from costsim.cli.command import Command, typed_words
from costsim.cli.made import made_now
from costsim.cli.model_options import naming
from costsim.cli.next_steps import tell_next
from costsim.cli.options import check_writable, json_option, page_option, path_option, seed_option
from costsim.cli.progress import progress_on_stderr
from costsim.cli.recipe import RecipeOptions, recipe_options
from costsim.cli.request import (
    device_option,
    plan_request,
    request_options,
    time_limit_option,
)
from costsim.cli.signature import taking, was_typed
from costsim.cli.solve_for import SoughtOptions, check_sought, plan_backwards, solve_for_options
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.loss import LOSSES
from costsim.solvers import SOLVERS

if TYPE_CHECKING:
    from costsim.planning import Planned, PlanRequest


@dataclass(frozen=True, kw_only=True)
class PlanOptions(SoughtOptions, RecipeOptions):
    """What was typed of `costsim plan`."""

    explain: bool
    free_passes: bool
    out: Path | None
    as_json: bool
    report: Path | None


@click.command(
    "plan",
    cls=Command,
    listed={"Solvers": SOLVERS.entries, "Criteria": CRITERIA.entries, "Losses": LOSSES.entries},
)
@device_option(" Given several times: one plan that fits them all.")
@request_options
@click.option(
    "--solver",
    default="exact",
    show_default=True,
    metavar="NAME",
    callback=naming,
    shell_complete=completion.of_registry(SOLVERS),
    help="Who chooses: one of the solvers below, or my.py:Mine.",
)
@time_limit_option
@click.option(
    "--explain",
    is_flag=True,
    help="Also say what more of each budget would bring, and why layers were left out.",
)
@click.option(
    "--free-passes",
    is_flag=True,
    help="Also choose --micro-batch and --recompute, where they are not given: they change no "
    "result. The greatest gain first, then the fewest seconds. It takes up to ten times as long, "
    "and where nothing fits without it, that is said.",
)
@solve_for_options
@recipe_options("Passes over the samples.")
@seed_option
@path_option("--out", help="Write the plan as JSON.")
@json_option()
@page_option()
@taking(PlanOptions)
def command(given: PlanOptions) -> int:
    """Choose which channels of which layers to update within a device's budgets.

    Budgets that are not given are those the device file recommends. The exit status is 1 if no
    plan is within them.

    \b
    Examples
      costsim plan --device jetson-nano
      costsim plan --device stm32f746 --memory 256KiB --macs 10% --solver greedy
      costsim plan --device my.yaml --model my_package.nets:make --data faces.zip \\
                   --out plan.json --report plan.html
    """
    check_writable(given.out, "--out")
    check_writable(given.report, "--report")
    if given.out is not None and given.out == given.report:
        raise InputError(f"--out and --report are both {given.out}; give each its own file")
    check_sought(given)
    requests = _requests(given)
    from costsim.planning import make_plan
    from costsim.report.summary import no_plan
    from costsim.solving.planfile import write_plan

    with progress_on_stderr() as progress:
        if given.solve_for is not None and given.share is not None:
            planned = plan_backwards(given.solve_for, given.share, requests, progress)
        elif len(requests) > 1:
            from costsim.planning.fleet import make_fleet_plan

            planned = make_fleet_plan(requests, progress)
        else:
            planned = make_plan(requests[0], progress)
        if given.report:
            from costsim.report.page import render_page

            progress("drawing the report", 0, 0)
            page = render_page(planned.file, planned.graph, planned.importance, made_now())
            write_atomically(given.report, page)
        if given.out:
            write_plan(given.out, planned.file)
    for warning in planned.warnings:
        print(f"costsim: note: {warning}", file=sys.stderr)
    if given.as_json:
        click.echo(to_json_text(planned.file.to_json()))
    else:
        from costsim.cli.console import Console
        from costsim.report.table import render_plan

        render_plan(Console(), planned.file, planned.graph)
    if planned.solution.plan is None:
        reason = no_plan(planned.file.solver)  # which the table begins with
        told = reason if given.as_json else reason.partition(":")[0]
        print(f"costsim: {one_line(told, most=4000)}", file=sys.stderr)
        return 1
    if planned.too_large:
        print(f"costsim: {planned.too_large}", file=sys.stderr)
        return 1
    if planned.file.sought is not None and planned.file.sought.value is None:
        reason = planned.file.sought.sentence
        told = reason if given.as_json else reason.partition(";")[0]
        print(f"costsim: {told}", file=sys.stderr)
        return 1
    tell_next(*_next(given, planned), as_json=given.as_json)
    return 0


def _next(given: PlanOptions, planned: "Planned") -> "list[tuple[str | Path, ...]]":
    """What to do with the plan; first of all to keep it."""
    out = given.out
    if out is None:
        return [(*typed_words(), "--out", "plan.json")]
    device = planned.file.device_spec
    if device is not None and device.is_microcontroller and given.loss == "cross_entropy":
        return [("export", out, "--out", out.with_suffix(""))]
    return [("validate", out), ("train", out, "--out", out.with_suffix(".safetensors"))]


def _requests(given: PlanOptions) -> "list[PlanRequest]":
    """What is asked: one request, or one a device where the device is sought."""
    devices: tuple[str | None, ...] = given.devices or (None,)
    sought = given.solve_for
    if len(devices) > 1 and given.explain:
        raise InputError("--explain is for one device; give one --device")
    if sought is not None and sought != "device" and len(devices) > 1:
        raise InputError(f"--solve-for {sought} is for one device; give one --device")
    if sought == "device" and not given.devices:
        from costsim.device import shipped_devices

        devices = tuple(shipped_devices())
    usual = sought is None and given.time_limit is None and not was_typed("solver")
    solver = None if usual else given.solver
    asked = [
        plan_request(given, device, solver, recipe=given, explain=given.explain)
        for device in devices
    ]
    typed = frozenset(name for name in ("micro_batch", "recompute") if was_typed(name))
    return [replace(one, free_passes=given.free_passes, pinned=one.pinned | typed) for one in asked]

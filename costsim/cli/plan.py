"""`costsim plan`: choose what to update within a device's budgets, and price it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from costsim.accounting import ACCOUNTINGS
from costsim.cli.options import Quantity, check_writable, parse_bits, progress_on_stderr
from costsim.errors import InputError
from costsim.files import to_json_text, write_atomically
from costsim.units import (
    parse_bytes,
    parse_joules,
    parse_macs,
    parse_percent,
    parse_seconds,
)

if TYPE_CHECKING:
    from costsim.data.source import Progress
    from costsim.planner import Planned, PlanRequest
    from costsim.solution import Solver

LARGEST_SEED = 2**63 - 1
"""Of torch's generators."""

LARGEST_COUNT = 10**9

EXPLAINING_S = 10.0
"""For each question of an explanation, where no time limit is given."""


def _macs_or_share(text: str, what: str) -> tuple[int | None, float | None]:
    share = parse_percent(text, what)
    return (parse_macs(text, what), None) if share is None else (None, share)


def _count_or_all(text: str, what: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"{what}: cannot read {text!r}; give a number of layers, or all")
    return int(text)


def _share(text: str, what: str) -> float:
    share = parse_percent(text, what)
    if not share:
        raise InputError(f"{what}: cannot read {text!r}; give a percentage above 0%, such as 90%")
    return share


@click.command("plan")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME|FILE",
    help="A shipped device (costsim devices lists them) or a YAML file of your own. Given several "
    "times: one plan that fits them all.",
)
@click.option("--target", metavar="NAME", help="Compute target of the device, such as cpu or gpu.")
@click.option(
    "--model",
    default="mcunet-5fps",
    show_default=True,
    metavar="MODEL",
    help="A built-in network, package.module:factory, or an exported file.pt2.",
)
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights for the model."
)
@click.option("--resolution", type=int, metavar="N", help="Side of the images in pixels.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Images in one folder a class: a folder, .tar, .tar.gz or .zip. "
    "Without it: the handwritten digits inside scikit-learn.",
)
@click.option("--split", metavar="NAME", help="Sub-folder of the data, where it has several.")
@click.option("--ways", type=int, metavar="N", help="Classes of the task [default: up to 10].")
@click.option("--shots", type=int, default=5, show_default=True, help="Images of each class.")
@click.option(
    "--memory", type=Quantity("size", parse_bytes), metavar="SIZE", help="Such as 256KiB or 1MB."
)
@click.option(
    "--accounting",
    type=click.Choice(ACCOUNTINGS),
    help="What the memory budget counts [default: peak, every live byte of the step; arena: what "
    "an allocator with planned offsets needs for them].",
)
@click.option(
    "--macs",
    type=Quantity("macs", _macs_or_share),
    metavar="COUNT|PERCENT",
    help="Backward MACs of a step: 6.5M, or 15% of a full backward pass.",
)
@click.option(
    "--latency", type=Quantity("time", parse_seconds), metavar="TIME", help="Of a step: 2s, 80ms."
)
@click.option(
    "--energy", type=Quantity("energy", parse_joules), metavar="ENERGY", help="Of a step: 5J."
)
@click.option("--batch", type=int, default=1, show_default=True, help="Samples of a step.")
@click.option("--micro-batch", type=int, metavar="N", help="Samples of a pass [default: all].")
@click.option(
    "--recompute",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Cut the forward pass into N segments and compute all but the last a second time "
    "instead of keeping what their gradients need.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "momentum", "adam"]),
    default="sgd",
    show_default=True,
)
@click.option(
    "--bits",
    metavar="BITS",
    help="Bits an element: 8, or weights=8,gradients=32 [default: what is usual on the device].",
)
@click.option(
    "--criterion",
    default="fisher",
    show_default=True,
    help="What a channel is worth: fisher, l2_norm, weight_gradient, gradient_norm, "
    "first_order, first_order_adam, step_gain, random.",
)
@click.option(
    "--loss", type=click.Choice(["prototype", "cross_entropy"]), default="prototype",
    show_default=True, help="Loss whose gradients are used.",
)  # fmt: skip
@click.option(
    "--axis",
    type=click.Choice(
        ["output", "input", "both", "bias", "output+bias", "input+bias", "both+bias"]
    ),
    default="output",
    show_default=True,
    metavar="output|input|both[+bias]|bias",
    help="Which channels of a weight can be chosen; with +bias, biases too, each by itself.",
)
@click.option(
    "--inspect",
    type=Quantity("layers", _count_or_all),
    default="18",
    show_default=True,
    metavar="N|all",
    help="How many of the last layers are scored.",
)
@click.option(
    "--bias/--no-bias",
    "with_bias",
    default=False,
    show_default=True,
    help="Also update the biases of the chosen layers.",
)
@click.option(
    "--solver",
    default="exact",
    show_default=True,
    help="Who chooses: exact, greedy (the paper's), ilp, ilp-cbc, evolutionary, sparse-update, "
    "brute-force (tiny models only), none, last-layer, bias-only, full.",
)
@click.option(
    "--time-limit",
    type=Quantity("time", parse_seconds),
    metavar="TIME",
    help="For the exact solvers; then the plan is the best so far, and says how far from the best "
    "possible it may be [default: 10s where no --solver is given, else 60s].",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Also say what more of each budget would bring, and why layers were left out.",
)
@click.option(
    "--solve-for",
    type=click.Choice(["memory", "macs", "latency", "batch", "resolution", "device"]),
    help="Plan backwards: the smallest of these budgets, the largest batch or resolution, or the "
    "shipped device with the least memory, that reaches --share within the other budgets.",
)
@click.option(
    "--share",
    type=Quantity("percent", _share),
    metavar="PERCENT",
    help="Of the gain of updating every channel of every inspected layer: 90%.",
)
@click.option(
    "--iterations",
    type=int,
    default=40,
    show_default=True,
    help="Passes over the samples, for the estimate of the whole task.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the plan as JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON instead of tables.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a page to look at (HTML, nothing else needed).",
)
def command(**given: Any) -> int:
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
    for name in ("out", "report"):
        check_writable(given[name], f"--{name}")
    if given["out"] is not None and given["out"] == given["report"]:
        raise InputError(f"--out and --report are both {given['out']}; give each its own file")
    _check_sought(given)
    requests = _requests(given)
    from costsim.planfile import write_plan
    from costsim.planner import make_plan
    from costsim.report.summary import no_plan

    with progress_on_stderr() as progress:
        if given["solve_for"]:
            planned = _plan_backwards(given, requests, progress)
        elif len(requests) > 1:
            from costsim.fleet import make_fleet_plan

            planned = make_fleet_plan(requests, progress)
        else:
            planned = make_plan(requests[0], progress)
        if given["report"]:
            from costsim.report.page import render_page

            progress("drawing the report", 0, 0)
            page = render_page(planned.file, planned.graph, planned.importance)
            write_atomically(given["report"], page)
        if given["out"]:
            write_plan(given["out"], planned.file)
    for warning in planned.warnings:
        print(f"costsim: note: {warning}", file=sys.stderr)
    if given["as_json"]:
        click.echo(to_json_text(planned.file.to_json()))
    else:
        from rich.console import Console

        from costsim.report.table import render_plan

        render_plan(Console(), planned.file, planned.graph)
    if planned.solution.plan is None:
        print(f"costsim: {no_plan(planned.file.solver)}", file=sys.stderr)
        return 1
    if planned.file.sought is not None and planned.file.sought.value is None:
        print(f"costsim: {planned.file.sought.sentence}", file=sys.stderr)
        return 1
    return 0


PROVING = ("exact", "ilp", "ilp-cbc", "brute-force")


def _check_sought(given: dict[str, Any]) -> None:
    """Raise `InputError` for options that contradict each other or what is sought."""
    sought, share = given["solve_for"], given["share"]
    if sought is None:
        if share is not None:
            raise InputError("--share says how much --solve-for must reach, which is missing")
        return
    if share is None:
        raise InputError("--solve-for needs --share: how much of the full gain, such as 90%")
    context = click.get_current_context()

    def typed(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    if len(given["devices"]) == 1 if sought == "device" else typed(sought):
        raise InputError(f"--{sought} is given, but it is what --solve-for seeks; leave one out")
    if sought == "batch" and given["micro_batch"] is not None:
        raise InputError("--micro-batch fixes the samples of a pass, which --solve-for seeks")
    if sought == "device" and given["target"] is not None:
        raise InputError("--target is of one device, but --solve-for seeks the device")
    if typed("solver") and given["solver"] not in PROVING:
        raise InputError(
            f"--solve-for needs a solver that proves its answers; {given['solver']} does not, "
            f"{', '.join(PROVING)} do"
        )


def _requests(given: dict[str, Any]) -> "list[PlanRequest]":
    """What is asked: one request, or one a device where the device is sought."""
    devices = given["devices"] or (None,)
    sought = given["solve_for"]
    if len(devices) > 1 and given["explain"]:
        raise InputError("--explain is for one device; give one --device")
    if sought is not None and sought != "device" and len(devices) > 1:
        raise InputError(f"--solve-for {sought} is for one device; give one --device")
    if sought == "device" and not given["devices"]:
        from costsim.device import shipped_devices

        devices = tuple(shipped_devices())
    context = click.get_current_context()
    if (
        sought is None
        and given["time_limit"] is None
        and context.get_parameter_source("solver") is ParameterSource.DEFAULT
    ):
        given = {**given, "solver": None}
    return [plan_request({**given, "device": device}) for device in devices]


def _plan_backwards(
    given: dict[str, Any], requests: "list[PlanRequest]", progress: "Progress"
) -> "Planned":
    """The plan with what was sought, or with the greatest gain where nothing reaches the share."""
    from costsim.inverse import (
        BUDGETS,
        find_batch,
        find_budget,
        find_device,
        find_resolution,
        sentence,
    )
    from costsim.planfile import SoughtRecord
    from costsim.planner import conclude

    sought, share = given["solve_for"], given["share"]
    if sought in BUDGETS:
        found = find_budget(requests[0], sought, share, progress)
    elif sought == "device":
        found = find_device(requests, share, progress)
    else:
        find = find_batch if sought == "batch" else find_resolution
        found = find(requests[0], share, progress)
    planned = conclude(found.prepared, found.solution, progress)
    record = SoughtRecord(
        what=sought,
        share=share,
        value=found.value,
        reached=found.reached,
        proven=found.proven,
        sentence=sentence(found, sought, share),
    )
    return replace(planned, file=replace(planned.file, sought=record))


def plan_request(given: dict[str, Any]) -> Any:
    """The options as a `PlanRequest`; raises `InputError` for what no option allows."""
    from costsim.device import load_device
    from costsim.importance import SCORED_AXES
    from costsim.planner import BudgetRequest, PlanRequest, default_solver
    from costsim.solvers import make_solver
    from costsim.step import TrainingStep

    if given["device"] is None:
        raise InputError("--device is missing: the name of a shipped device or a YAML file")
    device = load_device(given["device"])
    for name, least, most in (("seed", 0, LARGEST_SEED), ("iterations", 1, LARGEST_COUNT)):
        if not least <= given[name] <= most:
            raise InputError(f"--{name} is {given[name]}; allowed are {least} to {most}")
    if given["split"] is not None and given["data"] is None:
        raise InputError("--split names a part of --data, which is missing")
    if given["solver"] is None:
        solver = default_solver()
    else:
        solver = make_solver(given["solver"], time_limit_s=given["time_limit"])
    bits = device.bits.usual
    macs, share = given["macs"] or (None, None)
    return PlanRequest(
        device=device,
        target=given["target"],
        solver=solver,
        model=given["model"],
        weights=given["weights"],
        resolution=given["resolution"],
        data=given["data"],
        split=given["split"],
        ways=given["ways"],
        shots=given["shots"],
        criterion=given["criterion"],
        loss=given["loss"],
        axes=SCORED_AXES[given["axis"]],
        inspect=given["inspect"],
        with_bias=given["with_bias"],
        step=TrainingStep(
            batch=given["batch"],
            micro_batch=given["micro_batch"],
            optimizer=given["optimizer"],
            bits=parse_bits(given["bits"], bits) if given["bits"] else bits,
        ),
        budget=BudgetRequest(
            memory_bytes=given["memory"],
            accounting=given["accounting"],
            macs=macs,
            macs_share=share,
            latency_s=given["latency"],
            energy_j=given["energy"],
        ),
        segments=given["recompute"],
        iterations=given["iterations"],
        seed=given["seed"],
        explain_with=_explainer(given) if given.get("explain") else None,
    )


def _explainer(given: dict[str, Any]) -> "Solver":
    """What answers the questions of an explanation, each in a moment or not at all."""
    from costsim.solvers import make_solver

    limit = given["time_limit"]
    solver: Solver = make_solver("exact", time_limit_s=EXPLAINING_S if limit is None else limit)
    return solver

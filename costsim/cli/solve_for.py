"""`--solve-for` of `costsim plan`: the least budget that does, instead of the plan for a budget."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import click

from costsim.base.errors import InputError
from costsim.cli.options import together
from costsim.cli.request import RequestOptions
from costsim.cli.signature import was_typed
from costsim.cli.values import Quantity, parse_share
from costsim.problem.budget import BUDGETS
from costsim.solvers import SOLVERS

if TYPE_CHECKING:
    from costsim.base.progress import Progress
    from costsim.planning import Planned, PlanRequest
    from costsim.solving.planfile.questions import Sought


@dataclass(frozen=True, kw_only=True)
class SoughtOptions(RequestOptions):
    """What is to be planned and by which solver, or what is sought instead."""

    solver: str
    solve_for: str | None
    share: float | None


solve_for_options = together(
    click.option(
        "--solve-for",
        type=click.Choice([*BUDGETS, "batch", "resolution", "device"]),
        help="Plan backwards: the smallest of these budgets, the largest batch or resolution, or "
        "the shipped device with the least memory, that reaches --share within the other budgets.",
    ),
    click.option(
        "--share",
        type=Quantity("percent", parse_share),
        metavar="PERCENT",
        help="Of the gain of updating every channel of every inspected layer: 90%.",
    ),
)


def check_sought(given: SoughtOptions) -> None:
    """Raise `InputError` for options that contradict each other or what is sought."""
    sought, share = given.solve_for, given.share
    if sought is None:
        if share is not None:
            raise InputError("--share says how much --solve-for must reach, which is missing")
        return
    if share is None:
        raise InputError("--solve-for needs --share: how much of the full gain, such as 90%")
    if len(given.devices) == 1 if sought == "device" else was_typed(sought):
        raise InputError(f"--{sought} is given, but it is what --solve-for seeks; leave one out")
    if sought == "batch" and given.micro_batch is not None:
        raise InputError("--micro-batch fixes the samples of a pass, which --solve-for seeks")
    if sought == "device" and given.target is not None:
        raise InputError("--target is of one device, but --solve-for seeks the device")
    proving = SOLVERS.tagged("proves")
    if was_typed("solver") and given.solver not in proving:
        raise InputError(
            f"--solve-for needs a solver that proves its answers; {given.solver} does not, "
            f"{', '.join(proving)} do"
        )


def plan_backwards(
    sought: str, share: float, requests: "list[PlanRequest]", progress: "Progress"
) -> "Planned":
    """The plan with what was sought, or with the greatest gain where nothing reaches the share."""
    from costsim.planning import conclude
    from costsim.planning.inverse import (
        find_batch,
        find_budget,
        find_device,
        find_resolution,
        sentence,
    )
    from costsim.solving.planfile import SoughtRecord

    if sought in BUDGETS:
        found = find_budget(requests[0], sought, share, progress)
    elif sought == "device":
        found = find_device(requests, share, progress)
    else:
        find = find_batch if sought == "batch" else find_resolution
        found = find(requests[0], share, progress)
    planned = conclude(found.prepared, found.solution, progress)
    record = SoughtRecord(
        what=cast("Sought", sought),
        share=share,
        value=found.value,
        reached=found.reached,
        proven=found.proven,
        sentence=sentence(found, sought, share),
    )
    return replace(planned, file=replace(planned.file, sought=record))

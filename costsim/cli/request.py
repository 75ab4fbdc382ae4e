"""What is to be planned: the options that `plan` and `pareto` share, and the request they make."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError
from costsim.base.units import parse_seconds
from costsim.cli import completion
from costsim.cli.model_options import (
    MODELS,
    model_option,
    model_spec,
    naming,
    resolution_option,
    weights_option,
)
from costsim.cli.options import (
    DEVICE,
    BudgetOptions,
    F,
    budget_options,
    budget_request,
    check_seed,
    loss_option,
    optimizer_option,
    target_option,
    together,
)
from costsim.cli.recipe import RecipeOptions
from costsim.cli.signature import was_typed
from costsim.cli.task_options import (
    TaskOptions,
    check_split,
    data_option,
    split_option,
    task_options,
)
from costsim.cli.values import Quantity, parse_bits, parse_count_or_all
from costsim.ir.recipe import Loss, Recipe
from costsim.ir.step import BitWidths, Optimizer
from costsim.problem.axes import SCORED_AXES
from costsim.problem.task_budget import TaskBudget
from costsim.run.criteria import CRITERIA

if TYPE_CHECKING:
    from costsim.device import DeviceSpec
    from costsim.planning import PlanRequest
    from costsim.problem.solution import Solver

LARGEST_COUNT = 10**9

EXPLAINING_S = 10.0
"""For each question of an explanation, where no time limit is given."""

step_options = together(
    click.option(
        "--batch",
        type=int,
        metavar="N",
        help="Samples of an optimizer step.  [default: all that an iteration shows; 1 on a "
        "microcontroller]",
    ),
    click.option(
        "--micro-batch",
        type=int,
        metavar="N",
        help="Samples of a pass.  [default: all of --batch where that is given, else 1]",
    ),
    click.option(
        "--recompute",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="Cut the forward pass into N segments and compute all but the last a second time "
        "instead of keeping what their gradients need.",
    ),
    optimizer_option(),
    click.option(
        "--bits",
        metavar="BITS",
        help="Bits an element: 8, or weights=8,gradients=32.  [default: what is usual on the "
        "device]",
    ),
)


choice_options = together(
    click.option(
        "--criterion",
        default="fisher",
        show_default=True,
        metavar="NAME",
        callback=naming,
        shell_complete=completion.of_registry(CRITERIA),
        help="What a channel is worth: one of the criteria below, or my.py:mine.",
    ),
    loss_option("Loss whose gradients are used."),
    click.option(
        "--axis",
        type=click.Choice(list(SCORED_AXES)),
        default="output",
        show_default=True,
        metavar="output|input|both[+bias]|bias",
        help="Which channels of a weight can be chosen; with +bias, biases too, each by itself.",
    ),
    click.option(
        "--inspect",
        type=Quantity("layers", parse_count_or_all),
        default="18",
        show_default=True,
        metavar="N|all",
        help="How many of the last layers are scored; with --layers all of them, unless given.",
    ),
    click.option(
        "--layers",
        multiple=True,
        metavar="PATTERN",
        help="Only layers of these names can be chosen, such as 'blocks.1?.*'; may be repeated.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Layers of these names cannot be chosen; may be repeated.",
    ),
    click.option(
        "--bias/--no-bias",
        "with_bias",
        default=False,
        show_default=True,
        help="Also update the biases of the chosen layers.",
    ),
)


def device_option(more: str = "") -> Callable[[F], F]:
    """`--device`, which may be given several times; `more` says what that means."""
    return click.option(
        "--device",
        "devices",
        multiple=True,
        metavar="NAME|FILE",
        shell_complete=completion.devices,
        help=f"{DEVICE}{more}",
    )


request_options = together(
    target_option,
    model_option(f"{MODELS}; or an exported file.pt2."),
    weights_option(),
    resolution_option,
    data_option(),
    split_option,
    task_options,
    budget_options("a step"),
    step_options,
    choice_options,
)


@dataclass(frozen=True, kw_only=True)
class RequestOptions(TaskOptions, BudgetOptions):
    """What `device_option`, `request_options`, `time_limit_option` and `seed_option` read."""

    devices: tuple[str, ...]
    target: str | None
    model: str
    model_args: tuple[str, ...]
    output: str | None
    weights: Path | None
    resolution: int | None
    data: Path | None
    split: str | None
    batch: int | None
    micro_batch: int | None
    recompute: int
    optimizer: Optimizer | None
    bits: str | None
    criterion: str
    loss: Loss
    axis: str
    inspect: int | None
    layers: tuple[str, ...]
    exclude: tuple[str, ...]
    with_bias: bool
    time_limit: float | None
    seed: int


time_limit_option = click.option(
    "--time-limit",
    type=Quantity("time", parse_seconds),
    metavar="TIME",
    help="For the exact solvers, by the clock; then the plan is the best so far, and says how far "
    "from the best possible it may be.  [default: 10s of processor time where no --solver is "
    "given, else 60s of it]",
)


def plan_request(
    given: RequestOptions,
    device: str | None,
    solver: str | None,
    *,
    recipe: RecipeOptions | None = None,
    explain: bool = False,
) -> "PlanRequest":
    """The options as a `PlanRequest` for one device; `solver` None: the usual one.

    Raises `InputError` for what no option allows.
    """
    from costsim.device import load_device
    from costsim.ir.recipe import CACHES
    from costsim.planning import PlanRequest, default_solver
    from costsim.solvers import make_solver

    if not device:
        told = "missing" if device is None else "empty"
        raise InputError(f"--device is {told}: the name of a shipped device or a YAML file")
    spec, drawing = load_device(device), given.drawing
    check_seed(given.seed)
    check_split(given.split, given.data)
    if solver is None:
        chooser = default_solver()
    else:
        chooser = make_solver(solver, time_limit_s=given.time_limit)
    return PlanRequest(
        device=spec,
        target=given.target,
        solver=chooser,
        model=model_spec(given),
        weights=given.weights,
        resolution=given.resolution,
        data=given.data,
        split=given.split,
        ways=drawing.ways,
        shots=drawing.shots,
        queries=drawing.queries,
        episode=drawing.episode,
        tracks=drawing.tracks,
        criterion=given.criterion,
        loss=given.loss,
        axes=SCORED_AXES[given.axis],
        inspect=_inspected(given),
        layers=given.layers,
        exclude=given.exclude,
        with_bias=given.with_bias,
        bits=_bits(given.bits, spec) if given.bits else spec.bits.usual,
        budget=budget_request(given),
        segments=given.recompute,
        recipe=_recipe(given, spec, recipe),
        caches=CACHES if recipe is None else recipe.caches,
        task_budget=TaskBudget() if recipe is None else recipe.task_budget(),
        pinned=frozenset() if recipe is None else recipe.pinned,
        seed=given.seed,
        explain_with=_explainer(given.time_limit) if explain else None,
    )


def _bits(typed: str, device: "DeviceSpec") -> BitWidths:
    """What was typed, completed where a microcontroller has kernels for no more than a part of it.

    One number is of everything; in 8 bits there are kernels for weights and activations alone.
    """
    found = parse_bits(typed, device.bits.usual)
    kernels = BitWidths(8, 8, 32, 32)
    if device.is_microcontroller and typed.strip() == "8" and found != kernels:
        print(
            f"costsim: note: --bits 8: gradients and optimizer state stay at 32 bits on "
            f"{device.name}, where there are kernels for no others",
            file=sys.stderr,
        )
        return kernels
    return found


def _recipe(given: RequestOptions, device: "DeviceSpec", more: RecipeOptions | None) -> Recipe:
    """What was typed of it, and else what is usual on the device."""
    from costsim.planning.request import usual_recipe

    usual = usual_recipe(device)
    batch = usual.batch if given.batch is None else given.batch
    micro = given.micro_batch
    if micro is None:
        micro = given.batch or 1
    parts: dict[str, Any] = {
        "optimizer": given.optimizer or usual.optimizer,
        "batch": batch,
        "micro_batch": micro,
    }
    return replace(usual, **parts) if more is None else more.recipe(**parts)


def _inspected(given: RequestOptions) -> int | None:
    """How many layers: all that were named, where nobody says how many of them."""
    return None if given.layers and not was_typed("inspect") else given.inspect


def _explainer(limit: float | None) -> "Solver":
    """What answers the questions of an explanation, each in a moment or not at all."""
    from costsim.solvers import make_solver

    solver: Solver = (
        make_solver("exact", time_limit_s=EXPLAINING_S, clock="processor")
        if limit is None
        else make_solver("exact", time_limit_s=limit)
    )
    return solver

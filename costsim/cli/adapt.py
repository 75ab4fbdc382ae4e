"""`costsim adapt`: one method on one task, from the choice of what to train to the accuracy."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from costsim.base.code import others_code
from costsim.base.errors import InputError
from costsim.base.files import to_json_text, write_atomically
from costsim.cli import completion
from costsim.cli.command import Command, typed_words
from costsim.cli.made import made_now
from costsim.cli.model_options import (
    MODELS,
    model_option,
    model_spec,
    naming,
    resolution_option,
    weights_option,
)
from costsim.cli.next_steps import tell_next
from costsim.cli.options import (
    DEVICE,
    BudgetOptions,
    augment_option,
    backend_option,
    budget_options,
    budget_request,
    check_seed,
    json_option,
    optimizer_option,
    page_option,
    path_option,
    seed_option,
    target_option,
)
from costsim.cli.outputs import check_outputs
from costsim.cli.progress import progress_on_stderr
from costsim.cli.recipe import RecipeOptions, recipe_options
from costsim.cli.signature import taking, was_typed
from costsim.cli.task_options import (
    IMAGES,
    WITHOUT_DATA,
    TaskOptions,
    check_hub,
    check_split,
    split_option,
    task_options,
)
from costsim.ir.step import Optimizer
from costsim.learning.adaptation.guard import GUARDS, make_guard
from costsim.learning.methods import METHODS, make_method
from costsim.run.native import Backend

if TYPE_CHECKING:
    from costsim.data import ImageSource, Progress
    from costsim.ir.recipe import Recipe
    from costsim.learning.adaptation.method import Method
    from costsim.learning.adaptation.one_task import Adapted


BESIDE_A_PLAN = frozenset(
    [
        "weights",
        "model",
        "model_args",
        "output",
        "queries",
        "guard",
        "torch_device",
        "backend",
        "out",
        "report",
        "as_json",
    ]
)
"""What can be said beside a plan: where things are, what is tested, and what is kept."""


@dataclass(frozen=True, kw_only=True)
class AdaptOptions(TaskOptions, BudgetOptions, RecipeOptions):
    """What was typed of `costsim adapt`."""

    plan: Path | None
    device: str | None
    target: str | None
    model: str
    model_args: tuple[str, ...]
    output: str | None
    weights: Path | None
    resolution: int | None
    data: str | None
    split: str | None
    method: str
    source: str | None
    source_tasks: int | None
    guard: str | None
    optimizer: Optimizer | None
    learning_rate: float | None
    augment: bool
    seed: int
    torch_device: str
    backend: Backend
    out: Path | None
    plan_out: Path | None
    report: Path | None
    as_json: bool


@click.command("adapt", cls=Command, listed={"Methods": METHODS.entries, "Guards": GUARDS.entries})
@click.argument("plan", type=click.Path(path_type=Path), required=False)
@click.option("--device", metavar="NAME|FILE", shell_complete=completion.devices, help=DEVICE)
@target_option
@model_option(f"{MODELS}, that returns features.")
@weights_option()
@resolution_option
@click.option(
    "--data",
    metavar="PATH",
    help=f"{IMAGES}. {WITHOUT_DATA}",
)
@split_option
@task_options
@click.option(
    "--method",
    default="TinyTrain (exact)",
    show_default=True,
    metavar="NAME",
    callback=naming,
    shell_complete=completion.of_registry(METHODS),
    help="What is trained: one of the methods below, in any case of letters, or my.py:Mine.",
)
@click.option(
    "--source",
    metavar="PATH",
    help="Other images, as --data, or digits: those inside scikit-learn. A method that chooses "
    f"the same for all tasks does so by tasks of these: {', '.join(METHODS.tagged('source'))}.",
)
@click.option("--source-tasks", type=int, metavar="N", help="So many of them.  [default: 10]")
@click.option(
    "--guard",
    default=None,
    metavar="NAME",
    shell_complete=completion.of_registry(GUARDS),
    help="How much of the change is kept, so that it does no harm: one of the guards below.  "
    "[default: shrink for GainTrain, else none]",
)
@budget_options("an iteration")
@recipe_options("Steps, each over the images that it shows.")
@optimizer_option()
@click.option(
    "--learning-rate",
    type=float,
    metavar="RATE",
    help="Of the optimizer.  [default: the method's, which is for adam]",
)
@augment_option
@seed_option
@click.option(
    "--torch-device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Where torch runs it here, such as cuda; no matter what is priced.",
)
@path_option("--out", help="Write the patch there.")
@path_option("--plan-out", help="Write the plan there.")
@backend_option
@page_option()
@json_option()
@taking(AdaptOptions)
def command(given: AdaptOptions) -> int:
    """Adapt a network to one task: choose what to train, train it, and measure the accuracy.

    An iteration is one optimizer step on the images that it shows, priced on the device one image
    at a time; on a microcontroller it is a step for each of them. What is chosen, and how it is
    trained, is what costsim plan and costsim train do, unless another method is named. With PLAN,
    made by either, all of that is the plan's, and the images must still be those that it was made
    for. The exit status is 1 if nothing fits in the budgets, or if the training diverged and the
    network was left as it was.

    \b
    Examples
      costsim adapt plan.json --guard 2-fold
      costsim adapt --device jetson-nano --weights mcunet.safetensors --data signs.zip
      costsim adapt --device jetson-nano --method gaintrain --episode meta-dataset --seed 3
      costsim adapt --device jetson-nano --method "SparseUpdate (search)" --source photos.zip::val
    """
    check_outputs({"--out": given.out, "--plan-out": given.plan_out, "--report": given.report})
    if given.plan is None and given.device is None:
        raise InputError("--device is missing: the name of a shipped device or a YAML file")
    check_split(given.split, given.data)
    for path in (given.data, given.source):
        check_hub(path)
    check_seed(given.seed)

    from costsim.learning.adaptation.method import NothingFits
    from costsim.models.networks import NETWORKS
    from costsim.problem.importance import left_frozen
    from costsim.run.criteria.caveats import data_caveat

    with progress_on_stderr() as progress:
        try:
            adapted = (
                _adapted(given, str(given.device), progress)
                if given.plan is None
                else _by_plan(given, given.plan, progress)
            )
        except NothingFits as error:
            print(f"costsim: {error}", file=sys.stderr)
            return 1
        if adapted.patch is not None and given.out is not None:
            from costsim.learning.training import write_patch

            write_patch(given.out, adapted.patch)
        elif given.out is not None:
            print(
                f"costsim: note: {adapted.method} trains nothing: no patch to write to --out",
                file=sys.stderr,
            )
        if given.plan_out is not None:
            from costsim.solving.planfile import write_plan

            write_plan(given.plan_out, adapted.plan)
            if told := adapted.beside_the_plan:
                print(f"costsim: note: {given.plan_out}: {told}", file=sys.stderr)
    if told := left_frozen(adapted.situation.graph):
        print(f"costsim: note: {told}, and are not trained", file=sys.stderr)
    planned = adapted.situation.planned
    told_model = model_spec(given) if planned is None else planned.model.spec
    data = given.data if planned is None else planned.task.data
    own = data_caveat(told_model, built_in=told_model in NETWORKS, given=data is not None)
    notes = (*adapted.notes, *((own,) if own else ()))
    for note in notes:
        print(f"costsim: note: {note}", file=sys.stderr)
    if given.report is not None:
        from costsim.cli.adapted_table import adapted_rows
        from costsim.report.adaptation_page import render_adaptation_page

        rows = adapted_rows(adapted, given.out)
        page = render_adaptation_page(adapted, rows, notes, made_now())
        write_atomically(given.report, page)
    if given.as_json:
        click.echo(to_json_text(adapted.to_json()))
    else:
        from costsim.cli.adapted_table import adapted_table
        from costsim.cli.console import Console

        Console().print(adapted_table(adapted, given.out))
    if adapted.diverged:
        print(
            f"costsim: the training diverged at a learning rate of {adapted.learning_rate:g}: the "
            "network was left as it was; try a smaller --learning-rate",
            file=sys.stderr,
        )
        return 1
    tell_next(*_next(given, adapted), as_json=given.as_json)
    return 0


def _next(given: AdaptOptions, adapted: "Adapted") -> list[tuple[str | Path, ...]]:
    """What to do with what was learnt; first of all to keep it."""
    out = given.out
    if out is None:
        trains = bool(adapted.losses)
        return [(*typed_words(), "--out", "patch.safetensors")] if trains else []
    adapted_file = out.with_name(f"{out.stem}-adapted.safetensors")
    return [] if adapted.patch is None else [("apply", out, "--out", adapted_file)]


def _check_left_to(plan: Path) -> None:
    """Raise `InputError` for what was typed beside a plan that says it."""
    context = click.get_current_context()
    for option in context.command.params:
        name = str(option.name)
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if typed and isinstance(option, click.Option) and name not in BESIDE_A_PLAN:
            raise InputError(
                f"{option.opts[0]}: {plan} says that; leave it out, or plan anew with costsim plan"
            )


def _by_plan(given: AdaptOptions, path: Path, progress: "Progress") -> "Adapted":
    from costsim.cli.planned import given_plan
    from costsim.learning.adaptation.one_task import adapt
    from costsim.learning.adaptation.planned import Planned, planned_situation

    plan = given_plan(path, (model_spec(given),) if was_typed("model") else ())
    _check_left_to(path)
    situation = planned_situation(
        plan,
        str(path),
        weights=given.weights,
        queries=given.queries,
        torch_device=given.torch_device,
        backend=given.backend,
        progress=progress,
    )
    guard = None if given.guard is None else make_guard(given.guard)
    method = Planned(plan, str(path), situation.recipe.rate)
    progress(f"adapting: {method.name}", 0, 0)
    return adapt(situation, method, guard=guard, with_patch=given.out is not None)


def _adapted(given: AdaptOptions, device: str, progress: "Progress") -> "Adapted":
    from costsim.data import draw_task, resolution_and_channels
    from costsim.device import load_device
    from costsim.learning.adaptation.drawn import Drawn
    from costsim.learning.adaptation.one_task import adapt
    from costsim.learning.adaptation.place import Place
    from costsim.learning.adaptation.situation import Situation
    from costsim.learning.adaptation.source import source_situations
    from costsim.learning.training.backbone import load_backbone
    from costsim.planning.request import DEFAULT_SOURCE_TASKS, folds_batch_norm, usual_recipe

    method = make_method(given.method)
    guard = None if given.guard is None else make_guard(given.guard)
    _check_source(given, method)
    spec = load_device(device)
    place = Place(
        spec, given.target, budget_request(given), given.caches, given.task_budget(), given.pinned
    )
    _ = place.target  # a name that the device lacks is an error before any work
    usual = usual_recipe(spec)
    recipe = given.recipe(
        optimizer=given.optimizer or usual.optimizer,
        batch=usual.batch,
        augment=given.augment,
        seed=given.seed,
    )
    source = _images(given.data, given.split, progress)
    others = _images(given.source, None, progress) if method.needs_source else None
    progress("loading the model", 0, 0)
    backbone = load_backbone(
        model_spec(given),
        weights=given.weights,
        resolution=given.resolution,
        seed=given.seed,
        device=given.torch_device,
        backend=given.backend,
        fold=folds_batch_norm(spec, place.bits),
    )
    resolution, channels = resolution_and_channels(backbone.input_shape)
    drawing = given.drawing.settled(source)
    task = draw_task(
        source,
        drawing,
        seed=given.seed,
        resolution=resolution,
        channels=channels,
        progress=progress,
    )
    typed = None if given.data is None or _ship(given.data) else given.data
    drawn = Drawn(typed, given.split, drawing)
    situation = Situation(backbone, task, place, recipe, progress, drawn=drawn)
    if others is not None:
        rule, tasks = given.drawing.settled(others).rule, given.source_tasks
        situations = source_situations(
            backbone,
            others,
            rule,
            place,
            recipe,
            tasks=DEFAULT_SOURCE_TASKS if tasks is None else tasks,
            progress=progress,
        )
        with others_code(f"method {method.name}"):
            method = method.informed(situations)
    progress(f"adapting: {method.name}", 0, 0)
    return adapt(
        situation,
        method,
        learning_rate=_rate(given.learning_rate, recipe),
        guard=guard,
        with_patch=given.out is not None,
    )


def _rate(typed: float | None, recipe: "Recipe") -> float | None:
    """That of the method, which is for Adam over an iteration, unless steps are of another kind."""
    of_methods = recipe.optimizer == "adam" and recipe.batch is None
    return typed if typed is not None or of_methods else recipe.rate


def _check_source(given: AdaptOptions, method: "Method") -> None:
    if method.needs_source and given.source is None:
        raise InputError(
            f"--method {method.name} chooses by tasks of other images; give them as --source"
        )
    for option, value in (("--source", given.source), ("--source-tasks", given.source_tasks)):
        if value is not None and not method.needs_source:
            raise InputError(
                f"{option} is for methods that choose the same for all tasks; "
                f"{method.name} does not"
            )
    if given.source_tasks is not None and given.source_tasks < 1:
        raise InputError(f"--source-tasks is {given.source_tasks}; at least 1 is needed")


def _images(path: str | None, split: str | None, progress: "Progress") -> "ImageSource":
    from costsim.data import digits, open_source

    return digits() if path is None or _ship(path) else open_source(path, split, progress)


def _ship(path: str) -> bool:
    """Whether it names the images that need no file."""
    return path == "digits" and not Path(path).exists()

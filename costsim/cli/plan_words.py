"""The options of `costsim plan` that a plan was made with, as far as its file says."""

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from costsim.base.errors import InputError
from costsim.ir.recipe import Recipe
from costsim.problem.axes import SCORED_AXES

if TYPE_CHECKING:
    from costsim.solving.planfile import PlanFile

SPARED = ("image_interval", "means_interval", "copies")
"""Of a recipe, what a budget of the task may have changed."""


def words_of(plan: "PlanFile", path: Path) -> dict[str, tuple[str, ...]]:
    """The words of each option, by its name; none for what is as usual.

    Raises `InputError` for a plan that no options of one device make, and for one that names code
    that nobody named.
    """
    if plan.fleet:
        raise InputError(f"{path}: is a plan for several devices; a page begins with one")
    values = {**_asked(plan, path), **_step(plan), **_budgets(plan), **_recipe(plan, path)}
    words = {
        name: tuple(word for one in given for word in (f"--{name}", str(one)))
        for name, value in values.items()
        if (given := value if isinstance(value, tuple) else (value,)) != (None,)
    }
    if plan.plan.biases and not any(one.axis == "bias" for one in plan.importance.layers):
        words["bias"] = ("--bias",)
    if not plan.task.tracks:
        words["tracks"] = ("--no-tracks",)
    return words


def _asked(plan: "PlanFile", path: Path) -> dict[str, object]:
    """Of what, by what and among what."""
    from costsim.base.trust import check_named
    from costsim.device import shipped_devices
    from costsim.solving.planfile import WEIGHTS, data_found_again, found_again, model_found_again

    source, model, task = str(path), plan.model, plan.task
    axes = {one.axis for one in plan.importance.layers}
    layers = {one.name for one in plan.importance.layers}
    named = plan.candidates
    device = None if plan.device is None else plan.device.name
    shipped = device in shipped_devices()
    weights, fixed = model.weights, task.episode == "fixed"
    return {
        "device": device if shipped else None,
        "target": None if plan.device is None else plan.device.target,
        "model": model_found_again(check_named(model.spec, source), source),
        "weights": weights and found_again(weights, source, "model.weights", WEIGHTS),
        "resolution": model.resolution,
        "data": task.data and data_found_again(task.data, source),
        "split": task.split,
        "ways": task.ways if fixed else None,
        "shots": task.shots if fixed else None,
        "queries": task.queries,
        "episode": None if fixed else task.episode,
        "criterion": check_named(plan.importance.criterion, source, "--criterion"),
        "loss": plan.loss,
        "axis": next((name for name, of in SCORED_AXES.items() if {*of} == axes), None),
        "inspect": len(layers),
        "layers": () if named is None else named.layers,
        "exclude": () if named is None else named.exclude,
        "seed": plan.seed,
    }


def _step(plan: "PlanFile") -> dict[str, object]:
    step, recipe = plan.step, plan.recipe
    return {
        "bits": ",".join(f"{name}={bits}" for name, bits in asdict(step.bits).items()),
        "optimizer": step.optimizer,
        "batch": recipe.batch,
        "micro-batch": step.samples_a_pass,
        "recompute": len(step.recompute) + 1,
    }


def _budgets(plan: "PlanFile") -> dict[str, object]:
    step, task = plan.budget, plan.task_budget
    return {
        "memory": step.memory_bytes,
        "accounting": step.accounting,
        "macs": step.macs,
        "latency": step.latency_s,
        "energy": step.energy_j,
        "task-time": task.latency_s,
        "task-energy": task.energy_j,
        "task-macs": task.macs,
        "storage": task.storage_bytes,
    }


def _recipe(plan: "PlanFile", path: Path) -> dict[str, object]:
    """The recipe but for what was chosen: its cut and cache, and what a budget of the task spared.

    What has no option is said, where it is not as usual.
    """
    recipe, usual = plan.recipe, Recipe()
    chosen = {"cut", "cache_in", *(SPARED if plan.task_budget else ())}
    options = {"iterations", *SPARED, "batch", "micro_batch", "optimizer", "loss", "seed"}
    others = [
        field.name
        for field in fields(Recipe)
        if field.name not in chosen | options
        and getattr(recipe, field.name) != getattr(usual, field.name)
    ]
    if others:
        print(
            f"costsim: note: {path}: recipe.{others[0]} is not taken over: the page plans with "
            f"the usual one",
            file=sys.stderr,
        )
    taken = [name for name in ("iterations", *SPARED) if name not in chosen]
    return {
        name.replace("_", "-"): value
        for name in taken
        if (value := getattr(recipe, name)) != getattr(usual, name)
    }

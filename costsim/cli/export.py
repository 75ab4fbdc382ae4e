"""`costsim export`: the training step of a plan as C for a microcontroller."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text
from costsim.base.units import format_bytes
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.model_options import moved_weights_option, named_models_option
from costsim.cli.next_steps import tell_next
from costsim.cli.options import json_option, momentum_option, path_option, plan_argument
from costsim.cli.planned import given_plan
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking
from costsim.cli.task_options import data_option, split_option

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from costsim.c.emission import EmissionOptions, Quantization, Sizes
    from costsim.ir.program import TrainingProgram
    from costsim.learning.training.base_model import Subject
    from costsim.solving.planfile import PlanFile

LANGUAGES = ("c",)
SHOTS = 2
"""Images of each class that 8-bit scales are taken from, where others than the plan's are given."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What was typed of `costsim export`."""

    plan: Path
    language: str
    out: Path
    weights: Path | None
    named_models: tuple[str, ...]
    data: Path | None
    split: str | None
    learning_rate: float | None
    momentum: float
    prefix: str
    device: str | None
    as_json: bool


@click.command("export", cls=Command)
@plan_argument
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="c",
    show_default=True,
    help="The language to write it in.",
)
@path_option(
    "--out",
    required=True,
    metavar="DIR",
    help="Write the sources into this new folder; an earlier export there is replaced.",
)
@moved_weights_option
@named_models_option
@data_option(
    "Images that 8-bit scales are taken from, in one folder a class. Without it: those of the "
    "task that the plan was made for."
)
@split_option
@click.option(
    "--learning-rate",
    type=float,
    metavar="RATE",
    help="Where costsim_learning_rate starts.  [default: what is usual for the plan's optimizer]",
)
@momentum_option
@click.option(
    "--prefix",
    default="costsim",
    show_default=True,
    metavar="NAME",
    help="Begin the names of this model's functions, macros and files with it: a second model in "
    "the same program needs another.",
)
@click.option(
    "--device",
    metavar="NAME|FILE",
    shell_complete=completion.devices,
    help="Whose flash it must fit in, a shipped device or a YAML file.  [default: the plan's]",
)
@json_option()
@taking(ExportOptions)
def command(given: ExportOptions) -> int:
    """Write the training step of PLAN as self-contained C99, weights included.

    Buffers lie in one static arena at planned offsets, frozen weights in flash. Nothing is
    allocated and no C library is needed; the README in the folder says how to build it. The step
    is in the plan's bit widths: 32, or 8 of weights and activations, whose scales are those of a
    published int8 network if that is what the weights are, else taken from images. It learns by
    what the plan was made for: class means (its own classes, any number of them up to the plan's
    --ways), or cross entropy over the logits that the model returns.

    \b
    Examples
      costsim plan --device stm32f746 --out plan.json
      costsim export plan.json --out firmware
    """
    from costsim.c.emission.folder import check_folder, write_folder
    from costsim.c.emission.prefix import check_prefix, prefixed

    out = given.out
    check_folder(out)
    check_prefix(given.prefix)

    plan = given_plan(given.plan, given.named_models)

    from costsim.c.emission import EmissionOptions, Sizes, check_step, emit, is_narrow
    from costsim.hardware.boards.scales import find_scales
    from costsim.learning.training.base_model import load_planned
    from costsim.learning.training.device_patch import PLAN

    rate = given.learning_rate
    recipe = (
        plan.recipe
        if plan.loss is not None
        else replace(plan.recipe, loss="cross_entropy", means_interval=1)
    )
    options = EmissionOptions.of_recipe(
        recipe,
        plan.task.ways,
        name=plan.model.name,
        learning_rate=plan.recipe.rate if rate is None else rate,
        momentum=given.momentum,
    )
    scales = told = None
    with progress_on_stderr() as progress:
        progress("loading the model", 0, 0)
        subject, program = load_planned(plan, str(given.plan), given.weights)
        arrays = {name: tensor.detach().numpy() for name, tensor in subject.tensors.items()}
        try:
            check_step(program.graph, plan.step)
            if is_narrow(plan.step.bits):
                progress("taking scales", 0, 0)
                scales, told = find_scales(
                    program.graph,
                    subject.tensors,
                    lambda: _images(given, plan, subject),
                    subject.weights,
                    f" of {'the task of the plan' if given.data is None else given.data}",
                )
            progress("writing C", 0, 0)
            files = emit(program, arrays, options=options, quantization=scales)
            progress("computing test vectors", 0, 0)
            files |= _vectors(program, subject, arrays, options, scales)
        except InputError as error:
            raise InputError(f"{given.plan}: {error}") from error
        files[PLAN] = to_json_text(plan.to_json())
        _check_flash(plan, given.device, Sizes.of_files(files))
        files = prefixed(files, given.prefix)
        write_folder(out, files)
    for note in (*_notes(plan), *((told,) if told is not None else ())):
        print(f"costsim: note: {note}", file=sys.stderr)
    sizes = Sizes.of_files(files)
    if given.as_json:
        document = {
            "schema": "costsim.exported/1",
            "plan": str(given.plan),
            "model": plan.model.name,
            "folder": str(out),
            "files": sorted(files),
            "scales": told,
            "sizes": sizes.to_json(),
        }
        click.echo(to_json_text(document))
    else:
        click.echo(f"{plan.model.name}: {len(files)} files in {out}")
        _show(sizes)
    tell_next(("validate", given.plan, "--on", "unicorn:cortex-m7"), as_json=given.as_json)
    return 0


def _vectors(
    program: "TrainingProgram",
    subject: "Subject",
    arrays: Mapping[str, "NDArray[Any]"],
    options: "EmissionOptions",
    scales: "Quantization | None",
) -> dict[str, str | bytes]:
    """A program that checks a build, and what it compares with: in floats what PyTorch computes."""
    import torch

    from costsim.c.emission.emit import check_source
    from costsim.c.emission.vectors import loss_of, made_up, reference_vectors, vectors_header
    from costsim.run.execution.forward import evaluate

    if scales is not None:
        outputs, loss = reference_vectors(program, arrays, scales, options)
    else:
        with torch.no_grad():
            given = [torch.from_numpy(made_up(program, image)) for image in (0, 1)]
            first, second = (evaluate(program.graph, subject.tensors, x)[0].numpy() for x in given)
        outputs, loss = first, loss_of(first, second, options)
    bits = program.step.bits.activations
    return {
        "costsim_check.c": check_source(),
        "costsim_vectors.h": vectors_header(outputs, loss, bits, options),
    }


def _notes(plan: "PlanFile") -> Iterator[str]:
    """What the C does otherwise than the plan says."""
    from costsim.c.emission.support import told_of_loss

    if plan.loss is None:
        yield from told_of_loss(plan.loss)
    if plan.recipe.cut is not None:
        yield (
            f"the plan keeps values of {plan.recipe.cut!r} in {plan.recipe.cache_in}; the C "
            "computes them anew in every iteration, which changes no result and takes longer"
        )
    if plan.recipe.augment:
        yield (
            "the plan shows changed copies of the images; the C shows what its `show` gives it, "
            "changed or not"
        )


def _show(sizes: "Sizes") -> None:
    for what, size in (
        ("arena (RAM)", sizes.arena_bytes),
        ("  updated weights", sizes.updated_weight_bytes),
        ("  optimizer state", sizes.optimizer_bytes),
        *((("class means (RAM)", sizes.class_means_bytes),) if sizes.class_means_bytes else ()),
        ("frozen weights (flash)", sizes.frozen_weight_bytes),
        ("initial values of updated weights (flash)", sizes.initial_weight_bytes),
        ("tables (flash)", sizes.table_bytes),
    ):
        click.echo(f"  {what:<42} {size:>12,} B  {format_bytes(size)}")


def _images(given: ExportOptions, plan: "PlanFile", subject: "Subject") -> "Tensor":
    """What 8-bit scales are taken from: the plan's task, or a few images of each class of others.

    Raises `InputError` where the plan's images are not there any more.
    """
    import torch

    from costsim.data import classes_of, open_source, resolution_and_channels, sample_task
    from costsim.learning.training.planned_task import draw_planned_task
    from costsim.learning.training.train_request import TrainRequest
    from costsim.planning import DEFAULT_WAYS

    if given.data is None:
        request = TrainRequest(plan, str(given.plan), split=given.split, queries=0)
        return torch.tensor(draw_planned_task(request, subject).images)
    source = open_source(given.data, given.split)
    resolution, channels = resolution_and_channels(subject.input_shape)
    task = sample_task(
        source,
        ways=min(DEFAULT_WAYS, len(classes_of(source, SHOTS))),
        shots=SHOTS,
        seed=plan.seed,
        resolution=resolution,
        channels=channels,
    )
    return torch.tensor(task.images)


def _check_flash(plan: "PlanFile", named: str | None, sizes: "Sizes") -> None:
    """Refuse what the device has no flash for; warn where little is left for code."""
    from costsim.device import load_device

    if named is not None:
        device = load_device(named)
    elif plan.device_spec is None or not plan.device_spec.is_microcontroller:
        return
    else:
        device = plan.device_spec
    regions = [region.size_bytes for region in device.memory.values() if region.kind == "flash"]
    if not regions:
        raise InputError(f"--device: {device.name} has no flash, where exported weights lie")
    needed, size = sizes.flash_bytes, max(regions)
    if needed > size:
        raise InputError(
            f"{plan.model.name} is too large for {device.name}: weights and tables take "
            f"{needed:,} bytes of flash, of which there are {size:,}"
        )
    if needed > device.flash_bytes:
        print(
            f"costsim: warning: weights and tables take {needed:,} of {size:,} bytes of the flash "
            f"of {device.name}: only {size - needed:,} are left for code, which is "
            "expected to take more",
            file=sys.stderr,
        )

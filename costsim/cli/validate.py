"""`costsim validate`: run a plan's step or adaptation and compare it with what was predicted."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text
from costsim.cli.command import Command
from costsim.cli.made import made_now
from costsim.cli.model_options import moved_weights_option, named_models_option
from costsim.cli.options import (
    check_positive,
    check_writable,
    json_option,
    page_option,
    path_option,
    plan_argument,
    threads_option,
)
from costsim.cli.planned import given_plan
from costsim.cli.progress import progress_on_stderr
from costsim.cli.signature import taking, was_typed
from costsim.cli.task_options import data_option, split_option

if TYPE_CHECKING:
    from costsim.hardware.boards.unicorn import UnicornTarget
    from costsim.hardware.meters.plan_validation import ValidationRequest
    from costsim.hardware.results.adaptation_validation import AdaptationExtent
    from costsim.hardware.results.record import Measurement, Validation
    from costsim.solving.planfile import PlanFile


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """What was typed of `costsim validate`."""

    plan: Path
    data: Path | None
    split: str | None
    weights: Path | None
    named_models: tuple[str, ...]
    target: str | None
    adaptation: Literal["small", "full"] | None
    steps: int
    threads: int
    out: Path | None
    measurement: Path | None
    validation: Path | None
    report: Path | None
    as_json: bool


@click.command("validate", cls=Command)
@plan_argument
@data_option()
@split_option
@moved_weights_option
@named_models_option
@click.option(
    "--on",
    "target",
    metavar="TARGET",
    help="Run it there: unicorn:cortex-m7, an emulated core with the memory of the plan's device.  "
    "[default: this machine]",
)
@click.option(
    "--adaptation",
    type=click.Choice(("small", "full")),
    help="Run the whole adaptation instead of one step: scoring, caching, class means, training, "
    "answering. small: each a few times, with --on so many iterations; full: as often as planned.",
)
@click.option(
    "--steps",
    type=int,
    default=10,
    show_default=True,
    metavar="N",
    help="Steps to time; with --adaptation small, runs of each phase.",
)
@threads_option
@path_option(
    "--out",
    metavar="DIR",
    help="Write measurement.json and validation.json into this folder; with --adaptation the "
    "latter alone.",
)
@path_option("--measurement", help="Write what was measured there.")
@path_option("--validation", help="Write measured beside predicted there.")
@page_option("With --on: write a page with planned against touched memory over time.")
@json_option()
@taking(ValidateOptions)
def command(given: ValidateOptions) -> int:
    """Run the training step of PLAN on this machine and compare it with the prediction.

    Bytes that are kept, of gradients and of optimizer state, the live peak and the MACs must be
    equal; the process's peak, the kernels' scratch memory included, within 2 %. The exit status
    is 1 if anything is outside. Seconds are shown, not judged: this machine is not the device.

    With --adaptation all that the plan's recipe says is run, on the plan's own images: the bytes
    that are live in every phase, those kept in flash and storage, the MACs of every phase by cause
    and how often it is run must be equal. It is run once to be timed, and once more to be counted.

    On the emulated core the step runs in the plan's own bit widths, inside exactly the memory of
    the device: bytes touched and MACs executed must be equal, in 32 bits losses and weights
    PyTorch's, in 8 bits every bit that of a numpy reference. With --adaptation too, the plan's task
    is learnt by the same C, compiled for this machine and seen to give the bits of the core: its
    accuracy on query images must be PyTorch's in 32 bits, within two points and chance.

    \b
    Examples
      costsim plan --device jetson-nano --out plan.json
      costsim validate plan.json
      costsim validate plan.json --steps 100 --out results
      costsim validate plan.json --adaptation small
      costsim validate plan.json --adaptation full --validation adaptation.json
      costsim validate plan.json --on unicorn:cortex-m7 --report emulated.html
    """
    _check_adaptation(given)
    files = _files(given)
    check_positive(steps=given.steps, threads=given.threads)

    plan = given_plan(given.plan, given.named_models)
    if given.target is not None:
        if given.adaptation is not None:
            return _learnt(given.target, plan, given, files["validation"])
        return _emulated(given.target, plan, given, files)
    if given.report is not None:
        raise InputError("--report: of a plan run on this machine there is none; give --on")
    # Read when torch loads: its libraries keep pools of their own threads.
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    if given.adaptation is not None:
        return _adapted(given.adaptation, plan, given, files["validation"])
    from costsim.hardware.meters.plan_validation import validate_plan

    with progress_on_stderr() as progress:
        measurement, validation = validate_plan(_request(plan, given), progress)
    return _tell(measurement, validation, files, as_json=given.as_json)


def _check_adaptation(given: ValidateOptions) -> None:
    """Raise `InputError` for what --adaptation has no part in."""
    if given.adaptation is None:
        return
    if given.target is not None and given.report is not None:
        raise InputError("--report: of a step; with --adaptation there is none")
    if given.measurement is not None:
        raise InputError(
            "--measurement: of a step; what --adaptation measures is in what --validation writes"
        )
    if given.adaptation == "full" and was_typed("steps"):
        raise InputError("--steps: --adaptation full runs as often as the plan says")


def _adapted(
    extent: "AdaptationExtent", plan: "PlanFile", given: ValidateOptions, path: Path | None
) -> int:
    """The same of the whole adaptation."""
    from costsim.hardware.meters.adaptation.validation import validate_adaptation

    with progress_on_stderr() as progress:
        validation = validate_adaptation(_request(plan, given), extent, progress)
    if path is not None:
        validation.write(path)
    if given.as_json:
        _tell_json(validation)
    else:
        from costsim.cli.console import Console
        from costsim.report.adaptation_validation import render_adaptation

        render_adaptation(Console(), validation)
    return 0 if validation.ok else 1


def _tell_json(validation: "Validation") -> None:
    for note in validation.notes:
        print(f"costsim: note: {note}", file=sys.stderr)
    click.echo(to_json_text(validation.to_json()))


def _request(plan: "PlanFile", given: ValidateOptions) -> "ValidationRequest":
    from costsim.hardware.meters.plan_validation import ValidationRequest

    return ValidationRequest(
        plan=plan,
        source=str(given.plan),
        weights=given.weights,
        data=given.data,
        split=given.split,
        steps=given.steps,
        threads=given.threads,
    )


def _tell(
    measurement: "Measurement",
    validation: "Validation",
    files: Mapping[str, Path | None],
    *,
    as_json: bool,
) -> int:
    """Write and print what was found; the exit status."""
    for name, document in (("measurement", measurement), ("validation", validation)):
        if path := files[name]:
            document.write(path)
    if as_json:
        _tell_json(validation)
    else:
        from costsim.cli.console import Console
        from costsim.report.validation import render_validation

        render_validation(Console(), validation)
    return 0 if validation.ok else 1


def _learnt(place: str, plan: "PlanFile", given: ValidateOptions, path: Path | None) -> int:
    """A whole task learnt by the C that a core runs, beside PyTorch."""
    from costsim.hardware.boards.learning_validation import validate_learning

    target = _core(place)
    iterations = given.steps if given.adaptation == "small" else None
    with progress_on_stderr() as progress:
        validation = validate_learning(target, _request(plan, given), iterations, progress)
    if path is not None:
        validation.write(path)
    if given.as_json:
        _tell_json(validation)
    else:
        from costsim.cli.console import Console
        from costsim.report.validation import render_validation

        render_validation(Console(), validation)
    return 0 if validation.ok else 1


def _core(place: str) -> "UnicornTarget":
    """The emulated core that was named."""
    from costsim.hardware.boards.unicorn import UnicornTarget
    from costsim.hardware.targets.base import TargetOptions, parse_target

    target = parse_target(place, TargetOptions())
    if not isinstance(target, UnicornTarget):
        raise InputError(f"--on {target.name}: allowed is unicorn:cortex-m7 (see costsim measure)")
    return target


def _emulated(
    place: str, plan: "PlanFile", given: ValidateOptions, files: Mapping[str, Path | None]
) -> int:
    """The same on an emulated core."""
    check_writable(given.report, "--report")
    from costsim.hardware.boards.emulation_validation import validate_emulated
    from costsim.hardware.targets.base import TargetError

    target = _core(place)
    try:
        with progress_on_stderr() as progress:
            found = validate_emulated(target, _request(plan, given), progress)
    except TargetError as error:
        if error.reason != "memory":
            raise
        print(f"costsim: {error}", file=sys.stderr)
        return 1
    if given.report is not None:
        from costsim.report.emulation import write_emulation_page

        write_emulation_page(given.report, found.validation, found.step, made_now())
    return _tell(found.measurement, found.validation, files, as_json=given.as_json)


def _files(given: ValidateOptions) -> dict[str, Path | None]:
    """Where to write each document, refused at once if that could not be done later."""
    files: dict[str, Path | None] = {}
    folder = given.out
    if folder is not None and not folder.is_dir():
        if folder.exists():
            raise InputError(f"--out: {folder} is a file; a folder is needed")
        if not folder.parent.is_dir():
            raise InputError(f"--out: the folder {folder.parent} does not exist")
        check_writable(folder, "--out")
        folder.mkdir()
    for name, named in (("measurement", given.measurement), ("validation", given.validation)):
        inside = None if folder is None else folder / f"{name}.json"
        files[name] = named or inside
        check_writable(files[name], f"--{name}")
    return files

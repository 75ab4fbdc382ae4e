"""`costsim export`: the training step of a plan as C for a microcontroller."""

from pathlib import Path
from typing import Any

import click

from costsim.cli.options import progress_on_stderr
from costsim.errors import InputError
from costsim.files import to_json_text
from costsim.units import format_bytes

TARGETS = ("c",)


@click.command("export")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(TARGETS), default="c", show_default=True, help="What to write."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the sources into this new folder; an earlier export there is replaced.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights of the model, where they are no longer at the plan's place.",
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="RATE",
    help="Where costsim_learning_rate starts [default: what is usual for the plan's optimiser].",
)
@click.option("--momentum", type=float, default=0.9, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(**given: Any) -> int:
    """Write the training step of PLAN as self-contained C99, weights included.

    Buffers lie in one static arena at planned offsets, frozen weights in flash. Nothing is
    allocated and no C library is needed; the README in the folder says how to build it.

    \b
    Examples
      costsim plan --device stm32f746 --bits 32 --out plan.json
      costsim export plan.json --target c --out firmware
    """
    from costsim.emission.folder import check_folder, write_folder

    out = given["out"]
    check_folder(out)

    from costsim.planfile import read_plan

    plan = read_plan(given["plan"])

    from costsim.emission import EmissionOptions, Sizes, emit
    from costsim.training.loading import load_planned
    from costsim.training.trainer import DEFAULT_LEARNING_RATES

    rate = given["learning_rate"]
    options = EmissionOptions(
        name=plan.model.name,
        learning_rate=DEFAULT_LEARNING_RATES[plan.step.optimizer] if rate is None else rate,
        momentum=given["momentum"],
    )
    with progress_on_stderr() as progress:
        progress("loading the model", 0, 0)
        subject, program = load_planned(plan, str(given["plan"]), given["weights"])
        progress("writing C", 0, 0)
        arrays = {name: tensor.detach().numpy() for name, tensor in subject.tensors.items()}
        try:
            files = emit(program, arrays, options=options)
        except InputError as error:
            raise InputError(f"{given['plan']}: {error}") from error
        write_folder(out, files)
    sizes = Sizes.of_files(files)
    if given["as_json"]:
        document = {
            "schema": "costsim.exported/1",
            "plan": str(given["plan"]),
            "model": plan.model.name,
            "folder": str(out),
            "files": sorted(files),
            "sizes": sizes.to_json(),
        }
        click.echo(to_json_text(document))
    else:
        click.echo(f"{plan.model.name}: {len(files)} files in {out}")
        for what, size in (
            ("arena (RAM)", sizes.arena_bytes),
            ("  updated weights", sizes.updated_weight_bytes),
            ("  optimiser state", sizes.optimizer_bytes),
            ("frozen weights (flash)", sizes.frozen_weight_bytes),
            ("initial values of updated weights (flash)", sizes.initial_weight_bytes),
            ("tables (flash)", sizes.table_bytes),
        ):
            click.echo(f"  {what:<42} {size:>12,} B  {format_bytes(size)}")
    return 0

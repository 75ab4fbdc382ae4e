"""`costsim apply`: put a patch on its base model, or take it off again."""

from dataclasses import dataclass
from pathlib import Path

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.options import (
    MODELS,
    check_writable,
    json_option,
    naming,
    path_option,
    weights_option,
)
from costsim.cli.signature import taking


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """What was typed of `costsim apply`."""

    patch: Path
    model: str | None
    weights: Path | None
    remove: bool
    out: Path
    as_json: bool


@click.command("apply", cls=Command)
@click.argument("patch", type=click.Path(path_type=Path))
@click.option(
    "--model",
    metavar="MODEL",
    callback=naming,
    shell_complete=completion.models,
    help=f"{MODELS}; or an exported file.pt2.  [default: the one that was trained]",
)
@weights_option(
    "Weights of the base; with --remove of the patched model.  "
    "[default: those that training started from]"
)
@click.option("--remove", is_flag=True, help="Take the patch off instead.")
@path_option(
    "--out", required=True, help="Write the model's whole state dict there, as safetensors."
)
@json_option("Print one JSON document instead of a sentence.")
@taking(ApplyOptions)
def command(given: ApplyOptions) -> int:
    """Put PATCH on the model it was made for, or take it off again bit for bit.

    A patch goes on nothing but the very weights that training started from.

    \b
    Examples
      costsim apply signs.safetensors --out adapted.safetensors
      costsim apply signs.safetensors --remove --weights adapted.safetensors --out base.safetensors
    """
    patch_file, out, remove = given.patch, given.out, given.remove
    check_writable(out, "--out")

    from costsim.learning.training import apply_patch, load_subject, read_patch, remove_patch
    from costsim.learning.training.tensorfile import write_tensors

    patch = read_patch(patch_file)
    spec = given.model or _default_model(patch_file, patch.origin.spec)
    weights = given.weights
    if remove and weights is None:
        raise InputError("--remove needs --weights: the weights that the patch is on")
    if weights is None and given.model is None and patch.origin.weights is not None:
        weights = _weights(patch.origin.weights, patch_file)
    subject = load_subject(
        spec, weights=weights, resolution=patch.origin.resolution, seed=patch.origin.seed
    )
    change = remove_patch if remove else apply_patch
    change(patch, subject.tensors, str(patch_file))
    write_tensors(out, subject.module.state_dict())
    digest = patch.base_sha256 if remove else patch.patched_sha256
    if given.as_json:
        document = {
            "schema": "costsim.applied/1",
            "patch": str(patch_file),
            "removed": remove,
            "model": subject.name,
            "channels": patch.channels,
            "parameters_sha256": digest,
            "file": str(out),
        }
        click.echo(to_json_text(document))
    else:
        what = "taken off" if remove else "put on"
        click.echo(f"{patch.channels:,} channels {what} {subject.name}: {out}")
    return 0


def _weights(named: str, file: Path) -> Path:
    """Those that a patch names, found again."""
    from costsim.models.networks.shipped import RANDOM
    from costsim.solving.planfile import WEIGHTS, found_again

    return RANDOM if named == str(RANDOM) else found_again(named, str(file), "weights", WEIGHTS)


def _default_model(file: Path, spec: str) -> str:
    """The model a patch names. Patches are made to be passed on: code is named each time anew."""
    from costsim.base.code import is_code

    if is_code(spec):
        raise InputError(f"{file}: was made for {spec}; name it with --model to run it")
    from costsim.solving.planfile import model_found_again

    return model_found_again(spec, str(file))

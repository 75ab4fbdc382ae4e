"""`costsim apply`: put a patch on its base model, or take it off again."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from costsim.base.errors import InputError
from costsim.base.files import to_json_text
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.model_options import MODELS, naming, weights_option
from costsim.cli.options import check_writable, json_option, path_option
from costsim.cli.overwriting import check_not_named
from costsim.cli.signature import taking

MOST_BYTES = 1 << 28
"""Of a device's memory that is read."""


@dataclass(frozen=True, kw_only=True)
class ApplyOptions:
    """What was typed of `costsim apply`."""

    patch: Path
    model: str | None
    weights: Path | None
    remove: bool
    firmware: Path | None
    to: str
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
    "--firmware",
    metavar="DIR",
    help="The folder that costsim export wrote: PATCH is what its costsim_save saved (or becomes "
    "that, with --to device).",
)
@click.option(
    "--to",
    type=click.Choice(("model", "patch", "device")),
    default="model",
    show_default=True,
    help="With --firmware: write the model's state dict, a patch as costsim train writes it, or "
    "what costsim_load loads.",
)
@path_option(
    "--out", required=True, help="Write the model's whole state dict there, as safetensors."
)
@json_option("Print one JSON document instead of a sentence.")
@taking(ApplyOptions)
def command(given: ApplyOptions) -> int:
    """Put PATCH on the model it was made for, or take it off again bit for bit.

    A patch goes on nothing but the very weights that training started from.

    What a microcontroller saved is such a patch too: give the memory's bytes, one slot or both, and
    the folder of its firmware.

    \b
    Examples
      costsim apply signs.safetensors --out adapted.safetensors
      costsim apply signs.safetensors --remove --weights adapted.safetensors --out base.safetensors
      costsim apply learnt.bin --firmware firmware --out adapted.safetensors
      costsim apply learnt.bin --firmware firmware --to patch --out signs.safetensors
      costsim apply signs.safetensors --firmware firmware --to device --out learnt.bin
    """
    patch_file, out, remove = given.patch, given.out, given.remove
    check_writable(out, "--out")
    if given.firmware is not None:
        return _of_firmware(given, given.firmware)
    if given.to != "model":
        raise InputError(f"--to {given.to}: needs --firmware, the folder that costsim export wrote")

    from costsim.learning.training import apply_patch, load_subject, read_patch, remove_patch
    from costsim.learning.training.tensorfile import write_tensors

    patch = read_patch(patch_file)
    check_not_named((patch.origin.spec, patch.origin.weights), patch_file)
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


def _of_firmware(given: ApplyOptions, folder: Path) -> int:
    """What a device saved, as a model or a patch; or a patch as a device would have saved it."""
    for option, value in (("--model", given.model), ("--remove", given.remove)):
        if value:
            raise InputError(f"{option}: the firmware's folder says of which model; leave it out")
    from costsim.base.files import read_file, resolved, write_atomically
    from costsim.c.emission.folder import exported_names
    from costsim.learning.training import apply_patch, read_patch, write_patch
    from costsim.learning.training.device_patch import Firmware, from_device, to_device
    from costsim.learning.training.tensorfile import write_tensors

    out = resolved(given.out)
    if out.parent == resolved(folder) and out.name in exported_names(folder):
        raise InputError(f"--out: {out.name} is of the firmware; give it a file of its own")
    firmware, source = Firmware.read(folder, given.weights), str(given.patch)
    classes = 0
    if given.to == "device":
        patch = read_patch(given.patch)
        write_atomically(given.out, to_device(patch, firmware, source))
    else:
        patch, slot = from_device(read_file(given.patch, MOST_BYTES), firmware, source)
        classes = slot.classes
        if given.to == "patch":
            write_patch(given.out, patch)
        else:
            apply_patch(patch, firmware.subject.tensors, source)
            write_tensors(given.out, firmware.subject.module.state_dict())
    name = firmware.subject.name
    told = {"device": "for the firmware of", "patch": "of", "model": "put on"}[given.to]
    if classes:
        what = "no class means: take them of the support images"
        _note(f"{given.patch} has the means of {classes} classes; {given.out} has {what}")
    if given.to == "device":
        _note(f"{given.out} has no class means: the device takes them of its support images")
    if given.as_json:
        document = {
            "schema": "costsim.applied/1",
            "patch": source,
            "firmware": str(folder),
            "to": given.to,
            "model": name,
            "channels": patch.channels,
            "parameters_sha256": patch.patched_sha256,
            "file": str(given.out),
        }
        click.echo(to_json_text(document))
    else:
        click.echo(f"{patch.channels:,} channels {told} {name}: {given.out}")
    return 0


def _note(told: str) -> None:
    print(f"costsim: note: {told}", file=sys.stderr)


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

"""`costsim examples`: the examples and templates that come along, listed or written."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError, shown
from costsim.base.files import to_json_text, told_path, why, write_atomically
from costsim.base.nearness import hint
from costsim.cli import completion
from costsim.cli.command import Command
from costsim.cli.options import check_writable, json_option, path_option
from costsim.cli.signature import taking

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

SCHEMA = "costsim.examples/1"


@dataclass(frozen=True, kw_only=True)
class ExamplesOptions:
    """What was typed of `costsim examples`."""

    name: str | None
    out: Path | None
    as_json: bool


def folder() -> Path:
    """Where the examples lie: inside an installed package, beside it in the repository."""
    import costsim

    package = Path(str(costsim.__file__)).parent
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "examples"


def examples() -> dict[str, Path]:
    """Every example by the name that a person types: scripts, notebooks, studies, images, device
    files."""
    from importlib import resources

    there = [*(file for end in KINDS for file in folder().glob(f"*{end}"))]
    devices = Path(str(resources.files("costsim.devices"))).glob("*.yaml")
    found = {file.name: file for file in sorted(there) if file.name != "__init__.py"}
    return found | {DIGITS: Path(DIGITS)} | {file.name: file for file in sorted(devices)}


KINDS = (".py", ".ipynb", ".yaml")
"""Of files that are examples."""

DIGITS = "digits.zip"
DIGITS_SIDE = 32
"""Pixels; they have 8, shown four times as large."""


def digits_zip() -> bytes:
    """The handwritten digits inside scikit-learn as PNG images in one folder a class."""
    import io
    import zipfile

    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for number, (image, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
            file = io.BytesIO()
            picture = Image.fromarray((image * 255 / 16).astype("uint8"))
            picture.resize((DIGITS_SIDE, DIGITS_SIDE), Image.Resampling.NEAREST).save(file, "PNG")
            entry = zipfile.ZipInfo(f"{label}/{number:04}.png")  # of 1980: the same bytes each time
            archive.writestr(entry, file.getvalue())
    return written.getvalue()


def words_of(file: Path) -> str:
    """What an example is: the first sentence of its docstring, its first comment, or its title."""
    if file.name == DIGITS:
        return "Images to plan and train with: handwritten digits, one folder a class."
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        told = ast.get_docstring(ast.parse(text)) or ""
        return " ".join(told.partition("\n\n")[0].split())
    if file.suffix == ".ipynb":  # its title, and what stands below it
        title, *lines = "".join(json.loads(text)["cells"][0]["source"]).split("\n\n")
        told = f"{title.removeprefix('# ')}, a notebook: {lines[0].partition(': ')[0]}."
        return " ".join(told.split())
    told = text.partition("\n")[0].removeprefix("# ").rstrip(".")
    if file.parent.name == "devices":
        return f"Device file to copy and change: {told}."
    return f"{told.partition(':')[0]}."


def _complete(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    return completion.begun(((name, None) for name in examples()), incomplete)


@click.command("examples", cls=Command)
@click.argument("name", required=False, metavar="[NAME]", shell_complete=_complete)
@path_option("--out", help="Write it there.  [default: its own name, in this folder]")
@json_option("Print the list as one JSON document.")
@taking(ExamplesOptions)
def command(given: ExamplesOptions) -> int:
    """List the examples and templates that come along, or write NAME into this folder.

    Scripts and a notebook that use the library, studies and comparisons to run, and the shipped
    device files as templates for your own. A file that is there already is left alone.

    \b
    Examples
      costsim examples
      costsim examples study.yaml
      costsim examples stm32f746.yaml --out my-board.yaml
    """
    found = examples()
    if given.name is None:
        if given.out is not None:
            raise InputError("--out: name an example; costsim examples lists them")
        return _list(found, given.as_json)
    if given.as_json:
        raise InputError("--json is for the list; leave NAME out")
    if given.name not in found:
        raise InputError(
            f"example {shown(given.name)} is unknown; {hint(given.name, found)}there are "
            f"{', '.join(found)}"
        )
    out = Path(given.name) if given.out is None else given.out
    check_writable(out, "--out")
    if out.exists():
        raise InputError(f"{told_path(out)} is there already; give another name with --out")
    try:
        content = digits_zip() if given.name == DIGITS else found[given.name].read_bytes()
        write_atomically(out, content)
    except OSError as error:
        raise InputError(f"{told_path(out)}: {why(error)}") from error
    click.echo(f"{out}: {words_of(found[given.name])}")
    return 0


def _list(found: dict[str, Path], as_json: bool) -> int:
    rows = [{"name": name, "words": words_of(file)} for name, file in found.items()]
    if as_json:
        click.echo(to_json_text({"schema": SCHEMA, "examples": rows}))
        return 0
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from costsim.cli.console import Console

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("example", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for row in rows:
        table.add_row(row["name"], Text(row["words"]))
    console = Console()
    console.print(table)
    console.print("\ncostsim examples NAME writes one into this folder.", highlight=False)
    return 0

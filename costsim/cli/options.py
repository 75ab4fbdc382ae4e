"""Types and helpers that the commands' options share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from costsim.data.source import Progress
from costsim.errors import InputError
from costsim.step import BitWidths


class Quantity(click.ParamType):  # type: ignore[type-arg]
    """A number with a unit, read by one of the parsers of `costsim.units`."""

    def __init__(self, name: str, parse: Callable[[str, str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        what = param.opts[0] if param is not None else self.name
        return self.parse(value, what) if isinstance(value, str) else value


def parse_bits(text: str, base: BitWidths) -> BitWidths:
    """`8` for all, or `weights=8,activations=8`: what is not named stays as in `base`."""
    names = ("weights", "activations", "gradients", "optimizer")
    widths = {name: getattr(base, name) for name in names}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        chosen = [name] if equals else list(names)
        number = number if equals else name
        if not number.isdigit() or any(one not in names for one in chosen):
            raise InputError(
                f"--bits: cannot read {part.strip()!r}; give a number, or NAME=NUMBER with NAME "
                f"one of {', '.join(names)}"
            )
        widths |= {one: int(number) for one in chosen}
    return BitWidths(**widths)


def check_writable(path: Path | None, option: str) -> None:
    """Raise `InputError` at once if a file could not be written there later."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder; a file is needed")
    if not path.parent.is_dir():
        raise InputError(f"{option}: the folder {path.parent} does not exist")


@contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Progress for a person watching: a live line on a terminal, nothing in a pipe."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:

        def report(what: str, done: int, total: int) -> None:
            status.update(f"{what} ({done}/{total})" if total else what)

        yield report

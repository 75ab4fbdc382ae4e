"""What is read is not written over, whatever a command reads and writes."""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import click

from costsim.base.errors import InputError
from costsim.base.files import resolved, told_path

_WRITTEN = "out plan-out report csv latex picture measurement validation checkpoint"
WRITTEN = frozenset(_WRITTEN.split())
"""Options that name a file to write, which may be none of those that a command reads."""

ADDED_TO = frozenset(("store", "log"))
"""Options that name a file to read and to add to."""

_BEHIND_A_PATH = re.compile(r"(?<=\.py):.*|::.*", re.DOTALL)
"""The name of what a script makes, and of a part of some images."""


def check_not_read(context: click.Context, written: Collection[str]) -> None:
    """Raise `InputError` where an option of `written` names a file that another parameter names.

    A file that is not there yet is read by nobody, and what is no file (`/dev/null`) may be both.
    Two that are written are the command's own to tell apart.
    """
    named = [(one, list(_files(context.params.get(str(one.name))))) for one in _given(context)]
    read = {path: one for one, paths in named if not _writes(one, written) for path in paths}
    for one, paths in named:
        for path in paths:
            if _writes(one, written) and (other := read.get(path)) is not None:
                raise InputError(
                    f"{one.opts[0]}: {path.name} is {_called(other)} too; give it a file of its own"
                )


def check_not_named(named: Iterable[str | None], source: Path, how: str = "was made with") -> None:
    """The same of what the file `source` names in turn: weights, images, a script."""
    from costsim.solving.planfile.places import candidates

    places = (place for name in named if name for place in candidates(name, str(source)))
    read = {path for place in places for path in _files(place)}
    context = click.get_current_context()
    for one in _given(context):
        for path in _files(context.params[str(one.name)]) if _writes(one, WRITTEN) else ():
            if path in read:
                raise InputError(
                    f"{one.opts[0]}: {path.name} is what {told_path(source)} {how}; give it "
                    "a file of its own"
                )


def texts_of(document: object) -> Iterator[str]:
    """Every text of a document, each of which may be the name of a file."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, Mapping):
        for value in document.values():
            yield from texts_of(value)
    elif isinstance(document, list | tuple):
        for value in document:
            yield from texts_of(value)


def _given(context: click.Context) -> list[click.Parameter]:
    return [one for one in context.command.params if context.params.get(str(one.name))]


def _writes(parameter: click.Parameter, written: Collection[str]) -> bool:
    names = {name.removeprefix("--") for name in parameter.opts}
    return isinstance(parameter, click.Option) and bool(names & set(written))


def _called(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return parameter.opts[0]
    return (parameter.metavar or parameter.human_readable_name).strip("[].")


def _files(value: object) -> Iterator[Path]:
    """The files that there are of those that a value names."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _files(part)
    elif isinstance(value, str | Path):
        path = Path(_BEHIND_A_PATH.sub("", str(value)))
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            if path.is_file():
                yield resolved(path)

"""Files that a command writes: none may be written over another, or over what it reads."""

from collections.abc import Mapping
from pathlib import Path

from costsim.base.errors import InputError
from costsim.base.files import resolved
from costsim.cli.options import check_writable


def check_outputs(
    outputs: Mapping[str, Path | None], kept: Mapping[str, Path | None] | None = None
) -> None:
    """Raise `InputError` at once for an output that cannot be written, or is over another file.

    Both are paths by the options they were given as; `kept` are files that are read, or added to.
    What is no file (`/dev/null`, a terminal) may be named as often as one likes.
    """
    taken = {resolved(path): name for name, path in (kept or {}).items() if path is not None}
    for name, path in outputs.items():
        check_writable(path, name)
        if path is None or (path.exists() and not path.is_file()):
            continue
        other = taken.setdefault(resolved(path), name)
        if other != name:
            raise InputError(f"{name}: {path} is {other} too; give it a file of its own")

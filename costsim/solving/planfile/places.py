"""Files that a plan file names, found again from another folder or on another machine."""

from pathlib import Path

from costsim.base.errors import InputError, shown
from costsim.base.files import is_there

DATA = "say where they are with --data"
WEIGHTS = "say where they are with --weights"


def candidates(path: str, named_in: str) -> tuple[Path, ...]:
    """Where a file may be that the file `named_in` names: as it was typed, then beside that file.

    Beside it by the same path, and by its name alone, as where both were copied into one folder.
    """
    typed, folder = Path(path), Path(named_in).parent
    return tuple(dict.fromkeys((typed, folder / typed, folder / typed.name)))


def found_again(path: str, named_in: str, key: str, remedy: str) -> Path:
    """The first of `candidates` that is there.

    Raises `InputError`, naming the file, its `key` and the `remedy`.
    """
    there = next((place for place in candidates(path, named_in) if is_there(place)), None)
    if there is None:
        raise InputError(
            f"{named_in}: {key} is {shown(path)}, which is neither there nor beside {named_in}; "
            f"{remedy}"
        )
    return there


def data_found_again(path: str, named_in: str) -> Path:
    """The same of images: a split may follow `::`, and `hub:NAME` is no file."""
    if path.startswith("hub:"):
        return Path(path)
    if not any(is_there(place) for place in candidates(path, named_in)) and "::" in path:
        path, _, split = path.rpartition("::")
        place = found_again(path, named_in, "task.data", DATA)
        return place.with_name(f"{place.name}::{split}")
    return found_again(path, named_in, "task.data", DATA)


def model_found_again(spec: str, named_in: str) -> str:
    """The same of a model: an exported program, `NAME.pt2`, is a file; others are names."""
    if not spec.endswith(".pt2"):
        return spec
    return str(found_again(spec, named_in, "model.spec", "put it there"))

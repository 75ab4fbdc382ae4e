"""Files that a plan file names, found again from another folder or on another machine."""

from collections.abc import Iterable
from pathlib import Path

from costsim.base.errors import InputError, shown
from costsim.base.files import is_there


def candidates(path: str, named_in: str) -> tuple[Path, ...]:
    """Where a file may be that the file `named_in` names: as it was typed, then beside that file.

    Beside it by the same path, and by its name alone, as where both were copied into one folder.
    """
    typed, folder = Path(path), Path(named_in).parent
    return tuple(dict.fromkeys((typed, folder / typed, folder / typed.name)))


def found_again(path: str, named_in: str, key: str, option: str) -> Path:
    """The first of `candidates` that is there.

    Raises `InputError`, naming the file, its `key` and the `option` that says otherwise.
    """
    return first_there(candidates(path, named_in)) or _nowhere(path, named_in, key, option)


def data_found_again(path: str, named_in: str) -> Path:
    """The same of images: a split may follow `::`, and `hub:NAME` is no file."""
    if path.startswith("hub:"):
        return Path(path)
    if not any(is_there(place) for place in candidates(path, named_in)) and "::" in path:
        path, _, split = path.rpartition("::")
        place = found_again(path, named_in, "task.data", "--data")
        return place.with_name(f"{place.name}::{split}")
    return found_again(path, named_in, "task.data", "--data")


def first_there(places: Iterable[Path]) -> Path | None:
    """The first that something is at; None where nothing is at any."""
    return next((place for place in places if is_there(place)), None)


def _nowhere(path: str, named_in: str, key: str, option: str) -> Path:
    raise InputError(
        f"{named_in}: {key} is {shown(path)}, which is neither there nor beside {named_in}; say "
        f"where it is with {option}"
    )

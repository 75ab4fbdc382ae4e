"""A folder of emitted files, written whole or not at all.

People build there and add programs of their own, so what no export wrote outlives the next one.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from costsim.base.errors import InputError
from costsim.base.files import resolved, scratch_folder

MARK = "costsim_model.json"
"""A folder with this file was written by an export, and may be replaced by one."""

_UNPREFIXED = frozenset((MARK, "costsim_plan.json", "CMakeLists.txt", "Makefile", "README.md"))
_SOURCE = re.compile(r"(.+)_(?:adapt|check|kernels|model|store|vectors|weights)\.[ch]")


def exported_names(folder: Path) -> frozenset[str]:
    """The names of those files in `folder` that an export wrote, whatever its prefix was."""
    names = {one.name for one in folder.iterdir()} if (folder / MARK).is_file() else set()
    sources = {name: found[1] for name in names if (found := _SOURCE.fullmatch(name))}
    of_models = {
        prefix
        for prefix in sources.values()
        if {f"{prefix}_model.h", f"{prefix}_weights.c"} <= names
    }
    own = {name for name, prefix in sources.items() if prefix in of_models or prefix == "costsim"}
    return frozenset(own | (names & _UNPREFIXED))


def check_folder(folder: Path) -> None:
    """Raise `InputError` if an export could not be written there."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file; a folder is needed")
    if folder.is_dir() and not (folder / MARK).is_file() and any(folder.iterdir()):
        raise InputError(f"--out: {folder} holds other files; give a new or an empty folder")
    if not resolved(folder).parent.is_dir():
        raise InputError(f"--out: the folder {resolved(folder).parent} does not exist")


def write_folder(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write `files` (name to content) as `folder`, in the place of an earlier export.

    They are written beside it and moved there when all are whole, with what others put into the
    folder. Raises `InputError` where `check_folder` does and if they cannot be written.
    """
    check_folder(folder)
    target = resolved(folder)
    try:
        with scratch_folder(target.parent, f".{target.name}.half-") as folder_beside:
            beside = folder_beside / "new"
            beside.mkdir()
            for file, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                (beside / file).write_bytes(data)
            if target.exists():
                _keep_others(target, beside)
            try:
                if target.exists():
                    target.rename(folder_beside / "old")
                beside.rename(target)
            except BaseException:  # Ctrl-C too: the earlier one is back before what is beside goes
                if (folder_beside / "old").exists() and not target.exists():
                    (folder_beside / "old").rename(target)
                raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _keep_others(old: Path, new: Path) -> None:
    """Put what no export wrote into the new folder too; it stays in the old one until that goes."""
    exported = exported_names(old)
    for one in old.iterdir():
        place = new / one.name
        if one.name in exported or place.exists():
            continue
        if one.is_dir() and not one.is_symlink():
            shutil.copytree(one, place, symlinks=True, copy_function=_link)
        else:
            _link(one, place)


def _link(old: str | Path, new: str | Path) -> None:
    """The same file under a second name, or a copy where there are no such names."""
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:
        shutil.copy2(old, new, follow_symlinks=False)

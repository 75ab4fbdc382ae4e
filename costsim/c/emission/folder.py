"""A folder of emitted files, written whole or not at all."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from costsim.base.errors import InputError
from costsim.base.files import resolved, scratch_folder

MARK = "costsim_model.json"
"""A folder with this file was written by an export, and may be replaced by one."""


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

    They are written beside it and moved there when all are whole. Raises `InputError` where
    `check_folder` does and if they cannot be written.
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
                target.rename(folder_beside / "old")
            try:
                beside.rename(target)
            except OSError:
                if (folder_beside / "old").exists():
                    shutil.move(folder_beside / "old", target)
                raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from error

"""Which models that are code may be run: those a person named, never what a file alone names.

`package.module:factory` is called to make a model, and plans and studies name it so that it need
not be typed again. A file may come from anybody. So the name in it counts only where a person has
named the same: on this command line, or on an earlier one of theirs, such as that of the plan,
which is kept in their own folder together with where the code lay then.
"""

import contextlib
import hashlib
import importlib.machinery
import os
from pathlib import Path

from costsim.base.errors import InputError, shortened
from costsim.base.files import user_path, write_atomically
from costsim.models.networks import NETWORKS

NAMED_HERE: set[str] = set()
"""Names that came from the person or program that runs this process."""


def is_code(spec: str) -> bool:
    """Whether a model's name is one of code that is called."""
    return ":" in spec and spec not in NETWORKS and not spec.endswith(".pt2")


def record_folder() -> Path:
    """Where a person's names are kept, each in a file of its own, so that none is ever lost."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return user_path(base) / "costsim" / "named-models"


def name_from_now_on(spec: str) -> None:
    """A person or program named `spec`: plans and studies may too, here and in later processes.

    Where nothing can be kept (a home that is read-only) it has to be named again each time.
    """
    if not is_code(spec):
        return
    NAMED_HERE.add(spec)
    with contextlib.suppress(InputError, OSError):
        record = _record(spec)
        if record is not None and not record.exists():
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(record, f"{spec}\n{_origin(spec)}\n")


def check_named(spec: str, source: str) -> str:
    """`spec`, which the file `source` names; raises `InputError` where it is code nobody named."""
    if not is_code(spec) or spec in NAMED_HERE:
        return spec
    with contextlib.suppress(InputError, OSError):
        record = _record(spec)
        if record is not None and record.exists():
            return spec
    raise InputError(f"{source}: is for {shortened(spec)}; name it with --model to run it")


def _record(spec: str) -> Path | None:
    origin = _origin(spec)
    if origin is None:
        return None
    digest = hashlib.sha256(f"{spec}\n{origin}".encode("utf-8", "backslashreplace")).hexdigest()
    return record_folder() / digest[:32]


def _origin(spec: str) -> str | None:
    """The file or folder that the first part of a module's name leads to; nothing is imported."""
    package = spec.partition(":")[0].partition(".")[0]
    with contextlib.suppress(ImportError, ValueError, OSError):
        here = importlib.machinery.PathFinder.find_spec(package, [str(Path.cwd())])
        found = here or importlib.machinery.PathFinder.find_spec(package)
        if found is not None:
            places = [found.origin, *(found.submodule_search_locations or ())]
            return next((os.path.realpath(place) for place in places if place), None)
    return None

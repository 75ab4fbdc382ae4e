"""Which models that are code may be run: those a person named, never what a file alone names.

`package.module:factory` is called to make a model, and plan files, patches and studies name it so
that it need not be typed again. A file may come from anybody. So the name in it counts only where a
person has named the same on a command line: on this one, or on an earlier one of theirs, such as
that of the plan, which is kept in their own folder together with where the code lay then.
"""

import contextlib
import importlib.machinery
import os
from pathlib import Path
from typing import Any

from costsim.base.errors import InputError, shown
from costsim.base.files import read_json, user_path, write_json
from costsim.models.networks import NETWORKS

SCHEMA = "costsim.named-models/1"
MOST_PLACES = 100
"""That are kept of one name, the latest."""

NAMED_HERE: set[str] = set()
"""Names that came from the person or program that runs this process."""


def is_code(spec: str) -> bool:
    """Whether a model's name is one of code that is called."""
    return ":" in spec and spec not in NETWORKS and not spec.endswith(".pt2")


def record_path() -> Path:
    """Where a person's names are kept."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return user_path(base) / "costsim" / "named-models.json"


def name_here(spec: str) -> None:
    """Let files that name `spec` have it run, for as long as this process lives."""
    NAMED_HERE.add(spec)


def name_from_now_on(spec: str) -> None:
    """`spec` was typed on a command line: files may name it, here and in later processes.

    Where nothing can be kept (a home that is read-only) it has to be typed again each time.
    """
    if not is_code(spec):
        return
    name_here(spec)
    origin = _origin(spec)
    if origin is None:
        return
    with contextlib.suppress(InputError, OSError):
        path = record_path()
        models = _recorded(path)
        if origin in models.get(spec, []):
            return
        models[spec] = [*models.get(spec, []), origin][-MOST_PLACES:]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": SCHEMA, "models": models})


def check_named(spec: str, source: str) -> str:
    """`spec`, which the file `source` names; raises `InputError` where it is code nobody named."""
    if not is_code(spec) or spec in NAMED_HERE:
        return spec
    with contextlib.suppress(InputError):
        if _origin(spec) in _recorded(record_path()).get(spec, []):
            return spec
    raise InputError(
        f"{source}: names the model {shown(spec)}, which is code of somebody; add --model "
        f"{spec} if it may be run"
    )


def _recorded(path: Path) -> dict[str, list[str]]:
    if not path.exists():
        return {}
    document: Any = read_json(path)
    models = document.get("models") if isinstance(document, dict) else None
    if not isinstance(models, dict) or document.get("schema") != SCHEMA:
        return {}
    return {str(spec): list(places) for spec, places in models.items() if isinstance(places, list)}


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

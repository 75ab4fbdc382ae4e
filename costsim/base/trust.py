"""Which code may be run: what a person named, never what a file alone names.

`net.py:make` is called to make a model, a solver, a criterion or a method, and plans and studies
name it so that it need not be typed again. A file may come from anybody. So the name in it counts
only where a person has named the same: on this command line, or on an earlier one of theirs, such
as that of the plan, which is kept in their own folder together with where the code lay then and a
digest of the module itself. Code that has changed is to be named again: whoever can write to a
folder must not have run there what they like. What the module imports in turn is not looked at.
A script that is named without a name in it (`net.py`) is trusted with all that it makes: what it
defines, not what it imports, which is to be named whole, as any argument is then.
"""

import ast
import contextlib
import hashlib
import importlib.machinery
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from costsim.base.code import is_code, parse_code_name
from costsim.base.errors import InputError, shortened
from costsim.base.files import read_file, told_path, user_path, write_atomically

MOST_BYTES = 2**28
"""Of a module or a record; more is no code."""

NAMED_HERE: set[str] = set()
"""Names that came from the person or program that runs this process."""


def record_folder() -> Path:
    """Where a person's names are kept, each in a file of its own, so that none is ever lost."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return user_path(base) / "costsim" / "named-code"


def name_from_now_on(spec: str) -> None:
    """A person or program named `spec`: plans and studies may too, here and in later processes.

    Where nothing can be kept (a home that is read-only) it has to be named again each time.
    """
    if not is_code(spec) and not _is_script(spec):
        return
    spec = _canonical(spec)
    NAMED_HERE.add(spec)
    with contextlib.suppress(InputError, OSError):
        files = _files(spec)
        if files and _kept(spec, files) != (content := _content(spec, files)):
            record = _record(spec, files)
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(record, content)


def check_named(spec: str, source: str, option: str = "--model") -> str:
    """`spec`, which the file `source` names; raises `InputError` where it is code nobody named.

    `option` is where a person may name it.

    Code that has changed since counts as code that nobody named.
    """
    if not is_code(spec):
        return spec
    why = ""
    whole = _canonical(spec)
    for known in _names(whole):
        trusted = known in NAMED_HERE
        with contextlib.suppress(InputError, OSError):
            files = _files(known) if not trusted else []
            kept = _kept(known, files) if files else None
            trusted = trusted or (kept is not None and kept == _content(known, files))
            if kept is not None and not trusted:
                why = f", whose code ({told_path(files[-1])}) is not what it was when you named it"
        if trusted and (known == whole or _makes(known, whole)):
            return spec
        if trusted:
            why = f", which {told_path(known)} does not make itself"
    raise InputError(f"{source}: is for {shortened(spec)}{why}; name it with {option} to run it")


def code_digest(spec: str) -> str:
    """Of the files that a name of code leads through; empty of what is no code."""
    if not is_code(spec):
        return ""
    with contextlib.suppress(InputError, OSError):
        return hashlib.sha256(_content(spec, _files(spec))).hexdigest()
    return ""


def _canonical(spec: str) -> str:
    """The same name however a person came to the script."""
    place, colon, rest = spec.partition(":")
    return os.path.realpath(user_path(place)) + colon + rest if place.endswith(".py") else spec


def _is_script(spec: str) -> bool:
    return spec.endswith(".py") and ":" not in spec


def _names(spec: str) -> list[str]:
    """Under which a person may have named it: its own, and its script's."""
    place = spec.partition(":")[0]
    return [spec, place] if _is_script(place) else [spec]


def _makes(script: str, spec: str) -> bool:
    """Whether a script defines what `spec` names in it, so that no import of it is reached."""
    try:
        *classes, last = parse_code_name(spec, "code").attribute.split(".")
        body = ast.parse(read_file(Path(script), MOST_BYTES)).body
    except (InputError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for name in classes:
        found = _definitions(body).get(name)
        if not isinstance(found, ast.ClassDef):
            return False
        body = found.body
    return last in _definitions(body)


def _definitions(body: Sequence[ast.stmt]) -> dict[str, ast.stmt]:
    """The functions, classes and values that statements make; another name of a thing is none."""
    found: dict[str, ast.stmt] = {}
    for one in body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef):
            found[one.name] = one
        elif isinstance(one, ast.Assign | ast.AnnAssign):
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            if isinstance(one.value, ast.Call | ast.Lambda):
                found |= {to.id: one for to in targets if isinstance(to, ast.Name)}
        elif isinstance(one, ast.If | ast.Try):
            for inner in (one.body, one.orelse, *(h.body for h in getattr(one, "handlers", ()))):
                found |= _definitions(inner)
    return found


def _record(spec: str, files: Sequence[str]) -> Path:
    digest = hashlib.sha256(f"{spec}\n{files[0]}".encode("utf-8", "backslashreplace")).hexdigest()
    return record_folder() / digest[:32]


def _kept(spec: str, files: Sequence[str]) -> bytes | None:
    record = _record(spec, files)
    return read_file(record, MOST_BYTES) if record.exists() else None


def _content(spec: str, files: Sequence[str]) -> bytes:
    """What a record says: the name, the files that it leads through, and their contents' digest."""
    digest = hashlib.sha256()
    for file in files:  # each by a digest of its own: nothing moves from one into the next unseen
        content = read_file(Path(file), MOST_BYTES) if Path(file).is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    lines = (spec, *files, digest.hexdigest(), "")
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _files(spec: str) -> list[str]:
    """The files that importing a name runs, packages first; nothing is imported.

    A package without a file of its own stands as its folder. Empty where the name leads nowhere.
    """
    found: list[str] = []
    place = spec.partition(":")[0]
    if place.endswith(".py"):
        script = user_path(place)
        return [os.path.realpath(script)] if script.is_file() else []
    parts = place.split(".")
    places: Iterable[str] | None = None
    with contextlib.suppress(ImportError, ValueError, OSError):
        for name in parts:  # by its last part, as files are called: no parent is imported
            here = [str(Path.cwd())] if places is None else list(places)
            one = importlib.machinery.PathFinder.find_spec(name, here)
            if one is None and places is None:
                one = importlib.machinery.PathFinder.find_spec(name)
            if one is None:
                break
            places = one.submodule_search_locations or ()
            origin = next((place for place in (one.origin, *places) if place), None)
            if origin is None:
                break
            found.append(os.path.realpath(origin))
    return found

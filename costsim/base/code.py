"""Code that a person names: a function or class of theirs in a script or an importable package.

    net.py:make                       a script, found from the current folder
    my_package.nets:Net.small         a module, found with the current folder on the path
    net.py:make(width=0.5)[logits]    its arguments, and which of several outputs is meant

One text says all of it, so that a plan, a patch or a study that keeps the text keeps it whole.
What may be run of what a file names is `costsim.base.trust`'s to say.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from costsim.base.errors import CostsimError, InputError, OthersFault, shown
from costsim.base.files import told_path, user_path

EXPORTED = ".pt2"
"""How the file of an exported program ends, which is data, not code."""


def is_code(spec: str) -> bool:
    """Whether a name is one of code that is called."""
    return ":" in spec and not spec.endswith(EXPORTED)


@dataclass(frozen=True)
class CodeName:
    """A name taken apart: `place` is a module or the path of a script, `attribute` a dotted name.

    `arguments` are given to it by name; `output` is which part of a model's output is meant.
    """

    place: str
    attribute: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    output: str | None = None

    @property
    def script(self) -> Path | None:
        """The script's path, or None of a module."""
        return user_path(self.place) if self.place.endswith(".py") else None

    @property
    def plain(self) -> str:
        """The name without arguments and output."""
        return f"{self.place}:{self.attribute}"

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        called = f"({inner})" if inner else ""
        part = "" if self.output is None else f"[{self.output}]"
        return f"{self.plain}{called}{part}"


def parse_code_name(spec: str, what: str) -> CodeName:
    """The parts of `spec`; raises `InputError`, calling it a `what`, where it has others."""
    place, _, rest = spec.partition(":")
    output = None
    if rest.endswith("]"):
        rest, _, output = rest[:-1].rpartition("[")
        if not rest or not output.strip():
            raise InputError(f"{what} {shown(spec)}: in [ ] belongs the name of an output")
    attribute, called, inner = rest.partition("(")
    arguments: dict[str, object] = {}
    if called:
        arguments = _arguments(inner, spec, what)
    if not place or not all(part.isidentifier() for part in attribute.split(".")):
        raise InputError(f"{what} {shown(spec)}: write it as package.module:name or file.py:name")
    return CodeName(place, attribute, arguments, output)


def _arguments(inner: str, spec: str, what: str) -> dict[str, object]:
    """Those between the brackets: plain values by name."""
    wrong = InputError(
        f"{what} {shown(spec)}: in ( ) belong arguments by name and of plain values, such as "
        "(width=0.5, name='small')"
    )
    try:
        call = ast.parse(f"f({inner}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise wrong
        return {str(one.arg): ast.literal_eval(one.value) for one in call.keywords if one.arg}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise wrong from error


def with_arguments(spec: str, texts: Sequence[str], option: str, what: str) -> str:
    """`spec` with more arguments: each text is `name=value` or a YAML mapping of several.

    Values are read as YAML. Raises `InputError` for a text that is neither, and for arguments of
    what is no code.
    """
    if not texts:
        return spec
    if not is_code(spec):
        raise InputError(f"{option}: {spec} takes none; those of code do, file.py:name")
    name = parse_code_name(spec, what)
    arguments = dict(name.arguments)
    for text in texts:
        arguments |= _typed_arguments(text, option)
    return str(parse_code_name(str(replace(name, arguments=arguments)), what))


def _typed_arguments(text: str, option: str) -> dict[str, object]:
    from costsim.base.yaml_text import parse_yaml  # help needs no YAML

    key, equals, value = text.partition("=")
    if equals and key.strip().isidentifier():
        return {key.strip(): parse_yaml(value.encode(), f"{option} {key.strip()}")}
    given = parse_yaml(text.encode(), option)
    if not isinstance(given, dict) or not all(str(name).isidentifier() for name in given):
        raise InputError(
            f"{option}: cannot read {shown(text)}; give name=value, or a mapping such as "
            "'{width: 0.5, classes: 10}'"
        )
    return {str(name): value for name, value in given.items()}


@dataclass
class _Aside:
    """How many calls of others' code are open, and the stdout that is kept from them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    depth: int = 0
    stdout: Any = None


_ASIDE = _Aside()


@contextlib.contextmanager
def others_prints_aside() -> Iterator[None]:
    """While open, what is printed goes to stderr: stdout belongs to results.

    Several threads may be inside; stdout is back when the last has left.
    """
    with _ASIDE.lock:
        if _ASIDE.depth == 0:
            _ASIDE.stdout, sys.stdout = sys.stdout, sys.stderr
        _ASIDE.depth += 1
    try:
        yield
    finally:
        with _ASIDE.lock:
            _ASIDE.depth -= 1
            if _ASIDE.depth == 0:
                sys.stdout, _ASIDE.stdout = _ASIDE.stdout, None


@contextlib.contextmanager
def others_code(what: str) -> Iterator[None]:
    """While open, others' code runs: it prints aside, and its errors are told in one line.

    Raises `OthersFault` that begins with `what` for whatever it raises but this library's own.
    """
    try:
        with others_prints_aside():
            yield
    except (CostsimError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise OthersFault(f"{what} failed: {sentence(error)}") from error


def find_code(name: CodeName, what: str) -> Any:
    """The object that `name` names, its module imported; its arguments are not looked at.

    Raises `InputError` for a place that cannot be imported, a name that is not in it, and for what
    is Python's own: functions such as `os.abort` are nobody's model.
    """
    spec = name.plain
    refused = InputError(f"{what} {spec!r}: Python's own modules have none")
    if name.script is None and _is_pythons_own(name.place):
        raise refused
    try:
        with others_prints_aside():
            found: Any = _imported(name, what)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{what} {spec!r}: {name.place} cannot be imported: {sentence(error)}"
        ) from error
    for part in name.attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"{what} {spec!r}: {name.place} has no {name.attribute!r}")
        found = getattr(found, part)
        # Through an attribute too, such as `package:os.abort`, or under another name.
        if _is_pythons_own(_home(found)):
            raise refused
    return found


@contextlib.contextmanager
def importable_from(folder: Path) -> Iterator[None]:
    """While open, modules beside the script, or in the current folder, are found first."""
    place = str(folder)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


def folder_of(name: CodeName) -> Path:
    """Where what the code imports is looked for first."""
    return Path.cwd() if name.script is None else name.script.absolute().parent


def _imported(name: CodeName, what: str) -> ModuleType:
    if name.script is None:
        importlib.invalidate_caches()
        return importlib.import_module(name.place)
    path = name.script.absolute()
    if not path.is_file():
        raise InputError(f"{what} {name.plain!r}: {told_path(path)} does not exist")
    # By content: a script that was edited since is another module.
    content = path.read_bytes()
    digest = hashlib.sha256(str(path).encode("utf-8", "backslashreplace") + content)
    called = f"{path.stem}_{digest.hexdigest()[:12]}"
    if called in sys.modules:
        return sys.modules[called]
    loader = _AsRead(called, str(path), content)
    found = importlib.util.spec_from_file_location(called, path, loader=loader)
    assert found is not None
    module = sys.modules[called] = importlib.util.module_from_spec(found)
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[called]
        raise
    return module


class _AsRead(SourceFileLoader):
    """Runs the text that was read, no bytecode: that is taken for current by second and size."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self.content = content

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self.content, self.get_filename(fullname))
        return code


def _is_pythons_own(module_name: str) -> bool:
    return module_name.partition(".")[0] in sys.stdlib_module_names


def _home(found: object) -> str:
    """The module that it is, or that it was made in; empty for what is neither."""
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, ModuleType):
        return found.__name__
    if inspect.isroutine(found) or inspect.isclass(found):
        return str(getattr(found, "__module__", None) or "")
    return ""


def sentence(error: BaseException) -> str:
    """What an error of another's code says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

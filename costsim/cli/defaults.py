"""Defaults of a project: `[tool.costsim]` in the `pyproject.toml` of this folder or one above it.

    [tool.costsim]
    device = "jetson-nano"     # of every command that has --device

    [tool.costsim.plan]
    explain = true             # of costsim plan alone

A key is an option without its dashes; what is typed wins. Files are looked for beside
`pyproject.toml`. A folder that somebody else made must not choose what runs, where, by whose word,
or what is written over elsewhere: code (`package.module:name`), targets and whom to trust are to be
typed, and files to write stay below the project's folder.
"""

import sys
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from costsim.base.code import is_code
from costsim.base.errors import InputError, one_line, shown
from costsim.base.files import is_there, read_file, resolved, told_path
from costsim.base.nearness import hint
from costsim.cli.model_options import naming
from costsim.cli.overwriting import ADDED_TO, WRITTEN

FILE = "pyproject.toml"
TABLE = "costsim"

MOST_BYTES = 2**24
"""Of a `pyproject.toml`; more is none."""


@dataclass(frozen=True)
class Defaults:
    """What a project says: of every command that has the option, and of single commands."""

    file: Path
    common: Mapping[str, Any]
    own: Mapping[str, Mapping[str, Any]]

    def of(self, command: click.Command) -> dict[str, Any]:
        """The values for one command, by the names of its parameters, as click takes them.

        Raises `InputError` for an option that the command, or every command, lacks.
        """
        name = str(command.name)
        options = {key: option for option in _options(command) for key in _keys(option)}
        own = self.own.get(name, {})
        for key in own:
            if key not in options:
                raise InputError(
                    f"{self._where(name, key)}: unknown key; {hint(key, options)}costsim {name} "
                    f"has {', '.join(sorted(options))}"
                )
        found = {key: value for key, value in self.common.items() if key in options}
        return {
            str(options[key].name): self._value(options[key], self._where(name, key), value)
            for key, value in (found | dict(own)).items()
        }

    def check(self, commands: Container[str], keys: Collection[str]) -> None:
        """Raise `InputError` for a table of none of `commands`, and for none of the `keys`."""
        for name in self.own:
            if name not in commands:
                raise InputError(
                    f"{told_path(self.file)}: [tool.{TABLE}.{name}]: there is no such command"
                )
        for key in self.common:
            if key not in keys:
                raise InputError(
                    f"{self._where('', key)}: unknown key; {hint(key, keys)}a key is an option "
                    "without its dashes, or a table of a command"
                )

    def _where(self, command: str, key: str) -> str:
        table = f"{TABLE}.{command}" if key in self.own.get(command, {}) else TABLE
        return f"{told_path(self.file)}: [tool.{table}] {key}"

    def _value(self, option: click.Option, where: str, value: Any) -> Any:
        """`value` as if it were typed: numbers as texts, files beside the project's own."""
        if _keys(option)[0] in TYPED_ONLY:
            raise InputError(f"{where}: where work runs and whom to trust is to be typed")
        if option.is_flag:
            if not isinstance(value, bool):
                raise InputError(f"{where}: is {shown(value)}; true or false is needed")
            return value
        several = option.multiple
        texts = value if isinstance(value, list) and several else [value]
        if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in texts):
            wanted = "a text or number, or a list of them," if several else "a text or number"
            raise InputError(f"{where}: is {shown(value)}; {wanted} is needed")
        read = [self._text(option, where, _written(one, where)) for one in texts]
        return read if several else read[0]

    def _text(self, option: click.Option, where: str, text: str) -> str:
        here, key = self.file.parent, _keys(option)[0]
        if option.callback is naming and is_code(text):
            raise InputError(f"{where}: {shown(text)} is code, which is to be typed, not read here")
        if isinstance(option.type, click.Path):
            written = key in WRITTEN or key in ADDED_TO
            if written and not _is_below(here / text, here):
                raise InputError(f"{where}: {shown(text)} is not in the project's folder; type it")
            named = not written and (text == "random" or text.startswith("hub:"))
            return text if named else str(here / text)
        name, _, _split = text.partition("::")
        return str(here / text) if key in MAY_BE_FILES and name and is_there(here / name) else text


MAY_BE_FILES = frozenset(("device", "model", "data", "source", "transfer"))
"""Options whose values are names of other things too; a file of that name is meant first."""

TYPED_ONLY = frozenset(("on", "scheduler", "trust", "trust-new-host", "known-hosts"))
"""Options that say on which machine work runs, or whom and what to believe."""


def project_defaults(start: Path | None = None) -> Defaults | None:
    """What the nearest `pyproject.toml` with such a table says, from `start` upwards, if any does.

    Raises `InputError` for one that names costsim and is no TOML.
    """
    try:
        folder = Path.cwd() if start is None else start
    except OSError:  # the folder is gone
        return None
    for place in (folder, *folder.parents):
        file = place / FILE
        content = _content(file)
        if content is None or b"tool" not in content or TABLE.encode() not in content:
            continue
        tool = _tables(content, file).get("tool", {})
        table = tool.get(TABLE) if isinstance(tool, dict) else None
        if table is None:
            continue
        if not isinstance(table, dict):
            raise InputError(f"{told_path(file)}: [tool.{TABLE}]: a table of options is needed")
        own = {key: value for key, value in table.items() if isinstance(value, dict)}
        common = {key: value for key, value in table.items() if key not in own}
        return Defaults(Path(FILE) if place == folder else file, common, own)
    return None


def _tables(content: bytes, file: Path) -> dict[str, Any]:
    import tomllib  # only where there is something to read

    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise InputError(f"{told_path(file)}: is nested too deeply to be read") from error
    except ValueError as error:  # of TOML, of UTF-8, of a number too long for Python
        raise InputError(f"{told_path(file)}: is no TOML: {error}") from error


def tell_used(context: click.Context, defaults: Defaults) -> None:
    """One line on stderr that says which values of a project stand in for what was not typed."""
    from click.core import ParameterSource

    used = [
        f"{option.opts[0]} {_told(context.params[str(option.name)])}"
        for option in _options(context.command)
        if context.get_parameter_source(str(option.name)) is ParameterSource.DEFAULT_MAP
    ]
    if used:
        told = one_line(f"{told_path(defaults.file)}: {', '.join(used)}")
        print(f"costsim: note: {told}", file=sys.stderr)


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _written(value: str | int | float, where: str) -> str:
    try:
        return str(value)
    except ValueError as error:  # Python writes out no whole number of more than 4,300 digits
        raise InputError(f"{where}: the number is too large") from error


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads to somewhere in `folder`, links followed; one to nowhere does not."""
    try:
        return resolved(path).is_relative_to(resolved(folder))
    except (OSError, ValueError):
        return False


def _content(file: Path) -> bytes | None:
    try:
        return read_file(file, MOST_BYTES) if file.is_file() else None
    except (InputError, OSError):
        return None  # somebody else's, and none of costsim's business


def _options(command: click.Command) -> Iterator[click.Option]:
    return (one for one in command.params if isinstance(one, click.Option))


def _keys(option: click.Option) -> list[str]:
    """The names of an option, long ones only, without dashes."""
    return [name.removeprefix("--") for name in option.opts if name.startswith("--")]

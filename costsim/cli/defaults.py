"""Defaults of a project: `[tool.costsim]` in the `pyproject.toml` of this folder or one above it.

    [tool.costsim]
    device = "jetson-nano"     # of every command that has --device

    [tool.costsim.plan]
    explain = true             # of costsim plan alone

A key is an option without its dashes; what is typed wins. Files are looked for beside
`pyproject.toml`. Code is never named there: a folder that somebody else made must not choose what
runs, so that `package.module:name` is to be typed.
"""

import sys
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from costsim.base.errors import InputError, shown
from costsim.base.files import read_file, told_path
from costsim.base.nearness import hint

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
        if option.is_flag:
            if not isinstance(value, bool):
                raise InputError(f"{where}: is {shown(value)}; true or false is needed")
            return value
        several = option.multiple
        texts = value if isinstance(value, list) and several else [value]
        if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in texts):
            wanted = "a text or number, or a list of them," if several else "a text or number"
            raise InputError(f"{where}: is {shown(value)}; {wanted} is needed")
        read = [self._text(option, where, str(one)) for one in texts]
        return read if several else read[0]

    def _text(self, option: click.Option, where: str, text: str) -> str:
        here = self.file.parent
        if isinstance(option.type, click.Path):
            return text if text == "random" or text.startswith("hub:") else str(here / text)
        name, _, _split = text.partition("::")
        if _keys(option)[0] in MAY_BE_FILES and name and (here / name).exists():
            return str(here / text)
        if ":" in text and _keys(option)[0] in NAMES_CODE:
            raise InputError(f"{where}: {shown(text)} is code, which is to be typed, not read here")
        return text


MAY_BE_FILES = frozenset(("device", "model", "data", "source", "transfer"))
"""Options whose values are names of other things too; a file of that name is meant first."""

NAMES_CODE = frozenset(("model", "solver", "criterion", "method", "guard"))
"""Options whose values may be `package.module:name`, which is run."""


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
        print(f"costsim: note: {told_path(defaults.file)}: {', '.join(used)}", file=sys.stderr)


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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

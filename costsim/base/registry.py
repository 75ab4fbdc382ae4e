"""Registries: what there is of a kind, by the name that a person types.

A registry says of each name where its class is and, in a few words, what it is; the class is
imported when it is asked for. So help lists every name at no cost, and to add one takes its own
file and an entry.

Others add theirs without a change here: a package by an entry point in the registry's `group`, a
person by naming code, `my.py:Mine` (`costsim.base.code`; whether a file may name it is
`costsim.base.trust`'s to say).
"""

import importlib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from costsim.base.code import (
    find_code,
    folder_of,
    importable_from,
    is_code,
    others_prints_aside,
    parse_code_name,
    sentence,
)
from costsim.base.errors import InputError, shown
from costsim.base.nearness import hint

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One name: `place` is `package.module:Class`, `words` end a line of help.

    `options` are given to the class; one that is an entry is made first. `tags` are what others
    must know of it before it is imported.
    """

    place: str
    words: str
    options: Mapping[str, object] = field(default_factory=dict)
    tags: Collection[str] = ()

    def load(self) -> Any:
        """The class itself."""
        return _load(self.place)

    def make(self) -> Any:
        """One of the class."""
        made = {k: v.make() if isinstance(v, Entry) else v for k, v in self.options.items()}
        return self.load()(**made)


def _load(place: str) -> Any:
    """What stands at `package.module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Registry(Mapping[str, T]):
    """Names to what is made of them, anew each time; `what` is what messages call one.

    A test imports every entry and holds that it is a `T`. Of what comes from others, `kind` is the
    class (`package.module:Class`) that it must be of, `group` that of packages' entry points, and
    `of_function` the class that makes one of a plain function.
    """

    def __init__(
        self,
        what: str,
        entries: Mapping[str, Entry],
        *,
        group: str | None = None,
        kind: str | None = None,
        of_function: str | None = None,
    ) -> None:
        self.what, self.entries = what, entries
        self.group, self.kind, self.of_function = group, kind, of_function

    def __getitem__(self, name: str) -> T:
        made: T
        if name in self.entries:
            made = self.entries[name].make()
            return made
        if self.kind is None:
            raise KeyError(name)
        if is_code(name):
            return self._of_code(name)
        if found := [one for one in self._added() if one.name == name]:
            return self._of_plugin(*found)
        raise KeyError(name)

    @property
    def plugins(self) -> Mapping[str, EntryPoint]:
        """What installed packages add, by name; a name that is here already stays what it is."""
        return {one.name: one for one in self._added() if one.name not in self.entries}

    def _added(self) -> Iterable[EntryPoint]:
        return () if self.group is None else entry_points(group=self.group)

    def _of_plugin(self, plugin: EntryPoint, *others: EntryPoint) -> T:
        if any(one.value != plugin.value for one in others):
            values = ", ".join(one.value for one in (plugin, *others))
            raise InputError(f"{self.what} {plugin.name!r}: several packages add one: {values}")
        try:
            with others_prints_aside():
                found = plugin.load()
        except (Exception, SystemExit) as error:  # whatever foreign code raises is its own fault
            raise InputError(
                f"{self.what} {plugin.name!r}: {plugin.value} cannot be loaded: {sentence(error)}"
            ) from error
        return self._one(found, plugin.name, {})

    def _of_code(self, spec: str) -> T:
        name = parse_code_name(spec, self.what)
        with importable_from(folder_of(name)):
            return self._one(find_code(name, self.what), spec, name.arguments)

    def _one(self, found: Any, told: str, options: Mapping[str, object]) -> T:
        """What others' code gives: a class is made, a function wrapped, one of the kind is it."""
        kind = _load(self.kind or "builtins:object")
        try:
            with others_prints_aside():
                if inspect.isclass(found):
                    found = found(**options)
                elif self.of_function is not None and inspect.isfunction(found):
                    found = _load(self.of_function)(found, dict(options))
                name = getattr(found, "name", None)
        except (Exception, SystemExit) as error:
            raise InputError(f"{self.what} {told!r}: fails: {sentence(error)}") from error
        if not isinstance(found, kind):
            raise InputError(
                f"{self.what} {told!r}: is a {type(found).__name__}; one of {kind.__module__}."
                f"{kind.__name__} is needed"
            )
        if not isinstance(name, str):
            raise InputError(f"{self.what} {told!r}: its name is {shown(name)}; a text is needed")
        made: T = found
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        if name in self.entries:
            return True
        return (
            self.kind is not None
            and isinstance(name, str)
            and (is_code(name) or name in self.plugins)
        )

    @property
    def known(self) -> str:
        """All names, for a message."""
        names = [*self, *self.plugins]
        listed = ("; " if any("," in name for name in names) else ", ").join(names)
        return listed if self.kind is None else f"{listed}, and code of yours, file.py:name"

    def check(self, name: str) -> None:
        """Raise `InputError` for a name that is none of these."""
        if name not in self:
            raise InputError(
                f"{self.what} {shown(name)} is unknown; {hint(name, self)}known are {self.known}"
            )

    def make(self, name: str) -> T:
        """What is called `name`; raises `InputError` for any other name."""
        self.check(name)
        return self[name]

    def tagged(self, tag: str) -> tuple[str, ...]:
        """The names that have this tag."""
        return tuple(name for name, entry in self.entries.items() if tag in entry.tags)

"""Registries: what there is of a kind, by the name that a person types.

A registry says of each name where its class is and, in a few words, what it is; the class is
imported when it is asked for. So help lists every name at no cost, and to add one takes its own
file and an entry.
"""

import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from costsim.base.errors import InputError, shown

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
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(module), name)

    def make(self) -> Any:
        """One of the class."""
        made = {k: v.make() if isinstance(v, Entry) else v for k, v in self.options.items()}
        return self.load()(**made)


class Registry(Mapping[str, T]):
    """Names to what is made of them, anew each time; `what` is what messages call one.

    A test imports every entry and holds that it is a `T`.
    """

    def __init__(self, what: str, entries: Mapping[str, Entry]) -> None:
        self.what = what
        self.entries = entries

    def __getitem__(self, name: str) -> T:
        made: T = self.entries[name].make()
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    @property
    def known(self) -> str:
        """All names, for a message."""
        return ("; " if any("," in name for name in self) else ", ").join(self)

    def check(self, name: str) -> None:
        """Raise `InputError` for a name that is none of these."""
        if name not in self:
            raise InputError(f"{self.what} {shown(name)} is unknown; known are {self.known}")

    def make(self, name: str) -> T:
        """What is called `name`; raises `InputError` for any other name."""
        self.check(name)
        return self[name]

    def tagged(self, tag: str) -> tuple[str, ...]:
        """The names that have this tag."""
        return tuple(name for name, entry in self.entries.items() if tag in entry.tags)

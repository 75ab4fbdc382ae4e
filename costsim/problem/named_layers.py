"""Layers that a person chose by name, with patterns as a shell has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NoReturn

from costsim.base.errors import InputError

NEAREST = 3
"""How many names an error suggests."""


@dataclass(frozen=True, slots=True)
class NamedLayers:
    """The layers that match one of `layers` (without any: all) and none of `exclude`.

    A pattern is a name, or has `*` for any characters, `?` for one, `[ab]` for one of some.
    """

    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def means(self, name: str) -> bool:
        """Whether a layer of this name is meant."""
        wanted = not self.layers or _matches(name, self.layers)
        return wanted and not _matches(name, self.exclude)

    def check(self, choosable: Sequence[str], every: Sequence[str]) -> None:
        """Raise `InputError` for a pattern that says nothing, and where no layer is left.

        One that matches none of the `choosable` layers: with the names nearest to it among
        `every` layer, or, where it matches others, with why they cannot be chosen.
        """
        for pattern in self.layers:
            if not any(_match(name, pattern) for name in choosable):
                self._refuse("layers", pattern, every)
        for pattern in self.exclude:
            if not any(_match(name, pattern) for name in every):
                self._refuse("exclude", pattern, every)
        if not any(self.means(name) for name in choosable):
            told = ", ".join(self.layers) or "all"
            raise InputError(
                f"layers {told} without {', '.join(self.exclude)}: none is left to choose from"
            )

    def _refuse(self, key: str, pattern: str, every: Sequence[str]) -> NoReturn:
        if found := [name for name in every if _match(name, pattern)]:
            raise InputError(
                f"{key} {pattern!r} matches {', '.join(found[:NEAREST])} alone, which cannot be "
                "chosen: without MACs (a normalisation), or frozen by the model's author"
            )
        near = get_close_matches(pattern, every, n=NEAREST, cutoff=0.0)
        raise InputError(
            f"{key} {pattern!r} matches no layer of the model; nearest are {', '.join(near)}"
        )


def _match(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(_match(name, pattern) for pattern in patterns)

"""What can go wrong, and what the command line makes of it.

CostsimError                    exit status 2, one line
├── InputError                  a file, key, value or option that cannot be used
│   ├── Mistakes                several keys of one file: a line each
│   └── UnsupportedOperator     a model with an operator nobody described
├── InvalidSolution             a solver returned a plan that its own problem forbids
└── OthersFault                 a criterion or a method of somebody's fails
"""

import warnings
from collections.abc import Sequence


class CostsimError(Exception):
    """Base of every error this library raises on purpose; its text is one complete line."""


class InputError(CostsimError):
    """Something a person gave is unusable: says what it was, where, and what is allowed."""


class Mistakes(InputError):
    """All that is wrong with one file, a line each: `lines`; as text, the first and how many."""

    def __init__(self, source: str, found: Sequence[str]) -> None:
        self.lines = tuple(f"{source}: {one}" for one in found)
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        super().__init__(f"{self.lines[0]}{more}")


class UnsupportedOperator(InputError):
    """The model calls an operator that no file of `costsim.ir.operators` describes."""


class Note(UserWarning):
    """What was passed over, guessed or converted, and stops nothing: one line for a person.

    The command line shows it on stderr, once; a program may turn it into an error.
    """


class InvalidSolution(CostsimError):
    """A solver's answer, priced again, breaks a budget or a rule of its problem."""


class OthersFault(CostsimError):
    """Code that a person or a package added raises something, or gives what is of no use."""


MOST_SHOWN = 80
"""Characters of a value that a message repeats; the rest of it helps nobody."""


def shown(value: object, most: int = MOST_SHOWN) -> str:
    """`value` as a message repeats it: `repr`, its middle left out where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        text = f"a {type(value).__name__} too long to write"
    return shortened(text, most)


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """`text`, its middle left out where it is longer than `most` characters."""
    if len(text) <= most:
        return text
    ending = most // 4
    return f"{text[: most - ending - 1]}…{text[-ending:]}"


def one_line(text: str, most: int = 1000) -> str:
    """What a file, a device or a program said, fit for a message: on one line, and only to be read.

    White space is one space, what no terminal should obey is escaped, the middle of a flood left
    out.
    """
    words = shortened(" ".join(text.split()), most)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def note(text: str) -> None:
    """Say `text`, as a `Note`."""
    warnings.warn(Note(text), stacklevel=3)

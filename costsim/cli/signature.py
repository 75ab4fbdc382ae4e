"""What was typed of a command, as one frozen dataclass of its options, made at the door.

A command names its dataclass and takes one value of it, so that the type checker knows every
option by name and by type; a test holds fields and options together.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import click
from click.core import ParameterSource

Typed = TypeVar("Typed")


def taking(kind: Callable[..., Typed]) -> Callable[[Callable[[Typed], int]], Callable[..., int]]:
    """A function of one `kind` as what click calls with a keyword an option."""

    def applied(function: Callable[[Typed], int]) -> Callable[..., int]:
        @functools.wraps(function)
        def called(**given: object) -> int:
            return function(kind(**given))

        return called

    return applied


def was_typed(name: str) -> bool:
    """Whether the person gave the option whose field is `name`, be it the default's own value."""
    context = click.get_current_context()
    assert name in context.params, name
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT

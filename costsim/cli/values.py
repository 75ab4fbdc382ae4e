"""How values are read that a person types after an option."""

from collections.abc import Callable
from typing import Any

import click

from costsim.base.errors import InputError, shown
from costsim.base.units import parse_count, parse_macs, parse_percent
from costsim.ir.step import BitWidths


class Quantity(click.ParamType):  # type: ignore[type-arg]
    """A number with a unit, read by one of the parsers of `costsim.base.units` or of this file."""

    def __init__(self, name: str, parse: Callable[[str, str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What was typed, parsed; a default that is no text stays as it is."""
        what = param.opts[0] if param is not None else self.name
        return self.parse(value, what) if isinstance(value, str) else value


def parse_bits(text: str, base: BitWidths) -> BitWidths:
    """`8` for all, or `weights=8,activations=8`: what is not named stays as in `base`."""
    names = ("weights", "activations", "gradients", "optimizer")
    widths = {name: getattr(base, name) for name in names}
    given = set[str]()
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        chosen = [name] if equals else list(names)
        number = number if equals else name
        width = parse_count(number)
        if width is None or any(one not in names for one in chosen):
            raise InputError(
                f"--bits: cannot read {shown(part.strip())}; give a number, or NAME=NUMBER with "
                f"NAME one of {', '.join(names)}"
            )
        if name in given or (given and not equals):
            raise InputError(f"--bits: {shown(text)} says twice what {' and '.join(chosen)} have")
        given.add(name)
        widths |= dict.fromkeys(chosen, width)
    return BitWidths(**widths)


def parse_macs_or_share(text: str, what: str) -> tuple[int | None, float | None]:
    """`6.5M` as a count, or `15%` as a share; the other is None."""
    share = parse_percent(text, what)
    return (parse_macs(text, what), None) if share is None else (None, share)


def parse_count_or_all(text: str, what: str) -> int | None:
    """A number of layers, or `all` as None."""
    if text == "all":
        return None
    number = parse_count(text, least=1)
    if number is None:
        raise InputError(f"{what}: cannot read {shown(text)}; give a number of layers, or all")
    return number


def parse_share(text: str, what: str) -> float:
    """A percentage above zero as a share."""
    share = parse_percent(text, what)
    if not share:
        raise InputError(f"{what}: cannot read {text!r}; give a percentage above 0%, such as 90%")
    return share

"""What a shell offers after an option: names of devices, networks, solvers and the like.

For each option a function that click calls while a person types; it loads no more than lists of
names. Set up once: `eval "$(_COSTSIM_COMPLETE=bash_source costsim)"`, likewise `zsh_source`, and
`_COSTSIM_COMPLETE=fish_source costsim | source`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from costsim.base.errors import InputError, shown
from costsim.base.units import parse_count

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from costsim.base.registry import Registry

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

VARIABLE = "_COSTSIM_COMPLETE"
"""Of the environment: what a shell asks for."""


def begun(
    known: Iterable[tuple[str, str | None]], incomplete: str, *, or_file: bool = False
) -> "list[CompletionItem]":
    """The names that what was typed begins, in any case of letters, each with what it is.

    With `or_file` a file may stand there too, which the shell then looks for itself.
    """
    from click.shell_completion import CompletionItem

    typed = incomplete.casefold()
    found = [
        CompletionItem(name, help=words)
        for name, words in known
        if name.casefold().startswith(typed)
    ]
    return [*found, CompletionItem(incomplete, type="file")] if or_file else found


def check_question(asked: Mapping[str, str]) -> None:
    """Raise `InputError` where the environment asks what no shell does."""
    from click.shell_completion import get_completion_class

    shell, _, kind = asked[VARIABLE].partition("_")
    if get_completion_class(shell) is None or kind not in ("source", "complete"):
        raise InputError(
            f"{VARIABLE}: {shown(asked[VARIABLE])} is unknown; allowed are bash_source, zsh_source "
            "and fish_source"
        )
    missing = [name for name in ("COMP_WORDS", "COMP_CWORD") if name not in asked]
    if kind == "complete" and missing:
        raise InputError(f"{VARIABLE}: {missing[0]} is missing, which the shell's own code gives")
    if kind == "complete" and shell != "fish" and parse_count(asked["COMP_CWORD"]) is None:
        raise InputError(
            f"COMP_CWORD: cannot read {shown(asked['COMP_CWORD'])}; a number is needed"
        )


def of_registry(registry: "Registry[Any]") -> Completer:
    """The names of a registry, with their words."""

    def complete(
        _context: click.Context, _option: click.Parameter, incomplete: str
    ) -> "list[CompletionItem]":
        known = ((name, entry.words) for name, entry in registry.entries.items())
        return begun(known, incomplete)

    return complete


def devices(
    _context: click.Context, _option: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """The shipped devices by the names of their files, or a file of one's own."""
    from importlib import resources

    files = sorted(file.name for file in resources.files("costsim.devices").iterdir())
    known = ((name.removesuffix(".yaml"), None) for name in files if name.endswith(".yaml"))
    return begun(known, incomplete, or_file=True)


def models(
    _context: click.Context, _option: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """The built-in networks, or an exported file."""
    from costsim.models.networks import NETWORKS

    known = ((name, network.source) for name, network in NETWORKS.items())
    return begun(known, incomplete, or_file=True)

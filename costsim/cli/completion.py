"""What a shell offers after an option: names of devices, networks, solvers and the like.

For each option a function that click calls while a person types; it loads no more than lists of
names. Set up once: `eval "$(_COSTSIM_COMPLETE=bash_source costsim)"`, likewise `zsh_source`, and
`_COSTSIM_COMPLETE=fish_source costsim | source`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

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

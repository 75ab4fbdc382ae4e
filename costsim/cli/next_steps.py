"""The last line for a person at a terminal: the command that most likely comes next.

It names the files that were just written, and is said on stderr where both outputs are a terminal:
never in a pipe, a file or a JSON document.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from costsim.cli.colour import heading, typed_name


def tell_next(*commands: Sequence[str | Path], as_json: bool = False) -> None:
    """Say the commands, each as its words after `costsim`; quoted as a shell needs it."""
    if as_json or not (_is_terminal(sys.stdout) and _is_terminal(sys.stderr)):
        return
    for command in commands:
        told = shlex.join(["costsim", *map(str, command)])
        click.echo(f"{heading('Next:')} {typed_name(told)}", err=True)


def _is_terminal(stream: object) -> bool:
    isatty = getattr(stream, "isatty", None)
    return bool(isatty is not None and isatty())

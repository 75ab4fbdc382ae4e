"""Colour of help and of the last line, where a terminal has it and nobody asked for none."""

import os

import click


def wanted() -> bool:
    """Whether the person's environment allows it; click takes it out of what is no terminal."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def heading(text: str) -> str:
    """Text that begins a part."""
    return click.style(text, bold=True) if wanted() else text


def typed_name(text: str) -> str:
    """What is typed as it stands."""
    return click.style(text, fg="cyan") if wanted() else text

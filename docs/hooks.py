"""What the documentation takes from the code when it is built: help texts, names, how-to pages."""

import importlib
from pathlib import Path
from typing import Any

import click

HELP = "<!-- costsim help -->"
NAMES = "<!-- costsim names -->"
WIDTH = 92
"""Columns of the help texts."""


def on_config(config: Any) -> Any:
    """Add the how-to pages that the navigation does not name, in alphabetical order."""
    folder = Path(config["docs_dir"])
    for entry in config["nav"]:
        if "How to" in entry:
            pages = entry["How to"]
            named = {page for one in pages for page in one.values()}
            found = sorted(f"how-to/{file.name}" for file in (folder / "how-to").glob("*.md"))
            pages += [page for page in found if page not in named]
    return config


def on_page_markdown(markdown: str, **_more: Any) -> str:
    """Put help texts and names where a page asks for them."""
    if HELP in markdown:
        markdown = markdown.replace(HELP, help_texts())
    return markdown.replace(NAMES, names()) if NAMES in markdown else markdown


def help_texts() -> str:
    """Every command's help, below a heading with what it is for."""
    from costsim.cli import COMMAND_GROUPS, cli

    parts = []
    context = click.Context(cli, info_name="costsim", max_content_width=WIDTH, terminal_width=WIDTH)
    for heading, commands in COMMAND_GROUPS.items():
        parts.append(f"## {heading}")
        for name in commands:
            command = cli.get_command(context, name)
            assert command is not None
            inner = click.Context(command, context, name, terminal_width=WIDTH)
            told = click.unstyle(command.get_help(inner))
            parts.append(f"### costsim {name}\n\n```text\n{told}\n```")
    return "\n\n".join(parts)


def names() -> str:
    """Every public name, as a reference by its docstring."""
    costsim = importlib.import_module("costsim")
    homes = {name: getattr(costsim, name).__module__ for name in costsim.__all__}
    return "\n\n".join(f"::: {homes[name]}.{name}" for name in sorted(homes, key=str.lower))

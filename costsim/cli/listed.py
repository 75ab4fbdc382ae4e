"""Commands whose help tells what there is to choose from, so that nobody keeps the list by hand."""

from collections.abc import Mapping
from typing import Any

import click

from costsim.base.registry import Entry


class ListingCommand(click.Command):
    """A command whose help ends with these entries, a line each, below their headings."""

    def __init__(
        self, *args: Any, listed: Mapping[str, Mapping[str, Entry]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.listed = listed

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, and behind them what they choose from."""
        super().format_options(ctx, formatter)
        for heading, entries in self.listed.items():
            with formatter.section(heading):
                formatter.write_dl([(name, entry.words) for name, entry in entries.items()])

"""Options whose help lists what a table has, so that nobody keeps the list by hand."""

from collections.abc import Callable, Iterable
from typing import Any

import click


class ListedOption(click.Option):
    """An option that takes a name: its sentence ends with the names there are.

    `names` is asked when help is shown and not before, because the table may take long to import.
    """

    def __init__(self, *args: Any, names: Callable[[], Iterable[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The record of click, with the names where the sentence ends."""
        words = self.help or ""
        self.help = f"{words.removesuffix('.')}: {', '.join(self.names())}."
        try:
            return super().get_help_record(ctx)
        finally:
            self.help = words

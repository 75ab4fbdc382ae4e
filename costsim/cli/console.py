"""Where tables are printed: what a file or others' code calls itself is read, never obeyed.

A plan, a device file or a solver's name may hold what a terminal takes for a command: to wipe what
stands above, to write a link, to answer as if the person had typed. Such characters are escaped as
the parts of a table are drawn.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import console
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType


class Console(console.Console):
    """As rich has it, but that of every text what is not for reading is escaped."""

    def render(
        self, renderable: "RenderableType", options: "ConsoleOptions | None" = None
    ) -> Iterable[Segment]:
        """The parts of what is printed; rich's own codes, such as those of colours, are no text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.replace("\n", "").isprintable():
                yield segment
            else:
                yield Segment(_escaped(segment.text), segment.style)


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)

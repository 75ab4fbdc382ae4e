"""How a task was drawn: what a plan file says of it, so that it can be drawn again."""

from dataclasses import dataclass

from costsim.data import Drawing

NOTHING_ASIDE = Drawing(queries=0, tracks=False)


@dataclass(frozen=True)
class Drawn:
    """What was typed of where the images are, and the settled rule that chose among them.

    `data` and `split` are None for the images that ship; the rule that of a task in which nothing
    was set aside, unless it is given.
    """

    data: str | None = None
    split: str | None = None
    drawing: Drawing = NOTHING_ASIDE

"""How a task was drawn: what a plan file says of it, so that it can be drawn again."""

from dataclasses import dataclass

from costsim.solving.planfile import EpisodeName


@dataclass(frozen=True)
class Drawn:
    """What was typed of where the images are, and the rule that chose among them.

    `data` and `split` are None for the images that ship. `queries` images of each class were set
    aside, and `tracks` says whether frames of one track stayed on one side: what is learnt from
    hangs on both.
    """

    data: str | None = None
    split: str | None = None
    episode: EpisodeName = "fixed"
    queries: int = 0
    tracks: bool = False

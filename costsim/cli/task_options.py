"""Options of the samples of a task: where they are, and how they are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costsim.base.errors import InputError
from costsim.base.extras import require
from costsim.cli.options import F, path_option, together
from costsim.learning.pretraining.settings import EPISODES

if TYPE_CHECKING:
    from costsim.data import Drawing, EpisodeName


FOLDERS = "Images in one folder a class: a folder, .tar, .tar.gz or .zip"
IMAGES = (
    f"{FOLDERS}; arrays: .npz of x and y, .npy beside labels.npy, .csv with a column label; "
    "Omniglot's own zips; Parquet files, or hub:NAME, with the extra costsim[hub]"
)
WITHOUT_DATA = "Without it: the handwritten digits inside scikit-learn."


def data_option(words: str = f"{IMAGES}. {WITHOUT_DATA}") -> Callable[[F], F]:
    """`--data`, a path."""
    return path_option("--data", metavar="PATH", callback=_of_hub, help=words)


def _of_hub(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """The path; refused at once where it names the hub and the extra for that is missing."""
    check_hub(path)
    return path


def check_hub(path: Path | str | None) -> None:
    """Raise `InputError` for data of the hub where the extra for that is not installed."""
    if path is not None and str(path).startswith("hub:"):
        require("hub", "--data hub:")


split_option = click.option(
    "--split",
    metavar="NAME",
    help="Sub-folder of the data, where it has several; or --data PATH::NAME.",
)
ways_option = click.option(
    "--ways", type=int, metavar="N", help="Classes of the task.  [default: up to 10]"
)


def episode_option(words: str) -> Callable[[F], F]:
    """`--episode`."""
    return click.option(
        "--episode",
        type=click.Choice(EPISODES),
        default="fixed",
        show_default=True,
        help=words,
    )


task_options = together(
    episode_option("fixed: --ways and --shots; meta-dataset: both vary, as drawn from the seed."),
    ways_option,
    click.option("--shots", type=int, metavar="N", help="Images of each class.  [default: 5]"),
    click.option(
        "--queries",
        type=int,
        metavar="N",
        help="Other images of each class, set aside to measure the accuracy on.  [default: 10, or "
        "as many as there are]",
    ),
    click.option(
        "--tracks/--no-tracks",
        default=True,
        show_default=True,
        help="Images named TRACK_FRAME (photographs of one object): a track is learnt from or "
        "tested on, never both.",
    ),
)
"""Which task is drawn from the data; see `costsim.data.Drawing`."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What `task_options` read."""

    episode: str
    ways: int | None
    shots: int | None
    queries: int | None
    tracks: bool

    @property
    def drawing(self) -> "Drawing":
        """As one value, not yet settled by the images."""
        from costsim.data import Drawing

        varies = self.episode == "meta-dataset"
        episode: EpisodeName = "meta-dataset" if varies else "fixed"
        return Drawing(self.ways, self.shots, self.queries, episode, self.tracks)


def check_split(split: str | None, data: object) -> None:
    """Raise `InputError` for a part of data that is not given."""
    if split is not None and data is None:
        raise InputError("--split names a part of --data, which is missing")

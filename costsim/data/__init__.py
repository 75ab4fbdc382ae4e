"""Real images as few-shot tasks: folders, archives, and the digits that need neither."""

from costsim.base.progress import Progress
from costsim.data.arrays import ArraySource, are_images, open_arrays
from costsim.data.digits import digits
from costsim.data.drawing import (
    DEFAULT_QUERIES,
    DEFAULT_SHOTS,
    DEFAULT_WAYS,
    Drawing,
    EpisodeName,
    draw_task,
)
from costsim.data.episode import Episode, EpisodeRule, FixedEpisode, MetaDatasetEpisode
from costsim.data.folder import ImageFolder, open_images
from costsim.data.location import given_source, is_of_hub, open_source
from costsim.data.pixels import DecodedImages, decode_all
from costsim.data.source import ImageSource
from costsim.data.task import (
    Task,
    classes_of,
    make_task,
    read_task,
    resolution_and_channels,
    sample_episode,
    sample_task,
)
from costsim.data.tracks import find_tracks

__all__ = [
    "DEFAULT_QUERIES",
    "DEFAULT_SHOTS",
    "DEFAULT_WAYS",
    "ArraySource",
    "DecodedImages",
    "Drawing",
    "Episode",
    "EpisodeName",
    "EpisodeRule",
    "FixedEpisode",
    "ImageFolder",
    "ImageSource",
    "MetaDatasetEpisode",
    "Progress",
    "Task",
    "are_images",
    "classes_of",
    "decode_all",
    "digits",
    "draw_task",
    "find_tracks",
    "given_source",
    "is_of_hub",
    "make_task",
    "open_arrays",
    "open_images",
    "open_source",
    "read_task",
    "resolution_and_channels",
    "sample_episode",
    "sample_task",
]

"""Real images as few-shot tasks: folders, archives, and the digits that need neither."""

from costsim.base.progress import Progress
from costsim.data.digits import digits
from costsim.data.episode import Episode, EpisodeRule, FixedEpisode, MetaDatasetEpisode
from costsim.data.folder import ImageFolder, open_images
from costsim.data.location import is_of_hub, open_source
from costsim.data.pixels import DecodedImages, decode_all
from costsim.data.source import ImageSource
from costsim.data.task import Task, classes_of, make_task, read_task, sample_episode, sample_task
from costsim.data.tracks import find_tracks

__all__ = [
    "DecodedImages",
    "Episode",
    "EpisodeRule",
    "FixedEpisode",
    "ImageFolder",
    "ImageSource",
    "MetaDatasetEpisode",
    "Progress",
    "Task",
    "classes_of",
    "decode_all",
    "digits",
    "find_tracks",
    "is_of_hub",
    "make_task",
    "open_images",
    "open_source",
    "read_task",
    "sample_episode",
    "sample_task",
]

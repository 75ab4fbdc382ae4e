"""Real images as few-shot tasks: folders, archives, and the digits that need neither."""

from costsim.data.digits import digits
from costsim.data.folder import ImageFolder, open_images
from costsim.data.source import ImageSource, Progress
from costsim.data.task import Task, sample_task

__all__ = [
    "ImageFolder",
    "ImageSource",
    "Progress",
    "Task",
    "digits",
    "open_images",
    "sample_task",
]

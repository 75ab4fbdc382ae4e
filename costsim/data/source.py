"""What a task can be sampled from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from PIL import Image


class ImageSource(Protocol):
    """Labelled images that are decoded only when asked for."""

    @property
    def description(self) -> str:
        """Where the images come from, for a person."""

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the images of each class, both in ascending order."""

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        """Decode these images; they come in whatever order suits the source."""

"""From what a person typed after `--data` to images by class."""

from pathlib import Path

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.data.folder import open_images, path_and_split
from costsim.data.parquet import parquet_files
from costsim.data.source import ImageSource


def open_source(
    path: str | Path, split: str | None = None, progress: Progress | None = None
) -> ImageSource:
    """Index images: folders and archives (`open_images`), Parquet files and `hub:NAME` (`hub`).

    A split may follow `::`. Raises `InputError` for whatever cannot be used.
    """
    if str(path) in ("", "hub:"):
        raise InputError(f"{str(path)!r} names no images; a path, or hub:NAME, is needed")
    path, split = path_and_split(path, split)
    if is_of_hub(path) or parquet_files(path):
        from costsim.data.hub import open_hub

        return open_hub(str(path), split, progress)
    return open_images(path, split, progress)


def is_of_hub(path: str | Path) -> bool:
    """Whether it names a dataset of the hub, `hub:NAME`, and no file."""
    return str(path).startswith("hub:")

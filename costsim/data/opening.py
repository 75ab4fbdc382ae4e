"""From what a person typed after `--data` to images by class."""

from pathlib import Path

from costsim.data.folder import open_images
from costsim.data.parquet import parquet_files
from costsim.data.source import ImageSource, Progress


def open_source(
    path: str | Path, split: str | None = None, progress: Progress | None = None
) -> ImageSource:
    """Index images: folders and archives (`open_images`), Parquet files and `hub:NAME` (`hub`).

    Raises `InputError` for whatever cannot be used.
    """
    text = str(path)
    if text.startswith("hub:") or parquet_files(Path(text)):
        from costsim.data.hub import open_hub

        return open_hub(text, split, progress)
    return open_images(path, split, progress)

"""From what a person typed after `--data` to images by class."""

from pathlib import Path

import numpy as np

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.data.arrays import SUFFIXES, ArraySource, open_arrays
from costsim.data.digits import digits
from costsim.data.folder import open_images, path_and_split
from costsim.data.parquet import parquet_files
from costsim.data.source import ImageSource


def open_source(
    path: str | Path, split: str | None = None, progress: Progress | None = None
) -> ImageSource:
    """Index images: folders and archives (`open_images`), Parquet files and `hub:NAME` (`hub`);
    or read arrays (`costsim.data.arrays`).

    A split may follow `::`. Raises `InputError` for whatever cannot be used.
    """
    if str(path) in ("", "hub:"):
        raise InputError(f"{str(path)!r} names no images; a path, or hub:NAME, is needed")
    path, split = path_and_split(path, split)
    if Path(path).suffix in SUFFIXES and not Path(path).is_dir():
        return open_arrays(Path(path), split)
    if is_of_hub(path) or parquet_files(path):
        from costsim.data.hub import open_hub

        return open_hub(str(path), split, progress)
    return open_images(path, split, progress)


def given_source(
    data: object, split: str | None = None, progress: Progress | None = None
) -> ImageSource:
    """What a program says of its samples: a path, a source, a pair of arrays (samples, labels), or
    None for the digits. Raises `InputError` for anything else."""
    if data is None:
        return digits()
    if isinstance(data, str | Path):
        return open_source(data, split, progress)
    if isinstance(data, tuple) and len(data) == 2:
        samples, labels = (np.asarray(one) for one in data)
        return ArraySource("arrays of a program", samples, labels)
    if isinstance(data, ArraySource) or hasattr(data, "read"):
        source: ImageSource = data  # type: ignore[assignment]
        return source
    raise InputError(
        f"data is a {type(data).__name__}; a path, (samples, labels) or a source is needed"
    )


def is_of_hub(path: str | Path) -> bool:
    """Whether it names a dataset of the hub, `hub:NAME`, and no file."""
    return str(path).startswith("hub:")

"""Images from Hugging Face `datasets`: Parquet files on disk, or a dataset of the hub.

An extra: `pip install "costsim[hub]"`. Nothing is ever fetched but a dataset that was named as
`hub:owner/name`; what the library has fetched before is read from its cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from costsim.base.errors import InputError, note
from costsim.base.files import read_file, scratch_folder
from costsim.base.progress import Progress
from costsim.data.containers import MAXIMUM_FILE_BYTES
from costsim.data.decode import MAXIMUM_PIXELS, decode, pixels_of
from costsim.data.parquet import parquet_files
from costsim.data.threads import threaded_map

PREFIX = "hub:"
"""What a dataset of the hub is named with, so that no path is taken for one."""


@dataclass(frozen=True, eq=False)
class HubImages:
    """The rows of a dataset with a column of images and one of class labels."""

    dataset: Any = field(repr=False)
    description: str
    image_column: str
    label_column: str

    @cached_property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Class names, or the labels themselves, each with its rows as `<class>/<row>`."""
        feature = self.dataset.features[self.label_column]
        names = getattr(feature, "names", None)
        found: dict[str, list[str]] = {}
        unlabelled = 0
        for row, label in enumerate(self.dataset[self.label_column]):
            if label is None or (names is not None and not 0 <= label < len(names)):
                unlabelled += 1  # they are marked with None or -1
                continue
            name = str(label) if names is None else str(names[label])
            name = name.replace("/", "_").replace("\n", " ")
            found.setdefault(name, []).append(f"{name}/{row:08d}")
        if unlabelled:
            note(f"{self.description}: {unlabelled} rows have no label and are left out")
        return {name: tuple(rows) for name, rows in sorted(found.items())}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        """Decode these rows; raises `InputError` naming the row that is damaged."""
        rows = [int(name.rpartition("/")[2]) for name in names]
        column = self.dataset.select(rows)[self.image_column]

        def decoded(item: tuple[str, bytes]) -> tuple[str, Image.Image]:
            name, data = item
            return name, decode(data, f"{self.description}: {name}")

        stored = zip(names, column, strict=True)
        return threaded_map(
            decoded,
            ((name, self._bytes(one, name)) for name, one in stored),
            size_of=lambda item: pixels_of(item[1]),
            most=MAXIMUM_PIXELS,
        )

    def _bytes(self, stored: Any, name: str) -> bytes:
        data = stored if isinstance(stored, bytes) else (stored or {}).get("bytes")
        if data is None and (path := (stored or {}).get("path")):
            try:
                return read_file(Path(path), MAXIMUM_FILE_BYTES)
            except InputError as error:
                raise InputError(f"{self.description}: {name}: {error}") from error
        if data is None:
            raise InputError(f"{self.description}: {name}: has no image")
        return bytes(data)


def open_hub(name: str, split: str | None = None, progress: Progress | None = None) -> HubImages:
    """Parquet files (one, or a folder of them), or with `hub:` before it a dataset of the hub.

    Raises `InputError` where the extra is missing, for files that cannot be read, a dataset that
    is not there, several splits and none chosen, and for columns of which none holds images or
    labels.
    """
    datasets = _library()
    if progress is not None:
        progress("opening the dataset", 0, 0)
    is_hub = name.startswith(PREFIX)
    try:
        if is_hub:
            found = datasets.load_dataset(name.removeprefix(PREFIX))
        else:
            found = datasets.DatasetDict(_parquet(datasets, Path(name)))
    except InputError:
        raise
    except Exception as error:  # it raises whatever its file systems and readers trip over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: cannot be read as a dataset: {reason}") from error
    if split is None and len(found) > 1:
        raise InputError(f"{name}: has several splits; choose one of {', '.join(found)}")
    chosen = next(iter(found)) if split is None else split
    if chosen not in found:
        raise InputError(f"{name}: has no split {split!r}; choose one of {', '.join(found)}")
    dataset = found[chosen]
    image, label = _columns(datasets, dataset, name)
    if isinstance(dataset.features[image], datasets.Image):
        dataset = dataset.cast_column(image, datasets.Image(decode=False))
    told = name.removeprefix(PREFIX) if is_hub else Path(name).name
    return HubImages(dataset, f"{told}::{split}" if split else told, image, label)


def _library() -> Any:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError('Parquet and the hub need an extra: pip install "costsim[hub]"') from error
    datasets.disable_progress_bars()
    return datasets


def _parquet(datasets: Any, path: Path) -> dict[str, Any]:
    """A dataset for each split; files are `split-*.parquet`, or are all of one split."""
    files = parquet_files(path)
    splits: dict[str, list[str]] = {}
    for file in files:
        split = file.stem.partition("-")[0]
        splits.setdefault(split if "-" in file.stem else "all", []).append(str(file))
    with scratch_folder() as scratch:  # it converts before it reads
        cache = str(scratch)
        return {
            split: datasets.Dataset.from_parquet(members, keep_in_memory=True, cache_dir=cache)
            for split, members in splits.items()
        }


def _columns(datasets: Any, dataset: Any, name: str) -> tuple[str, str]:
    features = dataset.features
    images = [
        column
        for column, feature in features.items()
        if isinstance(feature, datasets.Image)
        or (isinstance(feature, dict) and "bytes" in feature)
        or getattr(feature, "dtype", None) == "binary"
    ]
    labels = [c for c, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    labels += [c for c in ("label", "labels", "class", "fine_label") if c in features]
    if not images or not labels:
        kind = "images" if not images else "class labels"
        raise InputError(f"{name}: no column holds {kind}; its columns are {', '.join(features)}")
    return images[0], labels[0]


__all__ = ["PREFIX", "HubImages", "open_hub"]

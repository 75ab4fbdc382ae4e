"""Samples that are arrays already: `.npz`, a pair of `.npy`, a table as CSV with a label column.

    samples.npz          x and y (or data and labels, images and labels; x_train and y_train are
                         its split train), or any two of which one is a list of labels
    x.npy                its labels beside it, in x.labels.npy, labels.npy or y.npy
    table.csv            a row a sample: numbers, and one column label (or class, target, y)

Whole numbers of 8 bits with two or three dimensions a sample are images and are scaled to [-1, 1]
as images are; all other numbers are taken as they are. A row of numbers may be of any shape that
has as many elements.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from costsim.base.errors import InputError, note, shortened, shown
from costsim.base.files import read_file, told_path, why
from costsim.base.units import counted
from costsim.data.numpy_files import LARGEST_BYTES, NpzFile, read_npy

SUFFIXES = (".npz", ".npy", ".csv")

LABELS = ("labels", "label", "y", "targets", "target", "class")
DATA = ("x", "data", "images", "features", "signals", "samples")
BESIDE = ("{stem}.labels.npy", "labels.npy", "y.npy")
"""Where the labels of an `.npy` file are looked for."""


EXACT = 2**24
"""Whole numbers up to here are exact in 32 bits of floating point."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Labelled samples `[N, ...]` in memory; a sample is named by its class and its row."""

    description: str
    samples: NDArray[Any] = field(repr=False)
    labels: NDArray[Any] = field(repr=False)
    is_table: bool = False

    def __post_init__(self) -> None:
        if self.samples.ndim == 0:
            raise InputError(f"{self.description}: is a number; an array of samples is needed")
        if self.labels.ndim != 1 or len(self.labels) != len(self.samples):
            raise InputError(
                f"{self.description}: {counted(len(self.samples), 'sample')} and labels of shape "
                f"{self.labels.shape}; one label a sample is needed"
            )
        if self.labels.dtype.kind not in "biufUS":
            raise InputError(
                f"{self.description}: labels are of {self.labels.dtype}; numbers or texts are "
                "needed"
            )
        if (row := _unlabelled(self.labels)) is not None:
            raise InputError(
                f"{self.description}: sample {row + 1} of {len(self.labels)} has no label"
            )
        if self.samples.dtype.kind not in "fiub":
            raise InputError(
                f"{self.description}: samples are of {self.samples.dtype}; numbers are needed"
            )

    @cached_property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the samples of each class, both in ascending order."""
        width = len(str(max(len(self.labels) - 1, 0)))
        found: dict[str, list[str]] = {}
        labels = self.labels
        if labels.dtype.kind == "S":
            labels = np.char.decode(labels, "utf-8", "backslashreplace")
        for row, label in enumerate(labels.tolist()):
            found.setdefault(str(label), []).append(f"{label}/{row:0{width}d}")
        return {label: tuple(found[label]) for label in sorted(found)}

    @property
    def are_images(self) -> bool:
        """Whether the samples are images in 8 bits."""
        return self.samples.dtype == np.uint8 and self.samples.ndim in (3, 4)

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
        """These samples as images, where they are some; raises `InputError` for others."""
        if not self.are_images:
            raise InputError(
                f"{self.description}: numbers of shape {self.samples.shape[1:]}; images are needed"
            )
        for name in names:
            pixels = self.samples[int(name.rpartition("/")[2])]
            if pixels.ndim == 3:
                last = pixels if pixels.shape[2] in (1, 3) else np.moveaxis(pixels, 0, 2)
                if last.shape[2] not in (1, 3):
                    raise InputError(
                        f"{self.description}: samples are of shape {self.samples.shape[1:]}; "
                        "images have 1 or 3 channels"
                    )
                pixels = last[..., 0] if last.shape[2] == 1 else last
            yield name, Image.fromarray(np.ascontiguousarray(pixels))

    def values(self, names: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """These samples as float32 `[N, *shape]`.

        Raises `InputError` where a sample has another shape than the model takes, and for values
        that are not finite.
        """
        rows = self.samples[[int(name.rpartition("/")[2]) for name in names]]
        if self.are_images:
            rows = _channels_first(rows, shape)
            values = rows.astype(np.float32) / np.float32(127.5) - np.float32(1)
        else:
            values = self._rounded(rows)
        if values.shape[1:] != shape:
            flat = self.is_table and values[0].size == math.prod(shape)
            if not flat:
                raise InputError(
                    f"{self.description}: samples are of shape {self.samples.shape[1:]}; the model "
                    f"takes {shape}"
                )
            values = values.reshape(len(values), *shape)
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.description}: has values that are NaN, infinite or beyond 32 bits"
            )
        return np.ascontiguousarray(values)

    def _rounded(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """In 32 bits of floating point; whole numbers that they cannot tell apart are told of."""
        with np.errstate(over="ignore"):
            values: NDArray[np.float32] = rows.astype(np.float32)
        whole = rows.dtype.kind in "iu" and rows.size
        if whole and max(abs(int(rows.min())), abs(int(rows.max()))) > EXACT:
            note(f"{self.description}: whole numbers beyond {EXACT:,} are rounded to 32 bits")
        return values


def are_images(source: object) -> bool:
    """Whether a source is of images, of which lightly changed copies are images too."""
    return not isinstance(source, ArraySource) or source.are_images


def _channels_first(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Images `[N, H, W]` or `[N, H, W, C]` as the model takes them, `[N, C, H, W]`."""
    if rows.ndim == 3:
        return rows[:, None]
    if rows.shape[1:] != shape and (rows.shape[3], *rows.shape[1:3]) == shape:
        return np.moveaxis(rows, 3, 1)
    return rows


def open_arrays(path: Path, split: str | None = None) -> ArraySource:
    """The samples in a file of arrays; see the head of this module.

    Raises `InputError` for a file that is missing, damaged or without labels.
    """
    where = told_path(path)
    try:
        if path.suffix == ".csv":
            if split is not None:
                raise InputError(f"{where}: a table has no splits")
            return _table(path, where)
        samples, labels = _pair(path, split, where)
    except InputError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it was cut
        told = shortened(why(error), 200)
        raise InputError(f"{where}: is no file of plain arrays: {told}") from error
    part = "" if split is None else f" ({split})"
    return ArraySource(f"{path.name}{part}", samples, labels)


def _pair(path: Path, split: str | None, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if path.suffix == ".npy":
        if split is not None:
            raise InputError(f"{where}: one array has no splits")
        beside = [path.with_name(name.format(stem=path.stem)) for name in BESIDE]
        found = next((one for one in beside if one.is_file() and one != path), None)
        if found is None:
            names = ", ".join(one.name for one in beside)
            raise InputError(f"{where}: has no labels beside it; looked for {names}")
        return read_npy(path), read_npy(found)
    file = NpzFile(path)
    known = {name.lower(): name for name in file.names}
    if len(known) < len(file.names):
        raise InputError(f"{where}: holds {', '.join(file.names)}, two of which are one name")
    end = "" if split is None else f"_{split.lower()}"
    of_data = [known[name + end] for name in DATA if name + end in known]
    of_labels = [known[name + end] for name in LABELS if name + end in known]
    if of_data and of_labels:
        taken = of_data[0], of_labels[0]
        if others := [*of_data[1:], *of_labels[1:]]:
            note(f"{where}: {' and '.join(taken)} are taken; {', '.join(others)} left out")
        return file[taken[0]], file[taken[1]]
    if split is None and len(file.names) == 2:
        (few, labels), (many, data) = sorted(
            ((file[name], name) for name in file.names), key=lambda one: (one[0].ndim, one[1])
        )
        note(f"{where}: {labels!r} is taken for the labels of {data!r}")
        return many, few
    raise InputError(
        f"{where}: holds {', '.join(file.names) or 'nothing'}; x{end} and y{end} (or "
        f"data{end} and labels{end}) are needed"
    )


def _unlabelled(labels: NDArray[Any]) -> int | None:
    """The first that says nothing; None where all say something."""
    if labels.dtype.kind not in "fUS":
        return None
    empty = np.isnan(labels) if labels.dtype.kind == "f" else labels == labels.dtype.type()
    return next((int(row) for row in np.flatnonzero(empty)), None)


def _table(path: Path, where: str) -> ArraySource:
    text = read_file(path, LARGEST_BYTES).decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = [(reader.line_num, row) for row in reader if row]
    if len(rows) < 2:
        raise InputError(f"{where}: has no rows below its names of columns")
    named = rows.pop(0)[1]
    column = _label_column(named, where)
    samples = []
    for line, row in rows:
        if len(row) != len(named):
            raise InputError(f"{where}: line {line} has {len(row)} columns, not {len(named)}")
        try:
            samples.append([_number(cell) for place, cell in enumerate(row) if place != column])
        except ValueError as error:
            raise InputError(f"{where}: line {line}: {error}") from error
    values = np.array(samples)
    _check_no_index(named[:1] if column else named[1:2], values, where)
    labels = np.array([row[column].strip() for _, row in rows])
    return ArraySource(path.name, values, labels, is_table=True)


def _label_column(named: Sequence[str], where: str) -> int:
    """Which column has the labels; another that might is told of."""
    head = [name.strip().lower() for name in named]
    found = [place for name in LABELS for place, one in enumerate(head) if one == name]
    if not found:
        raise InputError(
            f"{where}: no column is called {', '.join(LABELS)}; there are {shown(list(named))}"
        )
    column, *others = found
    if any(head[other] == head[column] for other in others):
        raise InputError(f"{where}: two columns are called {head[column]}")
    if others:
        told = ", ".join(head[other] for other in others)
        note(f"{where}: the labels are {head[column]}; {told} counts among the numbers of a sample")
    return column


def _check_no_index(first: Sequence[str], values: NDArray[np.float64], where: str) -> None:
    """Raise `InputError` where the first column only counts the rows: labels could be read off."""
    if [name.strip() for name in first] == [""] and values.shape[1]:
        steps = np.diff(values[:, 0])
        if len(steps) and (steps == 1).all():
            raise InputError(
                f"{where}: its column without a name counts the rows; leave it out (to_csv of "
                "pandas with index=False)"
            )


def _number(text: str) -> float:
    if "_" in text:  # Python's own notation, and no table's
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)

"""More than usual of everything: seconds and memory at two sizes each, and how they grow."""

import json
import math
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costsim.studies.engine import Cell, Computed, Kind, Study, StudyStore, Workshop, run_study

from .commands import Ended
from .experiment import Experiment
from .stage import Stage
from .workloads import MODEL, STUDY, network

PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Taken:
    """What one size took."""

    size: int
    seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.size:,}: {self.seconds:.3g} s, {self.peak_bytes / 2**20:,.0f} MiB"


def grown(of: Callable[[Stage, int], Taken], sizes: tuple[int, int], what: str) -> Any:
    """A trial of both sizes; `tried` is the larger one."""

    def trial(stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
        asked = sizes if times else (sizes[0] // 10, sizes[1] // 10)
        one, two = (of(stage, size) for size in asked)
        power = math.log(two.seconds / one.seconds) / math.log(two.size / one.size)
        return two.size, f"{what} {one}; {two}; seconds grow as size^{power:.2g}"

    return trial


def _took(stage: Stage, size: int, arguments: list[str], folder: Path) -> Taken:
    begun = time.monotonic()
    ended: Ended = stage.warm.start(arguments, folder).wait(PATIENCE_S)
    seconds = time.monotonic() - begun
    assert ended.status == 0, ended.err
    return Taken(size, seconds, ended.peak_bytes)


def _plan(*more: str) -> list[str]:
    return ["plan", "--device", "jetson-nano", "--out", "plan.json", *more]


def _pictures(folder: Path, classes: int, each: int) -> None:
    """Small images, all of one class alike: more names of a few files."""
    from PIL import Image

    few = folder / "few"
    few.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (number * 30, 90, 200 - number * 20)).save(few / f"{number}.png")
    for label in range(classes):
        place = folder / "data" / f"class-{label}"
        place.mkdir(parents=True)
        for number in range(each):
            (place / f"{number}.png").hardlink_to(few / f"{label % 8}.png")


def images(stage: Stage, size: int) -> Taken:
    """`costsim plan` on a folder of so many images in ten classes."""
    folder = stage.new()
    network(folder)
    _pictures(folder, 10, size // 10)
    given = ("--model", MODEL, "--solver", "greedy", "--data", "data", "--ways", "5")
    return _took(stage, size, _plan(*given), folder)


def classes(stage: Stage, size: int) -> Taken:
    """A task of so many classes."""
    folder = stage.new()
    network(folder)
    _pictures(folder, size, 2)
    given = ("--model", MODEL, "--solver", "greedy", "--data", "data", "--ways", str(size))
    return _took(stage, size, _plan(*given, "--shots", "1"), folder)


DEEP = """
from torch import nn


def make():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        *(m for _ in range({layers} - 1) for m in (nn.ReLU(), nn.Conv2d(8, 8, 1))),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
    net.resolution = 16
    return net
"""
WIDE = """
from torch import nn


def make():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, {channels}, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
    net.resolution = 16
    return net
"""


def layers(stage: Stage, size: int) -> Taken:
    """A plan by the exact solver for a network of so many layers, all of them inspected."""
    folder = stage.new()
    (folder / "deep.py").write_text(DEEP.format(layers=size))
    return _took(stage, size, _plan("--model", "deep:make", "--inspect", "all",
                                    "--time-limit", "120s"), folder)  # fmt: skip


def channels(stage: Stage, size: int) -> Taken:
    """A plan by the exact solver for a network one of whose layers has so many channels."""
    folder = stage.new()
    (folder / "wide.py").write_text(WIDE.format(channels=size))
    # The gradient of its output alone takes more than the device recommends for a step.
    given = ("--model", "wide:make", "--memory", "2GiB", "--time-limit", "120s")
    return _took(stage, size, _plan(*given), folder)


@dataclass(frozen=True)
class Cheap(Cell):
    """A cell that takes no time."""

    number: int

    @property
    def key(self) -> str:
        return str(self.number)

    @property
    def group(self) -> int:
        return 0

    @property
    def head(self) -> dict[str, Any]:
        return {"key": self.key}


@dataclass(frozen=True)
class Cheaply(Kind[Cheap]):
    """Studies of which nothing is computed: only rows are kept."""

    schema = "campaign/1"
    columns = {"key": "TEXT PRIMARY KEY", "status": "TEXT NOT NULL"}  # noqa: RUF012
    broken = "failed"
    keys = ()
    doing = "keeping"

    def study(self, document: object, source: str, folder: Path) -> Study[Cheap]:
        raise NotImplementedError("its cells are made here, not read from a file")

    def workshop(self) -> "Keeping":
        return Keeping(self.broken)


class Keeping(Workshop[Cheap]):
    """Answers at once."""

    def answer(self, cell: Cheap, shared: str | None) -> Computed:
        return Computed({**cell.head, "status": "done"})


def cells(stage: Stage, size: int) -> Taken:
    """A run of so many cells that compute nothing, in two processes: what the keeping costs."""
    kind = Cheaply()
    store = StudyStore(stage.new() / "store.sqlite", kind)
    begun = time.monotonic()
    computed = run_study([Cheap(number) for number in range(size)], store, kind, workers=2)
    seconds = time.monotonic() - begun
    assert computed == len(store.finished()) == size
    return Taken(size, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def studies(stage: Stage, size: int) -> Taken:
    """So many studies at once, each of twelve cells with a store and a process of its own."""
    folders = [stage.new() for _ in range(size)]
    for folder in folders:
        (folder / "study.yaml").write_text(json.dumps(STUDY))
    begun = time.monotonic()
    running = [
        stage.warm.start(["study", "study.yaml", "--jobs", "1", "--json"], folder)
        for folder in folders
    ]
    ended = [one.wait(PATIENCE_S) for one in running]
    seconds = time.monotonic() - begun
    assert [one.status for one in ended] == [0] * size, [one.err for one in ended]
    finished = [json.loads(one.out)["finished"] for one in ended]
    assert finished == [12] * size
    return Taken(size, seconds, sum(one.peak_bytes for one in ended))


def _at_once(stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    one, three = studies(stage, 1), studies(stage, 3)
    return 3, f"studies {one}; {three} (without their workers)"


EXPERIMENTS = (
    Experiment("load", "images in a folder", grown(images, (10_000, 100_000), "images"), 1, 0),
    Experiment("load", "classes of a task", grown(classes, (200, 2_000), "classes"), 1, 0),
    Experiment("load", "layers of a network", grown(layers, (250, 1_000), "layers"), 1, 0),
    Experiment(
        "load", "channels of a layer", grown(channels, (100_000, 1_000_000), "channels"), 1, 0
    ),
    Experiment("load", "cheap cells of a run", grown(cells, (500, 5_000), "cells"), 1, 0),
    Experiment("load", "studies at once", _at_once, 1, 0),
)

"""The smallest real work of each command that keeps something, and what its result is.

A result has everything that must be the same to the bit after whatever happened; what a clock
measured is left out, and `without` says so.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .commands import Warm

Result: TypeAlias = Mapping[str, Any]

NETWORK = """
from torch import nn


class Net(nn.Sequential):
    resolution = 16


def make():
    return Net(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
"""
MODEL = "network_of_the_campaign:make"
TASK = ("--ways", "3", "--shots", "4", "--queries", "5")

STUDY = {
    "models": [{"model": "mcunet-5fps", "resolution": 32}],
    "methods": ["None", "LastLayer", "TinyTrain"],
    "domains": ["digits"],
    "seeds": 4,
    "episode": {"ways": 3, "shots": 1, "queries": 3},
    "settings": {"iterations": 2},
}
COMPARISON = {
    "solvers": ["exact", "greedy", "none", "last-layer"],
    "devices": ["stm32f746", "jetson-nano"],
    "budgets": ["recommended"],
    "tasks": [{"data": "digits", "seeds": [0, 1], "ways": 3, "shots": 1}],
    "settings": {"inspect": 4, "resolution": 32},
}


@dataclass(frozen=True)
class Workload:
    """A command: how its folder is made, how it is begun and begun again, what comes out.

    `keeps` are what it had finished, by name: what is there when it dies must be there, unchanged,
    at the end. `leaves` are all files that a run that is done has made.
    """

    name: str
    prepare: Callable[[Path, Warm], None]
    arguments: Sequence[str]
    again: Sequence[str]
    result: Callable[[Path, str], Result]
    leaves: Sequence[str]
    without: str = ""
    keeps: Callable[[Path], Result] | None = None


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def network(folder: Path) -> None:
    """The module that `MODEL` names."""
    (folder / "network_of_the_campaign.py").write_text(NETWORK)


def _network(folder: Path, warm: Warm) -> None:
    network(folder)


def _plan(folder: Path, warm: Warm) -> None:
    """A plan for the network, as `costsim plan` makes it."""
    plan_for(folder, warm, "jetson-nano")


def plan_for(folder: Path, warm: Warm, device: str) -> None:
    """The same for any device, in 32 bits."""
    network(folder)
    arguments = [
        "plan", "--device", device, "--bits", "32", "--model", MODEL, "--solver",
        "greedy", *TASK[:4], "--optimizer", "adam", "--batch", "2", "--macs", "60%",
        "--out", "plan.json",
    ]  # fmt: skip
    ended = warm.run(arguments, folder)
    assert ended.status == 0, ended.err


def _images(folder: Path, warm: Warm) -> None:
    from costsim.data import digits

    network(folder)
    source = digits()
    for label in list(source.classes)[:8]:
        (folder / "data" / label).mkdir(parents=True)
        for name, image in source.read(source.classes[label][:6]):
            image.save(folder / "data" / label / f"{name.partition('/')[2]}.png")


def _yaml(document: object) -> Callable[[Path, Warm], None]:
    def write(folder: Path, warm: Warm) -> None:
        (folder / "study.yaml").write_text(json.dumps(document))

    return write


def _nothing(folder: Path, warm: Warm) -> None:
    pass


def _without(document: Any, *names: str) -> Any:
    """A document less all keys of these names, at any depth."""
    if isinstance(document, dict):
        return {k: _without(v, *names) for k, v in document.items() if k not in names}
    if isinstance(document, list):
        return [_without(one, *names) for one in document]
    return document


def _of_no_clock(document: Any) -> Any:
    return _without(document, "seconds")


def _train(folder: Path, out: str) -> Result:
    document = _without(json.loads(out), "resumed_at", "steps", "seconds")
    return {"patch": digest(folder / "patch"), "outcome": document}


def _adapt(folder: Path, out: str) -> Result:
    from safetensors.numpy import load_file

    patch = load_file(folder / "patch")
    plan = _of_no_clock(json.loads((folder / "plan").read_text()))
    outcome = _of_no_clock(json.loads(out))
    weights = {name: hashlib.sha256(patch[name].tobytes()).hexdigest() for name in sorted(patch)}
    return {"weights": weights, "plan": plan, "outcome": outcome}


def _pretrain(folder: Path, out: str) -> Result:
    document = _without(json.loads(out), "seconds")
    return {"weights": digest(folder / "weights"), "outcome": document}


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of a store, whole."""
    path = folder / "study.sqlite"
    if not path.exists() or not path.stat().st_size:
        return {}
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        found = database.execute("SELECT * FROM cells").fetchall() if "cells" in tables else ()
        return {row["key"]: dict(row) for row in found}


def _cells(folder: Path, out: str) -> Result:
    found = {
        key: {name: value for name, value in row.items() if not _of_a_clock(name)}
        for key, row in rows(folder).items()
    }
    return {"rows": dict(sorted(found.items()))}


def _of_a_clock(column: str) -> bool:
    return column.endswith("_here_s") or column in ("seconds", "training_s", "checksum")


def _samples(folder: Path) -> dict[str, Any]:
    path = folder / "spec.yaml.samples.json"
    if not path.exists():
        return {}
    probes = json.loads(path.read_text())["probes"]
    return {f"{number}": one for number, one in enumerate(probes)}


def _calibrate(folder: Path, out: str) -> Result:
    names = [one["name"] for one in _samples(folder).values()]
    return {"probes": len(set(names)), "spec": (folder / "spec.yaml").exists()}


def _runs(folder: Path) -> dict[str, Any]:
    path = folder / "measured.json"
    if not path.exists():
        return {}
    runs = json.loads(path.read_text())["runs"]
    return {f"{number}": one for number, one in enumerate(runs)}


def _measure(folder: Path, out: str) -> Result:
    document = json.loads((folder / "measured.json").read_text())
    runs = [
        (one["outcome"]["target"], len(one["outcome"]["measurement"]["step_s"]))
        for one in document["runs"]
    ]
    return {
        "plan": document["plan"],
        "predicted": document["predicted"],
        "runs": runs,
        "failures": document["failures"],
    }


WORKLOADS = {
    one.name: one
    for one in (
        Workload(
            "train", _plan,
            ("train", "plan.json", "--model", MODEL, *TASK, "--learning-rate", "0.003",
             "--iterations", "16", "--eval-every", "4", "--out", "patch", "--json"),
            ("--resume",), _train, ("patch",),
            without="resumed_at, steps and seconds of the outcome",
        ),
        Workload(
            "adapt", _network,
            ("adapt", "--device", "jetson-nano", "--model", MODEL, *TASK, "--iterations", "10",
             "--macs", "60%", "--copies", "2", "--out", "patch", "--plan-out", "plan", "--json"),
            (), _adapt, ("patch", "plan"),
            without="seconds of the outcome",
        ),
        Workload(
            "study", _yaml(STUDY), ("study", "study.yaml", "--jobs", "1", "--json"),
            (), _cells, ("study.sqlite",), keeps=rows,
            without="columns of measured seconds",
        ),
        Workload(
            "compare", _yaml(COMPARISON),
            ("compare", "study.yaml", "--store", "study.sqlite", "--jobs", "1", "--json"),
            (), _cells, ("study.sqlite",), keeps=rows,
            without="columns of measured seconds",
        ),
        Workload(
            "pretrain", _images,
            ("pretrain", "--model", MODEL, "--data", "data", "--resolution", "16", "--steps", "12",
             "--ways", "4", "--shots", "2", "--queries", "2", "--eval-every", "4", "--held-out",
             "0.25", "--torch-device", "cpu", "--checkpoint-every", "2", "--out", "weights",
             "--json"),
            ("--resume",), _pretrain, ("weights",),
            without="seconds of the outcome",
        ),
        Workload(
            "calibrate", _nothing,
            ("calibrate", "--device", "jetson-nano", "--probes", "6", "--time-limit", "5s",
             "--out", "spec.yaml", "--json"),
            ("--resume",), _calibrate, ("spec.yaml", "spec.yaml.samples.json"), keeps=_samples,
            without="readings not yet taken when it died",
        ),
        Workload(
            "measure", _plan,
            ("measure", "plan.json", "--model", MODEL, "--steps", "3", "--repeats", "2", "--out",
             "measured.json"),
            ("--resume",), _measure, ("measured.json",), keeps=_runs,
            without="readings not yet taken when it died",
        ),
    )
}  # fmt: skip

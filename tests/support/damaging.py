"""A valid file of every kind, damaged ones made of it, and what a command may do with one."""

import io
import json
import random
import shutil
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from fuzzing import Kind, Worker, mutated, value_replaced
from PIL import Image
from safetensors.torch import save
from signed import resigned
from torch import nn
from training import small_plan

from costsim.device.files import load_device
from costsim.learning.training.patch import Change, Origin, Patch, write_patch
from costsim.run.execution.selection import Selection
from costsim.solving.planfile import write_plan
from costsim.studies.engine import StudyStore, read_study
from costsim.studies.methods import MethodStudies

STATUSES = (0, 1, 2, 130, 141)

LIMIT_S = 120.0
"""Far beyond what any case takes; what does not end is killed then."""

STUDY = b"""\
models: [mcunet-5fps, {model: mbv2-w0.35, name: other, resolution: 64}]
methods: [None, TinyTrain, {method: FullTrain, learning-rate: [0.0003, 0.001]}]
domains: [digits]
seeds: [0, 1]
devices: [jetson-nano]
episode: {ways: 3, shots: 2, queries: 2}
budget: {memory: 256KiB, macs: 15%}
settings: {iterations: 2, optimizer: adam}
"""

COMPARISON = b"""\
solvers: [exact, greedy]
models: [mcunet-5fps, {model: mbv2-w0.35, weights: random}]
devices: [stm32f746, jetson-nano]
budgets: [recommended, {memory: 150%, macs: 30%}, {latency: 2s}]
tasks: [{data: digits, seeds: [0, 1], ways: 3, shots: 2}]
"""

NETWORK = """
from torch import nn


class Net(nn.Sequential):
    input_shape = (3, 8, 16)  # so that another resolution is refused, once the weights are read


def make():
    return Net(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""

MODEL = ("--model", "net_of_the_fuzz_test:make", "--resolution", "9")

PLAN = ("plan", "--device", "jetson-nano", "--solver", "last-layer")


def yaml_or_bytes(content: bytes, rng: random.Random) -> bytes:
    """A text with a value replaced, or damaged anywhere."""
    return (value_replaced if rng.random() < 0.5 else mutated)(content, rng)


def signed_or_not(content: bytes, rng: random.Random) -> bytes:
    """Damaged, half of them by somebody who knows of the digest, so that more is looked at."""
    damaged = mutated(content, rng)
    return resigned(damaged) if rng.random() < 0.5 else damaged


def png(seed: int) -> bytes:
    """A small image."""
    file = io.BytesIO()
    Image.effect_noise((9, 7), 20 + seed).convert("RGB").save(file, "PNG")
    return file.getvalue()


def tar_of(mode: Literal["w:", "w:gz", "w:xz"]) -> bytes:
    """Two classes of two images."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for seed, name in enumerate(("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png")):
            data = png(seed)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of() -> bytes:
    """The same."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for seed, name in enumerate(("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png")):
            archive.writestr(name, png(seed))
    return file.getvalue()


def arrays_of() -> bytes:
    """Samples of the network's shape, and labels."""
    file = io.BytesIO()
    np.savez_compressed(file, x=np.ones((4, 3, 8, 16), np.float32), y=np.array([0, 0, 1, 1]))
    return file.getvalue()


def patch_of(path: Path) -> bytes:
    """A patch of one convolution."""
    selection = Selection((4, 3, 3, 3), "output", (1, 2))
    change = Change("0.weight", "0", selection, torch.zeros(2, 3, 3, 3), torch.ones(2, 3, 3, 3))
    origin = Origin(name="net", spec="mcunet-5fps", weights=None, resolution=16, seed=0)
    digest = "0" * 64
    write_patch(path, Patch((change,), origin, digest, digest, digest, {"costsim": "0"}))
    return path.read_bytes()


def store_of(folder: Path) -> bytes:
    """A study of which every cell is refused."""
    (folder / "study.yaml").write_bytes(STUDY)
    kind = MethodStudies()
    study = read_study(folder / "study.yaml", kind)
    store = StudyStore(folder / "made.sqlite", kind)
    for cell in study.cells():
        store.write({**cell.head, "status": "refused", "reason": "nothing is to be had here"})
    with sqlite3.connect(folder / "made.sqlite") as database:
        database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    return (folder / "made.sqlite").read_bytes()


def program_of() -> bytes:
    """An exported program."""
    file = io.BytesIO()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(1, 3, 8, 8),)), file)
    return file.getvalue()


def kinds_of(folder: Path) -> tuple[Kind, ...]:
    """A valid file of every kind, and commands that read it and then, soon, come to an end."""
    state = nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict()
    saved = io.BytesIO()
    torch.save(state, saved)
    device = json.dumps(load_device("stm32f746").to_json()).encode()
    plan = small_plan(model="mcunet-5fps", ways=2, shots=1)
    write_plan(folder / "plan.json", plan)
    weights = (*PLAN, *MODEL, "--weights", "FILE")
    images = (*PLAN, *MODEL, "--data", "FILE", "--out", "out")
    return (
        Kind("device.yaml", device, (("devices", "FILE"),), yaml_or_bytes),
        Kind(
            "plan.json",
            (folder / "plan.json").read_bytes(),
            (("validate", "FILE", "--on", "local", "--out", "out"),),
            yaml_or_bytes,
        ),
        Kind(
            "study.yaml",
            STUDY,
            (("study", "FILE", "--show", "--store", "study.sqlite", "--csv", "out"),),
            yaml_or_bytes,
        ),
        Kind(
            "compare.yaml",
            COMPARISON,
            (("compare", "FILE", "--store", "out", "--criterion", "nothing"),),
            yaml_or_bytes,
        ),
        Kind(
            "store.sqlite",
            store_of(folder),
            (("study", "study.yaml", "--show", "--store", "FILE", "--csv", "out"),),
        ),
        Kind(
            "patch.safetensors",
            patch_of(folder / "patch"),
            (("apply", "FILE", "--model", "nothing", "--out", "out"),),
            signed_or_not,
        ),
        Kind("weights.safetensors", save(state), (weights,)),
        Kind("weights.pth", saved.getvalue(), (weights,)),
        Kind("program.pt2", program_of(), ((*PLAN, "--model", "FILE", "--resolution", "9"),)),
        Kind("images.tar", tar_of("w:"), (images,)),
        Kind("images.tar.gz", tar_of("w:gz"), (images,)),
        Kind("images.tar.xz", tar_of("w:xz"), (images,)),
        Kind("images.zip", zip_of(), (images,)),
        Kind("samples.npz", arrays_of(), (images,)),
        Kind("samples.csv", b"a,b,label\n0.5,1,ant\n-2,3e3,bee\n", (images,)),
    )


def check(worker: Worker, kind: Kind, seed: int) -> None:
    """One damaged file through one command: status, one line, and nothing half-written."""
    rng = random.Random(f"{kind.name} {seed}")
    damaged = worker.folder / f"damaged.{kind.name}"
    damaged.write_bytes(kind.mutate(kind.content, rng))
    out = worker.folder / "out"
    before = sorted(worker.folder.iterdir())
    arguments = [damaged.name if word == "FILE" else word for word in rng.choice(kind.arguments)]
    found = worker.run(arguments)
    told = f"{kind.name} seed {seed}: {arguments}: {found}"
    assert not found.escaped, told
    assert found.status in STATUSES, told
    lines = [line for line in found.stderr.splitlines() if not line.startswith("costsim: note: ")]
    if found.status == 2:
        # Of a device all mistakes are told at once, each in a line of its own.
        of_device = kind.name == "device.yaml" or all("device_spec: " in line for line in lines)
        assert len(lines) == 1 or of_device, told
        for line in lines:
            assert line.startswith("costsim: "), told
            assert len(line) < 4000, told
        left = {path.name for path in worker.folder.iterdir()} - {path.name for path in before}
        assert not left - {"out", "__pycache__"} or kind.name == "store.sqlite", f"{told}: {left}"
        if out.is_file():
            assert out.stat().st_size == 0 or out.read_bytes()[:6] == b"SQLite", told
    for path in worker.folder.glob("out*"):
        assert not path.is_dir() or not any(path.iterdir()) or found.status != 2, told
    clear_away(worker.folder)
    for path in worker.folder.glob(f"{damaged.name}*"):
        path.unlink()


def clear_away(folder: Path) -> None:
    """What a command wrote."""
    for path in folder.glob("out*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def fuzz(kinds: tuple[Kind, ...], folder: Path, cases: int, first: int = 0) -> None:
    """So many cases from a number on, all kinds in turn."""
    (folder / "net_of_the_fuzz_test.py").write_text(NETWORK)
    (folder / "study.yaml").write_bytes(STUDY)
    store = next(kind for kind in kinds if kind.name == "store.sqlite")
    (folder / "study.sqlite").write_bytes(store.content)
    with Worker(folder, LIMIT_S) as worker:
        for case in range(first, first + cases):
            check(worker, kinds[case % len(kinds)], case // len(kinds))

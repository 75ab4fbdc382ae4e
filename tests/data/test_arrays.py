"""Samples that are arrays: files of them, shapes, refusals, and a network of signals from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import costsim
from costsim.base.errors import InputError, Note
from costsim.cli import main
from costsim.data import ArraySource, open_arrays, open_source, sample_task
from costsim.planning import BudgetRequest

NETWORK = """
import torch
from torch import nn

class Signals(nn.Module):
    input_shape = (9, 64)
    def __init__(self, classes=3):
        super().__init__()
        self.first = nn.Conv1d(9, 16, 5, 2, 2)
        self.norm = nn.BatchNorm1d(16)
        self.second = nn.Conv1d(16, 16, 5, 2, 2)
        self.head = nn.Linear(16, classes)
    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean(2))
"""
RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 20)
SIGNALS = (RNG.normal(size=(60, 9, 64)) + LABELS[:, None, None]).astype(np.float32)


def drawn(path: Path, shape: tuple[int, ...], split: str | None = None) -> NDArray[np.float32]:
    """Two samples of each of two classes."""
    source = open_source(path, split)
    task = sample_task(source, ways=2, shots=2, seed=0, resolution=shape, channels=None)
    assert not task.are_images
    return task.images


def test_the_same_signals_in_every_kind_of_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=SIGNALS, y=LABELS)
    np.savez_compressed(tmp_path / "b.npz", Labels=LABELS, data=SIGNALS)
    np.savez(tmp_path / "d.npz", x_train=SIGNALS, y_train=LABELS, x_test=SIGNALS, y_test=LABELS)
    np.save(tmp_path / "e.npy", SIGNALS)
    np.save(tmp_path / "e.labels.npy", LABELS)
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "x.npy", SIGNALS)
    np.save(tmp_path / "f" / "labels.npy", LABELS)
    rows = [
        ",".join([str(y), *map(repr, x.ravel().tolist())])
        for x, y in zip(SIGNALS, LABELS, strict=True)
    ]
    names = ",".join(f"v{i}" for i in range(9 * 64))
    (tmp_path / "g.csv").write_text("\n".join([f"Label,{names}", *rows, ""]))
    found = [
        drawn(tmp_path / name, (9, 64), split)
        for name, split in [
            ("a.npz", None), ("b.npz", None), ("d.npz", "train"),
            ("d.npz::test", None), ("e.npy", None), ("f/x.npy", None), ("g.csv", None),
        ]
    ]  # fmt: skip
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert {tuple(image.ravel()) for image in found[0]} <= {tuple(x.ravel()) for x in SIGNALS}


def test_of_two_arrays_the_one_taken_for_labels_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", one=SIGNALS, other=LABELS)
    with pytest.warns(Note, match="'other' is taken for the labels of 'one'"):
        found = open_arrays(tmp_path / "c.npz")
    assert np.array_equal(found.samples, SIGNALS)
    assert np.array_equal(found.labels, LABELS)


def test_labels_may_be_bytes_and_every_sample_has_one(tmp_path: Path) -> None:
    source = ArraySource("x", SIGNALS[:2], np.array([b"ant", "bär".encode()]))
    assert list(source.classes) == ["ant", "bär"]
    for labels in (np.array(["a", ""]), np.array([1.0, np.nan]), np.array([b"a", b""])):
        with pytest.raises(InputError, match="x: sample 2 of 2 has no label"):
            ArraySource("x", SIGNALS[:2], labels)
    (tmp_path / "t.csv").write_text("v,label\n1,a\n2, \n")
    with pytest.raises(InputError, match="sample 2 of 2 has no label"):
        open_arrays(tmp_path / "t.csv")


def test_labels_that_are_no_text_stay_apart() -> None:
    source = ArraySource("x", SIGNALS[:2], np.array([b"\xe8", b"\xe9"]))
    assert len(source.classes) == 2


def test_what_might_have_been_meant_too_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=SIGNALS, data=SIGNALS, y=LABELS, labels=LABELS)
    with pytest.warns(Note, match=r"a\.npz: x and labels are taken; data, y left out"):
        open_arrays(tmp_path / "a.npz")
    (tmp_path / "t.csv").write_text("x,y,label\n1,5,a\n2,7,b\n")
    with pytest.warns(Note, match=r"the labels are label; y counts among the numbers of a sample"):
        assert open_arrays(tmp_path / "t.csv").samples.tolist() == [[1, 5], [2, 7]]
    (tmp_path / "u.csv").write_text(",label\n1,a\n5,b\n")
    assert open_arrays(tmp_path / "u.csv").samples.tolist() == [[1], [5]]


def test_numbers_that_32_bits_do_not_hold_are_told_or_refused() -> None:
    whole = ArraySource("x", np.array([[2**24 + 1], [-(2**24) - 1]]), np.array([0, 1]))
    with pytest.warns(Note, match="x: whole numbers beyond 16,777,216 are rounded to 32 bits"):
        whole.values(["0/0", "1/1"], (1,))
    exact = ArraySource("x", np.array([[2**24], [-(2**24)]]), np.array([0, 1]))
    assert exact.values(["0/0"], (1,)).tolist() == [[2**24]]
    large = ArraySource("x", np.array([[1e300], [0.0]]), np.array([0, 1]))
    with pytest.raises(InputError, match="NaN, infinite or beyond 32 bits"):
        large.values(["0/0"], (1,))


def test_images_of_two_channels_are_refused() -> None:
    source = ArraySource("x", np.zeros((2, 2, 8, 8), np.uint8), np.array([0, 1]))
    with pytest.raises(InputError, match="images have 1 or 3 channels"):
        next(iter(source.read(["0/0"])))


def test_images_in_8_bits_are_scaled_and_turned() -> None:
    pixels = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    source = ArraySource("x", pixels, np.array(list("aabbcc")))
    assert source.are_images
    first = source.values(["a/0"], (3, 5, 4))
    assert np.array_equal(first[0], np.moveaxis(pixels[0], 2, 0) / np.float32(127.5) - 1)
    (read,) = source.read(["b/2"])
    assert read[0] == "b/2"
    assert np.array_equal(np.asarray(read[1]), pixels[2])
    with pytest.raises(InputError, match=r"numbers of shape .9, 64.; images are needed"):
        next(iter(ArraySource("x", SIGNALS, LABELS).read(["0/00"])))
    grey = ArraySource("x", pixels[..., 0], np.arange(6))
    assert grey.values(["1/1"], (1, 5, 4)).shape == (1, 1, 5, 4)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def refuse(message: str, **arrays: object) -> None:
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=message) as caught:
            drawn(path, (9, 64))
        assert len(str(caught.value).splitlines()) == 1

    refuse(
        r"samples are of shape \(9, 63\); the model takes \(9, 64\)", x=SIGNALS[..., 1:], y=LABELS
    )
    refuse(r"60 samples and labels of shape \(59,\); one label", x=SIGNALS, y=LABELS[1:])
    refuse(r"holds a, b, c; x and y \(or data and labels\) are needed", a=1, b=2, c=3)
    refuse("has values that are NaN", x=np.full_like(SIGNALS, np.nan), y=LABELS)
    refuse("is no file of plain arrays: 'x': holds Python objects", x=np.array([{}, 1]), y=[1, 2])
    refuse("samples are of <U1; numbers are needed", x=np.array(["a", "b"]), y=np.array([1, 2]))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"a\.npz: is no file of plain arrays"):
        open_arrays(path)
    np.save(tmp_path / "b.npy", SIGNALS)
    with pytest.raises(InputError, match=r"no labels beside it; looked for b\.labels\.npy, labels"):
        open_arrays(tmp_path / "b.npy")
    table = tmp_path / "t.csv"
    for text, message in [
        ("a,b\n1,2\n", r"no column is called labels?, .*there are \['a', 'b'\]"),
        ("a,label\n1,x\n2\n", "line 3 has 1 columns, not 2"),
        ("a,label\n?,x\n", "line 2: could not convert"),
        ("a,label\n\n1,x\n\n?,y\n", "line 5: could not convert"),
        ("a,label\n1_0,x\n", "line 2: could not convert string to float: '1_0'"),
        ("a,label,Label\n1,x,y\n", "two columns are called label"),
        (",label\n7,x\n8,y\n", "its column without a name counts the rows; leave it out"),
        ("label,\nx,0\ny,1\n", "its column without a name counts the rows; leave it out"),
        ("a,label\n", "has no rows"),
    ]:
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            open_arrays(table)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK)
    np.savez(tmp_path / "signals.npz", x=SIGNALS, y=LABELS)
    return tmp_path


MODEL = ["--model", "net.py:Signals", "--data", "signals.npz"]
ROOM = ["--loss", "cross_entropy", "--memory", "100KiB", "--macs", "60%"]


@pytest.mark.usefixtures("here")
def test_a_network_of_signals_is_planned_trained_and_validated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--device", "jetson-nano", *MODEL, *ROOM, "--out", "p.json"]) == 0
    assert "no images, of which no changed copies are made" in capsys.readouterr().err
    plan = json.loads(Path("p.json").read_text())
    assert plan["recipe"]["augment"] is False
    assert plan["layers"]
    assert main(["train", "p.json", "--iterations", "3", "--out", "p.st"]) == 0
    assert main(["apply", "p.st", "--model", "net.py:Signals", "--out", "n.st"]) == 0
    assert main(["validate", "p.json"]) == 0
    adapt = ["adapt", "--device", "jetson-nano", *MODEL, "--iterations", "2", "--json"]
    assert main([*adapt, "--method", "FullTrain"]) == 0
    capsys.readouterr()
    assert main(["plan", "--device", "jetson-nano", "--model", "net.py:Signals"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "are images, and the model takes (9, 64): give arrays of that shape" in told


@pytest.mark.usefixtures("here")
def test_a_program_gives_its_module_and_its_arrays() -> None:
    from costsim.models.loading import load_model

    net = load_model("net.py:Signals").module
    with pytest.warns(Note, match="arrays of a program: no images"):
        planned = costsim.make_plan(
            model=net,
            device="jetson-nano",
            data=(torch.from_numpy(SIGNALS), LABELS),
            loss="cross_entropy",
            budget=BudgetRequest(memory_bytes=100_000, macs_share=0.6),
        )
    assert planned.file.model.spec == "<Signals in a program>"
    assert planned.file.task.source.startswith("arrays of a program")
    sparse = costsim.sparsify(net, planned.file)
    x = torch.from_numpy(SIGNALS[:1])
    assert torch.allclose(sparse(x), net(x), atol=1e-6)
    with pytest.raises(InputError, match="data is a int; a path, "):
        costsim.make_plan(model=net, device="jetson-nano", data=3)
    with pytest.raises(InputError, match="make_plan: 'divice' is unknown; known are device"):
        costsim.make_plan(model=net, divice="jetson-nano")

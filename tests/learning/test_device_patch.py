"""What a device saved, on the host; and what the host learnt, on a device."""

import ctypes
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from device_store import CStore, Memory
from emitting import FLOATS, INTS, compile_c, compiler, run
from safetensors.torch import load_file
from training import MODEL, write_network

from costsim.cli import main
from costsim.data import digits, sample_task
from costsim.learning.training import load_planned, read_patch
from costsim.solving.planfile import read_plan

WAYS, SIDE = 3, 16


def built(folder: Path) -> ctypes.CDLL:
    """The C of an exported folder, on this machine."""
    objects = []
    for source in sorted(folder.glob("*.c")):
        compile_c(source, source.with_suffix(".o"), "-fPIC")
        objects.append(str(source.with_suffix(".o")))
    out = folder.parent / f"{folder.name}.so"
    run([*compiler(), "-shared", *objects, "-o", str(out)])
    library = ctypes.CDLL(str(out))
    library.costsim_train_step.restype = ctypes.c_float
    library.costsim_init()
    return library


@pytest.fixture(
    scope="module",
    params=[pytest.param("32", marks=pytest.mark.slow), "8,gradients=32,optimizer=32"],
    ids=["32", "8"],
)
def firmware(request, tmp_path_factory):
    """A plan, its folder, and the folder's C."""
    place = tmp_path_factory.mktemp("firmware")
    write_network(place)
    patched = pytest.MonkeyPatch()
    patched.chdir(place)
    patched.syspath_prepend(str(place))
    plan, folder = place / "plan.json", place / "folder"
    asked = ["plan", "--device", "stm32h743", "--model", MODEL, "--bits", request.param]
    asked += ["--resolution", str(SIDE), "--ways", str(WAYS), "--shots", "2", "--bias"]
    assert main([*asked, "--out", str(plan)]) == 0
    assert main(["export", str(plan), "--out", str(folder)]) == 0
    yield plan, folder, built(folder)
    patched.undo()


def learnt(folder: Path, library: ctypes.CDLL) -> tuple[Memory, np.ndarray]:
    """A task learnt by the C and saved: the memory, and what the network returns for an image."""
    task = sample_task(digits(), ways=WAYS, shots=2, seed=0, resolution=(SIDE, SIDE), channels=3)
    ctypes.c_float.in_dll(library, "costsim_learning_rate").value = 0.3

    def given(i: int) -> tuple[object, object]:
        image, label = np.ascontiguousarray(task.images[i]), np.array([task.labels[i]], np.int32)
        return image.ctypes.data_as(FLOATS), label.ctypes.data_as(INTS)

    library.costsim_init()
    for _ in range(3):
        library.costsim_begin_means(WAYS)
        for i in range(len(task.images)):
            library.costsim_add_to_means(*given(i))
        library.costsim_end_means()
        for i in range(len(task.images)):
            assert np.isfinite(library.costsim_train_step(*given(i)))
    memory = Memory(slot_bytes(folder))
    assert library.costsim_save(ctypes.byref(memory.store)) == 0
    return memory, predicted(library, task.images[0])


def predicted(library: ctypes.CDLL, image: np.ndarray) -> np.ndarray:
    image = np.ascontiguousarray(image)
    out = np.zeros(64, np.float32)
    library.costsim_predict(image.ctypes.data_as(FLOATS), out.ctypes.data_as(FLOATS))
    return out


def slot_bytes(folder: Path) -> int:
    header = (folder / "costsim_model.h").read_text()
    return int(header.split("#define COSTSIM_SLOT_BYTES ")[1].split()[0])


def test_what_a_device_saved_is_a_model_and_a_patch_and_goes_back(firmware, tmp_path, capsys):
    plan, folder, library = firmware
    memory, wanted = learnt(folder, library)
    dump = tmp_path / "learnt.bin"
    dump.write_bytes(bytes(memory.content))
    model, patch, again = (tmp_path / name for name in ("a.safetensors", "p.safetensors", "d.bin"))
    apply = ["apply", str(dump), "--firmware", str(folder)]
    assert main([*apply, "--out", str(model)]) == 0
    assert "has the means of 3 classes" in capsys.readouterr().err
    assert main([*apply, "--to", "patch", "--out", str(patch)]) == 0
    subject, program = load_planned(read_plan(plan))
    state = load_file(model)
    changed = [n for n, t in subject.module.state_dict().items() if not torch.equal(t, state[n])]
    assert changed
    assert {change.parameter for change in read_patch(patch).changes} >= set(changed)
    by_patch = tmp_path / "b.safetensors"
    named = ["--model", MODEL]
    assert main(["apply", str(patch), *named, "--out", str(by_patch)]) == 0
    assert by_patch.read_bytes() == model.read_bytes()

    subject.module.load_state_dict(state)
    task = sample_task(digits(), ways=WAYS, shots=2, seed=0, resolution=(SIDE, SIDE), channels=3)
    outputs = subject.predict(torch.tensor(task.images[:1])).flatten().numpy()
    near = wanted[: len(outputs)]
    if program.step.bits.weights == 32:
        assert near == pytest.approx(outputs, rel=1e-4, abs=1e-5)
    else:  # activations are in 8 bits on the device, and end with their range
        inside = np.minimum(outputs, near.max())
        assert np.abs(near - inside).max() < 0.15 * near.max()

    back = ["apply", str(patch), "--firmware", str(folder), "--to", "device", "--out", str(again)]
    assert main(back) == 0
    assert "has no class means" in capsys.readouterr().err
    kept = json.loads((folder / "costsim_model.json").read_text())["kept"]
    weights = sum(one["elements"] * np.dtype(one["type"]).itemsize for one in kept["updates"])
    assert again.read_bytes()[:weights] == bytes(memory.content[:weights])
    other = Memory(slot_bytes(folder))
    other.content[: other.slot] = again.read_bytes()
    library.costsim_init()
    assert not np.array_equal(predicted(library, task.images[0]), wanted)
    assert library.costsim_load(ctypes.byref(other.store)) == 0
    assert np.array_equal(predicted(library, task.images[0]), wanted)


def test_what_is_not_of_that_firmware_is_refused(firmware, tmp_path, capsys):
    _, folder, library = firmware
    memory, _ = learnt(folder, library)
    dump, out = tmp_path / "learnt.bin", tmp_path / "out"

    def refused(*asked: str) -> str:
        assert main(["apply", *asked, "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert not out.exists()
        return line

    dump.write_bytes(bytes(memory.content[: memory.slot - 1]))
    given = (str(dump), "--firmware", str(folder))
    assert "learnt.bin: holds nothing whole that was saved" in refused(*given)
    content = bytearray(memory.content)
    content[3] ^= 1
    dump.write_bytes(bytes(content))
    assert "it holds what is damaged" in refused(*given)
    dump.write_bytes(bytes(memory.content))
    assert "costsim_plan.json" in refused(str(dump), "--firmware", str(tmp_path))
    assert "--model" in refused(*given, "--model", MODEL)
    assert "--to patch: needs --firmware" in refused(str(dump), "--to", "patch")
    document = json.loads((folder / "costsim_model.json").read_text())
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-r", str(folder), str(moved)], check=True)
    kept = document["kept"]
    first, *others = kept["updates"]
    for key, value, told in (
        ("bytes", "x", "kept: is not as"),
        ("bytes", float("inf"), "kept: is not as"),
        ("bytes", 10**13, "bytes are not those of the plan"),
        ("bytes", 3, "bytes are not those of the plan"),
        ("digest", "00", "digest is of another length"),
        ("updates", [], "is of another plan"),
        *(
            ("updates", [{**first, "units": units}, *others], "unit")
            for units in ([], [1.0], 0.5, [float("nan")] * 10_000, [[1.0]])
            if "units" in first
        ),
    ):
        spoilt = {**document, "kept": {**kept, key: value}}
        (moved / "costsim_model.json").write_text(json.dumps(spoilt))
        assert told in refused(str(dump), "--firmware", str(moved))
    before = (moved / "costsim_plan.json").read_bytes()
    over = ["apply", str(dump), "--firmware", str(moved)]
    assert main([*over, "--out", str(moved / "costsim_plan.json")]) == 2
    assert "is of the firmware" in capsys.readouterr().err
    assert (moved / "costsim_plan.json").read_bytes() == before
    assert isinstance(memory.store, CStore)

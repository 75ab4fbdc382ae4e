"""A plan file holds its task, weights and device: commands take all of it from there."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from targeting import fork_jobs
from training import MODEL, write_network

from costsim.cli import main
from costsim.data import Drawing, draw_task, find_tracks, open_images
from costsim.device import DeviceSpec, load_device
from costsim.learning.training import read_patch
from costsim.models.loading import load_model
from costsim.models.networks.graph import architecture_graph
from costsim.models.networks.shipped import RANDOM
from costsim.solving.planfile import read_plan

SIZE = ["--resolution", "32", "--iterations", "2"]
PI = ["--device", "pi-zero-2"]
ASKED = [
    *PI, *SIZE, "--data", "signs", "--ways", "3", "--shots", "3", "--queries", "5", "--seed", "2",
    "--weights", "w.safetensors",
]  # fmt: skip


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    fork_jobs(monkeypatch)


def write_tracks(folder: Path, seed: int = 0, classes: int = 3, tracks: int = 5) -> None:
    """Frames of several objects of each class, named as those of the German traffic signs."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        (folder / f"sign{label}").mkdir(parents=True)
        for track in range(tracks):
            for frame in range(3):
                pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                name = f"{track:05}_{frame:05}.png"
                Image.fromarray(pixels).save(folder / f"sign{label}" / name)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `costsim adapt` was typed, with the images in it."""
    folder = tmp_path_factory.mktemp("adapted")
    write_tracks(folder / "signs")
    network = load_model("mcunet-5fps", weights=RANDOM, seed=7, resolution=32).module
    save_file(network.state_dict(), folder / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outputs = ["--out", "adapted.safetensors", "--plan-out", "plan.json"]
        assert main(["adapt", *ASKED, *outputs]) == 0
    return folder


def copy_plan(folder: Path) -> None:
    """The plan and the weights, here."""
    for name in ("plan.json", "w.safetensors"):
        shutil.copy(folder / name, name)


# The task.


def test_scales_of_8_bits_are_those_of_the_plans_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_network(tmp_path)
    write_tracks(tmp_path / "signs")
    given = ["--device", "stm32f746", "--model", MODEL, "--loss", "cross_entropy"]
    task = ["--data", "signs", "--ways", "3", "--shots", "2"]
    assert main(["plan", *given, *task, "--out", "plan.json"]) == 0
    capsys.readouterr()
    assert main(["export", "plan.json", "--out", "own"]) == 0
    assert "taken from 6 images of the task of the plan" in capsys.readouterr().err
    write_tracks(tmp_path / "others", seed=1)
    assert main(["export", "plan.json", "--out", "given", "--data", "others"]) == 0
    assert "taken from 6 images of others" in capsys.readouterr().err
    shutil.rmtree("signs")
    write_tracks(tmp_path / "signs", seed=1)
    assert main(["export", "plan.json", "--out", "none"]) == 2
    assert "was made for" in capsys.readouterr().err
    assert not Path("none").exists()


def agreeing(one: Path, other: Path) -> None:
    """Two plans of the same task, recipe, channels, and price of the whole."""
    a, b = (json.loads(path.read_text()) for path in (one, other))
    for plan in (a, b):
        del plan["recipe"]["learning_rate"]  # adapt writes down the usual one
    for key in ("model", "device", "task", "step", "recipe", "budgets", "layers"):
        assert a[key] == b[key], key
    assert a["predicted"]["memory"] == b["predicted"]["memory"]
    for key in ("peak_bytes", "macs", "latency_s", "energy_j", "stored_bytes"):
        assert a["predicted"]["adaptation"][key] == b["predicted"]["adaptation"][key], key


def test_plan_chooses_what_adapt_did(adapted, tmp_path, monkeypatch):
    """With the same options: of the same images the same channels, and how they are trained."""
    monkeypatch.chdir(adapted)
    out = tmp_path / "chosen.json"
    assert main(["plan", *ASKED, "--out", str(out)]) == 0
    agreeing(out, adapted / "plan.json")


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(["--no-tracks", "--ways", "2", "--shots", "2"], marks=pytest.mark.slow),
        ["--episode", "meta-dataset", "--queries", "3"],
        pytest.param(["--task-time", "30s", "--cache", "ram"], marks=pytest.mark.slow),
        ["--device", "stm32f746", "--queries", "2"],
    ],
)
def test_plan_and_adapt_choose_the_same(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tracks(tmp_path / "signs", classes=6)
    common = [*(PI if "--device" not in given else []), *SIZE, "--data", "signs", "--seed", "3"]
    assert main(["plan", *common, *given, "--out", "chosen.json"]) == 0
    assert main(["adapt", *common, *given, "--plan-out", "adapted.json"]) == 0
    agreeing(Path("chosen.json"), Path("adapted.json"))


def test_where_few_images_are_left_to_test_on_all_say_so_and_take_the_same(
    tmp_path, monkeypatch, capsys
):
    """Classes of 6 images: five to learn from, one to test on."""
    monkeypatch.chdir(tmp_path)
    write_tracks(tmp_path / "few", tracks=2)
    common = [*PI, *SIZE, "--data", "few", "--no-tracks"]
    told = "few: beside 5 shots there is 1 image of a class to test on, not 10"
    for command, out in (("plan", "--out"), ("adapt", "--plan-out")):
        assert main([command, *common, out, f"{command}.json"]) == 0
        assert told in capsys.readouterr().err
    agreeing(Path("plan.json"), Path("adapt.json"))
    assert read_plan(Path("plan.json")).task.queries == 1
    assert main(["train", "plan.json", "--iterations", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"]["queries"] == 1


def test_what_is_learnt_from_hangs_neither_on_reading_queries_nor_on_who_asks(tmp_path):
    """And no query is a frame of what is learnt from."""
    write_tracks(tmp_path / "signs")
    source = open_images(tmp_path / "signs")
    tracks = find_tracks(source.classes)
    for seed in range(5):
        drawing = Drawing(shots=3).settled(source)
        assert drawing == Drawing(3, 3, 10)
        given: dict[str, Any] = {"seed": seed, "resolution": 8}
        task = draw_task(source, drawing, **given)
        plain = draw_task(source, drawing, **given, with_queries=False)
        assert (task.digest, len(plain.query_labels)) == (plain.digest, 0)
        learnt = {tracks[path] for path in task.paths}
        assert not learnt & {tracks[path] for path in task.query_paths}
        assert task.queries_by_class == (10, 10, 10)


def test_train_draws_what_adapt_did_and_makes_the_same_patch(adapted, tmp_path, monkeypatch):
    """From another folder; frames of one track on one side; the same bits."""
    task = read_plan(adapted / "plan.json").task
    assert (task.data, task.split, task.tracks, task.queries) == ("signs", None, True, 5)
    monkeypatch.chdir(tmp_path)
    plan, out = str(adapted / "plan.json"), tmp_path / "trained.safetensors"
    assert main(["train", plan, "--out", str(out)]) == 0
    ours, theirs = read_patch(out), read_patch(adapted / "adapted.safetensors")
    assert ours.plan_sha256 == theirs.plan_sha256
    assert ours.changes
    assert [change.parameter for change in ours.changes] == [c.parameter for c in theirs.changes]
    for one, other in zip(ours.changes, theirs.changes, strict=True):
        assert torch.equal(one.new, other.new)
    for patch in (out, adapted / "adapted.safetensors"):  # the weights too are found again
        assert main(["apply", str(patch), "--out", f"{patch.stem}.whole"]) == 0
    assert Path("trained.whole").read_bytes() == Path("adapted.whole").read_bytes()


def test_adapt_does_what_the_plan_says(adapted, tmp_path, monkeypatch, capsys):
    """The same price and the same bits as when it was made, from another folder."""
    monkeypatch.chdir(tmp_path)
    plan, out = adapted / "plan.json", tmp_path / "again.safetensors"
    assert main(["adapt", str(plan), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    made = json.loads(plan.read_text())
    whole, planned = found["predicted"]["adaptation"], made["predicted"]["adaptation"]
    for key in ("peak_bytes", "macs", "latency_s", "energy_j", "stored_bytes", "uncached_s"):
        assert whole[key] == planned[key], key
    assert whole["recipe"]["cut"] == made["recipe"]["cut"]
    assert found["predicted"]["step"]["macs"]["forward"] == made["predicted"]["macs"]["forward"]
    assert found["layers"] == made["layers"]
    assert (found["method"], found["task"]["queries"]) == ("plan by exact", [5, 5, 5])
    ours, theirs = read_patch(out), read_patch(adapted / "adapted.safetensors")
    assert ours.plan_sha256 == theirs.plan_sha256
    for one, other in zip(ours.changes, theirs.changes, strict=True):
        assert torch.equal(one.new, other.new)


def test_what_a_plan_was_made_with_that_adapt_does_not_choose_is_the_plans(tmp_path, monkeypatch):
    """Passes of several images, computed twice in part: no option of adapt says that."""
    monkeypatch.chdir(tmp_path)
    given = [*PI, *SIZE, "--ways", "2", "--shots", "2", "--micro-batch", "2", "--recompute", "2"]
    assert main(["plan", *given, "--out", "plan.json"]) == 0
    assert main(["adapt", "plan.json", "--queries", "1", "--out", "patch"]) == 0
    assert main(["train", "plan.json", "--out", "trained"]) == 0
    for one, other in zip(
        *(read_patch(Path(p)).changes for p in ("patch", "trained")), strict=True
    ):
        assert torch.equal(one.new, other.new)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["--seed", "3"], "--seed: {plan} says that; leave it out, or plan anew"),
        (["--device", "jetson-nano"], "--device: {plan} says that"),
        (["--plan-out", "p.json"], "--plan-out: {plan} says that"),
        (["--model", "mbv2-w0.35"], "--model mbv2-w0.35: {plan} was made for mcunet-5fps"),
    ],
)
def test_what_would_make_another_plan_is_refused_beside_one(adapted, typed, told, capsys):
    plan = str(adapted / "plan.json")
    assert main(["adapt", plan, *typed]) == 2
    assert f"costsim: {told.format(plan=plan)}" in capsys.readouterr().err


def test_images_that_were_changed_since_are_refused(adapted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy_plan(adapted)
    write_tracks(tmp_path / "signs", seed=1)
    for command in ("train", "adapt"):
        assert main([command, "plan.json", "--out", "patch"]) == 2
        assert (
            "plan.json: was made for signs, 3 ways × 3 shots, seed 2, and its images are not"
            in (capsys.readouterr().err)
        )
        assert not Path("patch").exists()


def test_images_that_are_gone_are_refused(adapted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy_plan(adapted)
    assert main(["train", "plan.json"]) == 2
    told = "costsim: plan.json: task.data is 'signs', which is neither there nor beside plan.json"
    assert capsys.readouterr().err.splitlines()[-1].startswith(told)


@pytest.mark.parametrize(("queries", "tested"), [(None, 15), ("2", 6), ("0", 0), ("6", 18)])
def test_images_to_test_on_do_not_change_those_to_learn_from(
    adapted, queries, tested, monkeypatch, capsys
):
    """As many as set aside, fewer, none, and more as long as no other track has to be taken."""
    monkeypatch.chdir(adapted)
    asked = [] if queries is None else ["--queries", queries]
    assert main(["train", "plan.json", "--iterations", "1", "--json", *asked]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["task"]["queries"] * 3 == tested


def test_more_images_to_test_on_than_there_are_beside_those_learnt_from(
    adapted, monkeypatch, capsys
):
    monkeypatch.chdir(adapted)
    assert main(["train", "plan.json", "--queries", "9"]) == 2
    assert "with 9 queries of each class, not 5, set aside" in capsys.readouterr().err


def test_a_drawn_episode_and_one_without_tracks(tmp_path, monkeypatch):
    """Ways and shots that vary are drawn again, and so are images that are each on their own."""
    monkeypatch.chdir(tmp_path)
    write_tracks(tmp_path / "signs", classes=6)
    common = ["adapt", *PI, *SIZE, "--data", "signs", "--method", "lastlayer", "--queries", "3"]
    for name, given in (
        ("drawn", ["--episode", "meta-dataset"]),
        ("mixed", ["--no-tracks", "--ways", "4", "--shots", "2"]),
    ):
        outputs = ["--out", f"{name}.patch", "--plan-out", f"{name}.json"]
        assert main([*common, *given, *outputs]) == 0
        assert main(["train", f"{name}.json", "--out", f"{name}.again"]) == 0
        one, other = read_patch(Path(f"{name}.patch")), read_patch(Path(f"{name}.again"))
        assert one.plan_sha256 == other.plan_sha256
        for a, b in zip(one.changes, other.changes, strict=True):
            assert torch.equal(a.new, b.new)
    assert read_plan(Path("drawn.json")).task.episode == "meta-dataset"
    assert read_plan(Path("mixed.json")).task.tracks is False


def test_what_was_typed_of_the_rate_is_trained_by(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [*PI, *SIZE, "--ways", "3", "--shots", "2", "--queries", "3"]
    asked = ["--learning-rate", "0.02", "--guard", "2-fold", "--plan-out", "plan.json"]
    assert main(["adapt", *given, *asked]) == 0
    assert "plan.json: says nothing of the guard 2-fold" in capsys.readouterr().err
    assert main(["adapt", *given, *asked[:2], "--plan-out", "plan.json"]) == 0
    assert "guard" not in capsys.readouterr().err
    assert read_plan(Path("plan.json")).recipe.rate == 0.02


# The weights.


def write_weights(path: Path, seed: int) -> None:
    """Other weights than those that the network starts with."""
    save_file(load_model(MODEL, seed=seed, resolution=16).module.state_dict(), path)


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a plan was made with the weights in it."""
    folder = tmp_path_factory.mktemp("weighed")
    write_network(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        (folder / "of").mkdir()
        write_weights(folder / "of" / "w.safetensors", seed=5)
        given = ["--model", MODEL, "--weights", "of/w.safetensors", "--device", "stm32f746"]
        chosen = ["--loss", "cross_entropy", "--ways", "3", "--shots", "2", "--iterations", "2"]
        bits = ["--bits", "32"]
        assert main(["plan", *given, *chosen, *bits, "--out", "plan.json"]) == 0
    return folder


@pytest.fixture
def elsewhere(weighed, tmp_path, monkeypatch) -> str:
    """The plan, from another folder; the network's code is the same."""
    monkeypatch.syspath_prepend(str(weighed))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(weighed / "plan.json")


def test_weights_are_found_from_another_folder(weighed, elsewhere, capsys):
    model = read_plan(Path(elsewhere)).model
    assert model.weights == "of/w.safetensors"
    assert (
        model.weights_sha256
        == hashlib.sha256((weighed / "of" / "w.safetensors").read_bytes()).hexdigest()
    )
    assert main(["train", elsewhere, "--out", "patch.safetensors"]) == 0
    assert main(["validate", elsewhere, "--steps", "1"]) == 0
    assert main(["measure", elsewhere, "--steps", "1"]) == 0
    assert main(["export", elsewhere, "--out", "firmware"]) == 0
    assert main(["show", elsewhere]) == 0
    capsys.readouterr()
    apply = ["apply", "patch.safetensors", "--model", MODEL]
    named = [*apply, "--weights", str(weighed / "of" / "w.safetensors"), "--out", "named"]
    assert main(named) == 0
    origin = read_patch(Path("patch.safetensors")).origin
    assert Path(str(origin.weights)).is_file()


def test_those_with_the_plans_own_bytes_are_taken_of_several(elsewhere):
    """A file of the same name lies here; beside the plan is the right one."""
    Path("of").mkdir()
    write_weights(Path("of/w.safetensors"), seed=6)
    assert main(["train", elsewhere, "--iterations", "1"]) == 0


@pytest.mark.usefixtures("elsewhere")
def test_both_copied_into_one_folder(weighed):
    for name in ("plan.json", "of/w.safetensors"):
        shutil.copy(weighed / name, Path(name).name)
    (weighed / "of").rename(weighed / "away")
    try:
        assert main(["train", "plan.json", "--iterations", "1"]) == 0
    finally:
        (weighed / "away").rename(weighed / "of")


@pytest.mark.parametrize("command", ["train", "export --out firmware"])
@pytest.mark.usefixtures("elsewhere")
def test_weights_with_other_contents_are_refused_by_both_digests(weighed, command, capsys):
    shutil.copy(weighed / "plan.json", "plan.json")
    write_weights(Path("w.safetensors"), seed=6)
    name, *given = command.split()
    assert main([name, "plan.json", *given]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    model = read_plan(Path("plan.json")).model
    assert told.startswith("costsim: plan.json: model.parameters_sha256 is ")
    assert f"(w.safetensors, model.weights_sha256 {model.weights_sha256[:12]}..., not " in told
    assert not Path("firmware").exists()


@pytest.mark.parametrize("command", ["train", "validate", "measure", "export --out firmware"])
@pytest.mark.usefixtures("elsewhere")
def test_weights_that_are_gone_are_one_line(weighed, command, capsys):
    shutil.copy(weighed / "plan.json", "plan.json")
    name, *given = command.split()
    assert main([name, "plan.json", *given]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "costsim: plan.json: model.weights is 'of/w.safetensors', which is neither there nor "
        "beside plan.json; say where they are with --weights"
    )


# The device.


@pytest.fixture(scope="module")
def own_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a plan for a device whose file is not there any more."""
    folder = tmp_path_factory.mktemp("device")
    document = load_device("stm32f746").to_json()
    write_network(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        document["name"] = "my-board"
        Path("my-board.yaml").write_text(json.dumps(document))
        given = ["--model", MODEL, "--device", "my-board.yaml", "--loss", "cross_entropy"]
        task = ["--ways", "3", "--shots", "2", "--iterations", "2"]
        assert main(["plan", *given, *task, "--bits", "32", "--out", "plan.json"]) == 0
        Path("my-board.yaml").unlink()
    return folder


def test_the_device_is_the_plans_where_its_file_is_gone(own_device, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(own_device)
    monkeypatch.syspath_prepend(str(own_device))
    assert read_plan(Path("plan.json")).device_spec == replaced("my-board")
    out = str(tmp_path / "measured.json")
    assert main(["measure", "plan.json", "--steps", "1", "--out", out]) == 0
    assert "not at hand" not in capsys.readouterr().err
    assert "memory" in json.loads(Path(out).read_text())["unlike"]["local"]
    found = str(tmp_path / "found.json")
    assert main(["validate", "plan.json", "--steps", "2", "--measurement", found]) == 0
    capsys.readouterr()
    assert main(["calibrate", "--drift", found, "--plan", "plan.json", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    board = read_plan(Path("plan.json")).predicted.latency_s
    assert step["predicted_s"]["value"] == pytest.approx(board.step)
    assert main(["export", "plan.json", "--out", str(tmp_path / "firmware")]) == 0
    assert "no shipped device" not in capsys.readouterr().err
    assert main(["show", "plan.json", "--report", str(tmp_path / "page.html")]) == 0
    assert main(["train", "plan.json", "--iterations", "1"]) == 0


def replaced(name: str) -> DeviceSpec:
    """The board under another name."""
    return DeviceSpec.from_json({**load_device("stm32f746").to_json(), "name": name})


def test_the_flash_is_that_of_the_plans_device(own_device, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(own_device)
    monkeypatch.syspath_prepend(str(own_device))
    document = json.loads(Path("plan.json").read_text())
    for region in document["device_spec"]["memory"].values():
        if region["kind"] == "flash":
            region["size"]["value"] = 1024
    small = tmp_path / "small.json"
    small.write_text(json.dumps(document))
    assert main(["export", str(small), "--out", str(tmp_path / "firmware")]) == 2
    assert "bytes of flash, of which there are 1,024" in capsys.readouterr().err


def test_a_device_file_that_changed_is_told(adapted, monkeypatch, tmp_path, capsys):
    """The plan's own device is used, and where the shipped one differs is said."""
    monkeypatch.chdir(adapted)
    document = json.loads(Path("plan.json").read_text())
    assert list(document)[-1] == "device_spec"
    document["device_spec"]["title"] = "another"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document))
    for command in (["show"], ["validate", "--steps", "1"]):
        assert main([command[0], str(changed), "--weights", "w.safetensors", *command[1:]]) == 0
        told = capsys.readouterr().err
        assert "the device file of pi-zero-2 has changed since the plan, whose device is" in told
        assert "title is" in told
    assert main(["show", "plan.json"]) == 0
    assert "has changed" not in capsys.readouterr().err
    assert main(["diff", "plan.json", str(changed), "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    assert (found["part"], found["key"], found["right"]) == (
        "device",
        "device_spec.title",
        "another",
    )


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("device_spec", "memory"), {}, "plan.json: device_spec: "),
        (("device_spec", "name"), "nano", "device_spec.name: is nano, but device.name is"),
        (("device_spec",), None, "device_spec: comes with device: both, or neither"),
        (("device_spec", "swop"), 1, "plan.json: device_spec: swop: unknown key"),
        (("device", "target"), "npu", "plan.json: device_spec.targets: "),
        (("recipe", "cache_in"), "ram", "plan.json: recipe: a cut and a place"),
        (("recipe", "micro_batch"), 2, "recipe.micro_batch: 2 does not divide step.batch 9"),
        (("recipe", "batch"), 3, "recipe.batch: is 3, but step.batch 9"),
        (("recipe", "optimizer"), "sgd", "recipe.optimizer: is sgd, but step.optimizer adam"),
        (("recipe", "cut"), "nowhere", "plan.json: recipe.cut: 'nowhere' is no call of mcunet"),
        (("recipe", "cut"), "LAST", "is kept of every image, but layers has"),
        (("schema",), "costsim.plan/1", "make the plan anew with costsim plan"),
    ],
)
@pytest.mark.parametrize("command", ["train", "validate", "measure"])
def test_a_plan_that_contradicts_itself_is_one_line(
    adapted, tmp_path, monkeypatch, capsys, command, keys, value, told
):
    monkeypatch.chdir(adapted)
    document = json.loads(Path("plan.json").read_text())
    if keys[-1] == "cut":
        document["recipe"]["cache_in"] = "ram"
    if value == "LAST":
        value = last_call(Path("plan.json"))
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    bad = tmp_path / "plan.json"
    bad.write_text(json.dumps(document))
    assert main([command, str(bad), "--weights", "w.safetensors"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"costsim: {bad}: ")
    assert told in line


def last_call(path: Path) -> str:
    """What the network returns: nothing comes after it."""
    side = read_plan(path).model.resolution
    return architecture_graph("mcunet-5fps", batch=1, resolution=side).output

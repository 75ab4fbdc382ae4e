"""A plan file holds its task, weights and device: commands take all of it from there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from costsim.cli import main
from costsim.learning.training import read_patch
from costsim.solving.planfile import read_plan

SIZE = ["--resolution", "32", "--iterations", "2"]
PI = ["--device", "pi-zero-2"]


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
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = [*PI, *SIZE, "--data", "signs", "--ways", "3", "--shots", "3", "--queries", "5"]
        outputs = ["--out", "adapted.safetensors", "--plan-out", "plan.json"]
        assert main(["adapt", *given, "--seed", "2", *outputs]) == 0
    return folder


# The task.


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


def test_images_that_were_changed_since_are_refused(adapted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(adapted / "plan.json", "plan.json")
    write_tracks(tmp_path / "signs", seed=1)
    assert main(["train", "plan.json", "--out", "patch"]) == 2
    assert "plan.json: was made for signs, 3 ways × 3 shots, seed 2, and its images are not" in (
        capsys.readouterr().err
    )
    assert not Path("patch").exists()


def test_images_that_are_gone_are_refused(adapted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(adapted / "plan.json", "plan.json")
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

"""Omniglot's own zips, and Hugging Face datasets: local Parquet of several shapes."""

import builtins
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from costsim.base.errors import InputError, Note
from costsim.cli import main
from costsim.data import FixedEpisode, find_tracks, open_images, open_source, sample_episode
from costsim.data.hub import open_hub

datasets = pytest.importorskip("datasets", reason="the extra costsim[hub] is not installed")


@pytest.fixture(autouse=True)
def _nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def png(level: int, size: tuple[int, int] = (6, 6), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, level).save(stream, "PNG")
    return stream.getvalue()


# Omniglot.


def omniglot_zip(path: Path, top: str = "images_background/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for a, alphabet in enumerate(("Angelic", "Greek", "N_Ko")):
            for c in (1, 2):
                for i in range(1, 5):
                    number = 100 * a + 10 * c
                    name = f"{top}{alphabet}/character{c:02d}/{number:04d}_{i:02d}.png"
                    archive.writestr(name, png(number + i, (105, 105), "1" if i == 1 else "L"))
    return path


@pytest.mark.parametrize("top", ["images_background/", "images_evaluation/", "a/b/", ""])
def test_a_character_of_an_alphabet_is_a_class(tmp_path: Path, top: str) -> None:
    source = open_images(omniglot_zip(tmp_path / "images.zip", top))
    assert list(source.classes) == [
        f"{alphabet}/character{c:02d}" for alphabet in ("Angelic", "Greek", "N_Ko") for c in (1, 2)
    ]
    assert source.classes["Greek/character02"][0] == "Greek/character02/0120_01.png"
    assert find_tracks(source.classes) is None  # the number is the character's, not a track's
    task = sample_episode(source, FixedEpisode(3, 2, 2), seed=0, resolution=7)
    assert task.images.shape == (6, 3, 7, 7)
    for path, label, image in zip(task.paths, task.labels, task.images, strict=True):
        assert path.startswith(task.class_names[label] + "/")
        if not path.endswith("_01.png"):
            number, drawer = path.rpartition("/")[2][:-4].split("_")
            assert np.allclose(image, (int(number) + int(drawer)) / 127.5 - 1, atol=1e-6)


def test_an_alphabet_alone_may_be_chosen(tmp_path: Path) -> None:
    source = open_images(f"{omniglot_zip(tmp_path / 'images.zip')}::Greek")
    assert list(source.classes) == ["character01", "character02"]


def test_other_nested_folders_are_still_splits(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train/cat", "train/dog", "val/cat", "val/character01"):
            archive.writestr(f"{name}/0.png", png(1))
    with pytest.raises(InputError, match="choose one of train, val"):
        open_images(path)


# Hugging Face datasets.


def rows(count: int = 12) -> dict[str, list[Any]]:
    return {
        "image": [{"bytes": png(10 * i, (5 + i % 3, 6)), "path": None} for i in range(count)],
        "label": [i % 3 for i in range(count)],
    }


def written(path: Path, data: dict[str, list[Any]], **features: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    typed = datasets.Features(features) if features else None
    datasets.Dataset.from_dict(data, features=typed).to_parquet(path)
    return path


NAMED = {
    "image": datasets.Image(),
    "label": datasets.ClassLabel(names=["cat", "a/dog", "owl"]),
}


def test_parquet_gives_the_images_of_each_class(tmp_path: Path) -> None:
    source = open_source(written(tmp_path / "pets.parquet", rows(), **NAMED))
    assert list(source.classes) == ["a_dog", "cat", "owl"]
    assert source.classes["owl"] == tuple(f"owl/{row:08d}" for row in range(2, 12, 3))
    assert source.description == "pets.parquet"
    task = sample_episode(source, FixedEpisode(3, 2, 1), seed=1, resolution=4)
    for path, image in zip(task.paths, task.images, strict=True):
        assert np.allclose(image, 10 * int(path[-8:]) / 127.5 - 1, atol=1e-6)


def test_numbers_serve_as_names_and_plain_bytes_as_images(tmp_path: Path) -> None:
    data = rows()
    data["image"] = [one["bytes"] for one in data["image"]]
    data["label"][0] = None
    source = open_source(written(tmp_path / "a.parquet", data))
    with pytest.warns(Note, match="1 rows have no label and are left out"):
        sizes = {name: len(members) for name, members in source.classes.items()}
    assert sizes == {"0": 3, "1": 4, "2": 4}
    ((name, image),) = source.read(["1/00000004"])
    assert (name, image.getpixel((0, 0))) == ("1/00000004", 40)


def test_files_of_a_folder_are_splits_by_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    written(folder / "train-00000-of-00002.parquet", rows(6), **NAMED)
    written(folder / "train-00001-of-00002.parquet", rows(6), **NAMED)
    written(folder / "test-00000-of-00001.parquet", rows(3), **NAMED)
    source = open_source(folder, "train")
    assert sum(map(len, source.classes.values())) == 12
    assert source.description == "data::train"
    with pytest.raises(InputError, match="several splits; choose one of test, train"):
        open_source(folder)
    with pytest.raises(InputError, match="no split 'dev'; choose one of test, train"):
        open_source(folder, "dev")


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet: cannot be read as a dataset"):
        open_source(tmp_path / "none.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but no more")
    with pytest.raises(
        InputError, match=r"broken\.parquet: cannot be read as a dataset: ."
    ) as told:
        open_source(broken)
    assert "\n" not in str(told.value)
    no_labels = written(tmp_path / "a.parquet", {"image": rows()["image"]}, image=datasets.Image())
    with pytest.raises(InputError, match="no column holds class labels; its columns are image"):
        open_source(no_labels)
    no_images = written(tmp_path / "b.parquet", {"label": [0, 1]})
    with pytest.raises(InputError, match="no column holds images"):
        open_source(no_images)
    data = rows()
    data["image"][4] = {"bytes": b"no image", "path": None}
    damaged = open_source(written(tmp_path / "c.parquet", data, **NAMED))
    with pytest.raises(InputError, match=r"c\.parquet: a_dog/00000004: is not an image"):
        list(damaged.read(["a_dog/00000004"]))
    data["image"][4] = None
    empty = open_source(written(tmp_path / "d.parquet", data, **NAMED))
    with pytest.raises(InputError, match=r"d\.parquet: a_dog/00000004: has no image"):
        list(empty.read(["a_dog/00000004"]))


def test_too_few_images_of_a_class(tmp_path: Path) -> None:
    source = open_source(written(tmp_path / "pets.parquet", rows(4), **NAMED))
    with pytest.raises(InputError, match="1 of its 3 classes have the 2 images"):
        sample_episode(source, FixedEpisode(2, 1, 1), seed=0, resolution=4)


def test_a_split_may_follow_the_path(tmp_path: Path) -> None:
    written(tmp_path / "train-0.parquet", rows(6), **NAMED)
    written(tmp_path / "test-0.parquet", rows(3), **NAMED)
    source = open_source(f"{tmp_path}::test")
    assert [len(images) for images in source.classes.values()] == [1, 1, 1]


def test_a_study_of_parquet_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "pets.parquet", rows(18), **NAMED)
    (tmp_path / "study.yaml").write_text(
        "{models: [{model: mcunet-5fps, resolution: 32}], methods: [None], domains: [pets.parquet],"
        " episode: {ways: 3, shots: 1, queries: 2}}"
    )
    assert main(["study", str(tmp_path / "study.yaml"), "--jobs", "1", "--json"]) == 0
    printed = capsys.readouterr()
    (line,) = json.loads(printed.out)["methods"]
    assert (line["tasks"], line["failed"]) == (1, 0)
    assert "Warning" not in printed.err


def test_a_hub_dataset_that_is_not_there_is_told() -> None:
    with pytest.raises(InputError, match="hub:nobody/nothing: cannot be read as a dataset"):
        open_source("hub:nobody/nothing")


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return whole(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r'pip install "costsim\[hub\]"'):
        open_hub(str(tmp_path / "a.parquet"))

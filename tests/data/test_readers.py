"""What readers must not do: run or unpack what a small input asks for, drop a part silently."""

import functools
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import sqlite3
import struct
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file, save_model
from torch import nn
from training import MODEL, small_plan, write_network

from costsim.base import trust
from costsim.base.code import _home
from costsim.base.errors import InputError, Note, shown
from costsim.base.files import parse_json, read_file, write_atomically
from costsim.base.yaml_text import MAXIMUM_ALIASED, MAXIMUM_DEPTH, _check_size, parse_yaml
from costsim.cli import main
from costsim.data import containers, open_images
from costsim.data.decode import decode
from costsim.data.task import classes_of, sample_task
from costsim.data.threads import threaded_map
from costsim.device import load_device
from costsim.learning.training.base_model import load_subject_of
from costsim.models.loading import load_model
from costsim.models.networks.restricted_pickle import _Resolver, loads_restricted
from costsim.models.networks.tensors import read_state
from costsim.studies.engine import CellStore


def picture(seed: int = 0, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((8, 8), 20 + seed).convert("RGB").save(file, form)
    return file.getvalue()


FILES = {f"{label}/{i}.png": picture(i) for label in ("ant", "bee") for i in range(2)}


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tar_of(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


# YAML and JSON: the work is counted, before anything is built.

NINE = "[&a [x,x,x,x,x,x,x,x,x]" + "".join(
    f", &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(8)
)
BOMBS = {
    "aliases": f"a: {NINE}]",
    "merge keys": "a0: &a0 {k: v}\n"
    + "".join(f"a{i + 1}: &a{i + 1}\n  <<: [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(8)),
    "nesting": "a: " + "[" * 3000,
    "nested mappings": "a: " + "{a: " * 3000,
    "in itself": "a: &a [*a]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_after_few_events(name: str) -> None:
    looked_at = 0

    def counted() -> Iterator[yaml.Event]:
        nonlocal looked_at
        for event in yaml.parse(BOMBS[name], yaml.SafeLoader):
            looked_at += 1
            yield event

    with pytest.raises(yaml.MarkedYAMLError):
        _check_size(counted())
    assert looked_at <= len(BOMBS[name])
    with pytest.raises(InputError, match=r"^x: line \d+: .*(aliases|nested|inside)"):
        parse_yaml(BOMBS[name], "x")


def test_aliases_and_nesting_within_bounds_are_read() -> None:
    assert parse_yaml("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}", "x")["d"] == {"b": 1, "e": 2}
    deep = "[" * (MAXIMUM_DEPTH - 1) + "]" * (MAXIMUM_DEPTH - 1)
    assert parse_yaml(f"a: {deep}", "x")
    many = f"a: &a 1\nb: [{', '.join(['*a'] * MAXIMUM_ALIASED)}]"
    assert len(parse_yaml(many, "x")["b"]) == MAXIMUM_ALIASED


@pytest.mark.parametrize(
    "text",
    ["!!bool abc", "!!timestamp abc", "!!map [abc]", "!!seq {a: 1}", "!!int x", "!!float y",
     "!!binary é", "!!set [a]", "!!omap a", "!!pairs x", "2001-99-99", "0x" + "f" * 5000],
)  # fmt: skip
def test_what_a_tag_cannot_be_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"^x: line 1: "):
        parse_yaml(f"a: {text}", "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ('{"a": {"b": 1, "b": 1}}', "key 'b' is given twice"),
        ("\ufeff{}", "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_json_that_is_none(text: str, told: str) -> None:
    with pytest.raises(InputError, match=f"^x: .*{told}"):
        parse_json(text, "x")


def test_no_more_than_allowed_is_read() -> None:
    with pytest.raises(InputError, match="more than the 1,000 bytes allowed"):
        read_file(Path("/dev/zero"), 1000)


def test_a_long_value_is_told_in_a_few_characters() -> None:
    assert shown(1) == "1"
    assert len(shown("x" * 10_000)) <= 80
    assert "too long" in shown(1 << 100_000)


# What a file names is not run.


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has named anything yet; here."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "NAMED_HERE", set())
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path)


@pytest.mark.usefixtures("unnamed")
def test_a_plan_does_not_have_code_run(tmp_path: Path) -> None:
    plan = small_plan()  # which names the model, as whoever makes a plan does
    shutil.rmtree(trust.record_folder())
    trust.NAMED_HERE.clear()
    with pytest.raises(InputError, match=f"plan: is for {MODEL}; name it with --model to run it"):
        load_subject_of(plan)
    trust.name_from_now_on(MODEL)
    assert load_subject_of(plan).name == "make"
    trust.NAMED_HERE.clear()  # another process
    assert load_subject_of(plan).name == "make"
    (tmp_path / "elsewhere").mkdir()
    write_network(tmp_path / "elsewhere")
    os.chdir(tmp_path / "elsewhere")  # the same name, and other code
    with pytest.raises(InputError, match="name it with --model"):
        load_subject_of(plan)


@pytest.mark.usefixtures("unnamed")
@pytest.mark.parametrize("changed", ["models/nets/small.py", "models/__init__.py"])
def test_code_that_changed_is_to_be_named_again(changed: str, tmp_path: Path) -> None:
    """By its content, not by when it was written; a package's own code runs as well."""
    spec, folder = "models.nets.small:make", tmp_path / "models/nets"
    folder.mkdir(parents=True)  # nets is a package without a file of its own
    (tmp_path / "models/__init__.py").write_text("")
    (folder / "small.py").write_text("def make(): ...\n")
    with pytest.raises(InputError, match=r"^p: is for models\.nets\.small:make; name it"):
        trust.check_named(spec, "p")
    trust.name_from_now_on(spec)
    trust.NAMED_HERE.clear()
    assert trust.check_named(spec, "p") == spec
    (folder / "small.py").touch()
    (folder / "beside.py").write_text("raise SystemExit\n")
    assert trust.check_named(spec, "p") == spec
    before = (tmp_path / changed).read_text()
    (tmp_path / changed).write_text("import os\n")
    with pytest.raises(InputError, match=r"small.py\) is not what it was when you named it; name"):
        trust.check_named(spec, "p")
    (tmp_path / changed).write_text(before)
    assert trust.check_named(spec, "p") == spec
    (tmp_path / changed).write_text("import sys\n")
    trust.name_from_now_on(spec)  # seen and named again
    trust.NAMED_HERE.clear()
    assert trust.check_named(spec, "p") == spec


@pytest.mark.usefixtures("unnamed")
def test_a_script_is_named_with_all_that_it_makes(tmp_path: Path) -> None:
    script, other = tmp_path / "mine.py", tmp_path / "other.py"
    for file in (script, other):
        file.write_text("class Mine: ...\n")
    trust.name_from_now_on("mine.py")
    for process in range(2):
        for spec in ("mine.py:Mine", f"{script}:Mine(share=0.5)", "./mine.py:Mine"):
            assert trust.check_named(spec, "s.yaml") == spec
        for spec in ("other.py:Mine", "mine:Mine", "mine.py.py:Mine"):
            with pytest.raises(InputError, match="to run it"):
                trust.check_named(spec, "s.yaml")
        trust.NAMED_HERE.clear()  # another process
        assert process or trust.record_folder().exists()
    script.write_text("import os\n")
    with pytest.raises(InputError, match=r"mine.py\) is not what it was when you named it"):
        trust.check_named("mine.py:Mine", "s.yaml")


@pytest.mark.usefixtures("unnamed")
def test_a_damaged_record_is_none() -> None:
    trust.name_from_now_on(MODEL)
    trust.NAMED_HERE.clear()
    for record in trust.record_folder().iterdir():
        record.write_bytes(b"\xff" * 9)
    with pytest.raises(InputError, match="name it with --model"):
        trust.check_named(MODEL, "x")


@pytest.mark.usefixtures("unnamed")
def test_names_that_are_no_code_need_no_trust() -> None:
    for spec in ("mcunet-5fps", "net.pt2", "C:net.pt2"):
        assert trust.check_named(spec, "x") == spec


@pytest.mark.usefixtures("unnamed")
def test_a_home_that_is_read_only_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    trust.name_from_now_on(MODEL)
    assert trust.check_named(MODEL, "x") == MODEL
    trust.NAMED_HERE.clear()
    with pytest.raises(InputError, match="name it with --model"):
        trust.check_named(MODEL, "x")


@pytest.mark.usefixtures("unnamed")
@pytest.mark.parametrize("command", ["study", "compare"])
def test_a_study_does_not_have_code_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"models: ['{MODEL}']\n"
    if command == "study":
        text += "methods: [None]\ndomains: [digits]\n"
    Path("s.yaml").write_text(text)
    assert main([command, "s.yaml", "--store", "s.sqlite"]) == 2
    assert (
        f"s.yaml: models[0].model: is for {MODEL}; name it with --model" in capsys.readouterr().err
    )
    assert not Path("s.sqlite").exists()


@pytest.mark.parametrize(
    "spec",
    [
        "torch:os.abort",
        "torch:os.getcwd",
        "torch:sys.exit",
        "torch:serialization.os.abort",
        "os:abort",
    ],
)
def test_pythons_own_modules_have_no_models(spec: str) -> None:
    with pytest.raises(InputError, match="Python's own modules have none"):
        load_model(spec)


def test_where_a_factory_comes_from() -> None:
    assert _home(functools.partial(os.abort)) == "posix"
    assert _home(functools.partial(nn.Linear, 1, 1)).startswith("torch.")
    assert _home(types.ModuleType("os")) == "os"


# Images.


@pytest.mark.parametrize("form", ["EPS", "PCX", "TGA", "ICO", "PDF", "SGI", "DDS"])
def test_only_what_is_promised_is_decoded(form: str) -> None:
    with pytest.raises(
        InputError, match=r"^x: is not an image that can be read; read are BMP, GIF"
    ):
        decode(picture(form=form), "x")


@pytest.mark.parametrize("ending", ["jfif", "JPE", "jpeg", "JPG", "pjpeg", "png", "dib"])
def test_endings_of_images(tmp_path: Path, ending: str) -> None:
    path = folder_of(tmp_path / "in", {f"{c}/0.{ending}": picture(form="JPEG") for c in "ab"})
    assert set(open_images(path).classes) == {"a", "b"}


@pytest.mark.parametrize("name", ["bee/0.heic", "bee/0.avif", "bee/0", "bee/0.jpg.part"])
def test_a_class_that_is_left_out_is_told(tmp_path: Path, name: str) -> None:
    path = folder_of(tmp_path / "in", {**FILES, "bee/0.png": b"", name: b"data"})
    (path / "bee/0.png").unlink()
    (path / "bee/1.png").unlink()
    with pytest.warns(Note, match=r"in: 1 class is left out.*bee \(1 "):
        assert set(open_images(path).classes) == {"ant"}


def test_litter_of_systems_needs_no_word(tmp_path: Path) -> None:
    litter = ("__MACOSX/ant/._0.png", ".DS_Store", "ant/Thumbs.db", "bee/desktop.ini", "a.txt")
    path = folder_of(tmp_path / "in", {**FILES, **dict.fromkeys(litter, b"")})
    assert {len(members) for members in open_images(path).classes.values()} == {2}


def test_classes_too_small_to_draw_from_are_told(tmp_path: Path) -> None:
    source = open_images(folder_of(tmp_path / "in", {**FILES, "cat/0.png": picture()}))
    with pytest.warns(Note, match="left out are classes with fewer than 2 images: cat"):
        assert classes_of(source, 2) == ["ant", "bee"]


@pytest.mark.parametrize("first", ["PKW", "BZh", "\x1f\x8b", "\xfd7zXZ", "Rar!"])
def test_a_tar_is_known_whatever_its_first_name(tmp_path: Path, first: str) -> None:
    files = {name.replace("ant", first): data for name, data in FILES.items()}
    (tmp_path / "in").write_bytes(tar_of(files))
    assert set(open_images(tmp_path / "in").classes) == {first, "bee"}


def test_zips_of_all_sorts(tmp_path: Path) -> None:
    def made(mode: Literal["w", "a"] = "w", before: bytes = b"", **more: object) -> Path:
        path = tmp_path / "in.zip"
        path.write_bytes(before)
        with zipfile.ZipFile(path, mode) as archive:
            for name, data in FILES.items():
                info = zipfile.ZipInfo("x")
                info.filename = str(more.get("root", "")) + name
                if more.get("backslashes"):
                    info.filename = info.filename.replace("/", "\\")
                archive.writestr(info, data)
        return path

    assert set(open_images(made()).classes) == {"ant", "bee"}
    assert set(open_images(made(root="photos/", backslashes=True)).classes) == {"ant", "bee"}
    assert set(open_images(made("a", before=b"#!/bin/sh\nexit\n")).classes) == {"ant", "bee"}
    with pytest.raises(InputError, match="all its 4 files are hidden"):
        open_images(made(root=".data/"))


def test_other_archives_are_named(tmp_path: Path) -> None:
    for magic, kind in ((b"7z\xbc\xaf", "7z"), (b"Rar!\x1a", "rar"), (b"\x28\xb5\x2f\xfd", "zstd")):
        (tmp_path / "in").write_bytes(magic + bytes(600))
        with pytest.raises(InputError, match=f"is a {kind} archive, not a folder, tar"):
            open_images(tmp_path / "in")


def test_links_to_folders_above_are_not_followed(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "in", FILES)
    for i in range(6):
        (path / f"loop{i}").symlink_to(".", target_is_directory=True)
    assert set(open_images(path).classes) == {"ant", "bee"}


def test_folders_behind_links_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in"
    for level in range(5):  # 4^4 ways from the first to the last
        (path / str(level)).mkdir(parents=True)
        for i in range(4 * (level < 4)):
            (path / str(level) / f"down{i}").symlink_to(path / str(level + 1))
    monkeypatch.setattr(containers, "MAXIMUM_LINKED_FOLDERS", 50)
    with pytest.raises(InputError, match="links lead to more than 50 folders"):
        open_images(path)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_an_archive_padded_with_zeros_is_not_unpacked_to_its_end(
    tmp_path: Path, pack: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "UNPACKED_BYTES", 100_000)
    monkeypatch.setattr(containers, "UNPACKED_FACTOR", 1)
    assert callable(pack)
    (tmp_path / "in").write_bytes(pack(tar_of(FILES) + bytes(10_000_000)))
    reached = 0
    check = containers._Bounded._check

    def watched(self: containers._Bounded, position: int) -> None:
        nonlocal reached
        reached = max(reached, position)
        check(self, position)

    monkeypatch.setattr(containers._Bounded, "_check", watched)
    with pytest.raises(InputError, match="it unpacks to more than"):
        open_images(tmp_path / "in")
    assert reached < 300_000


def test_what_is_left_of_a_tar_is_told(tmp_path: Path) -> None:
    whole = tar_of(FILES)
    end = tar_of({})
    (tmp_path / "in").write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512))
    with pytest.warns(Note, match="has no end mark"):
        open_images(tmp_path / "in")
    (tmp_path / "in").write_bytes(whole + end + tar_of({"cat/0.png": picture()}))
    with pytest.warns(Note, match="what follows its end mark is not read"):
        assert set(open_images(tmp_path / "in").classes) == {"ant", "bee"}


def test_of_two_members_of_one_name_the_later_is_read_alone(tmp_path: Path) -> None:
    first, later = picture(1), picture(2)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for data in (first, later):
            info = tarfile.TarInfo("a/0.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "in").write_bytes(file.getvalue())
    container = containers.Tar(tmp_path / "in")
    assert container.names().files == ["a/0.png"]
    assert list(container.read(["a/0.png"])) == [("a/0.png", later)]


def test_large_items_wait_one_by_one() -> None:
    made: list[int] = []
    items = (made.append(i) or i for i in range(50))  # type: ignore[func-returns-value]
    for done, _ in enumerate(threaded_map(lambda i: i, items, size_of=lambda _i: 10, most=25)):
        assert len(made) - done <= 4


# Weights.


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight


def test_tied_weights_are_there_once(tmp_path: Path) -> None:
    from costsim.models.state import load_state

    save_model(Tied(), str(tmp_path / "w"))
    load_state(Tied(), tmp_path / "w")
    save_file({"a.weight": torch.ones(4, 4), "b.weight": torch.zeros(4, 4)}, tmp_path / "w")
    with pytest.raises(InputError, match="are one parameter of the model and differ"):
        load_state(Tied(), tmp_path / "w")
    for odd in (torch.int8, torch.uint8, torch.bool, torch.complex64):
        save = {"weight": torch.ones(2, 2).to(odd), "bias": torch.ones(2)}
        torch.save(save, tmp_path / "w")
        with pytest.raises(InputError, match="'weight' is of torch"):
            load_state(nn.Linear(2, 2), tmp_path / "w")
    for fine in (torch.float64, torch.float16, torch.bfloat16):
        torch.save({"weight": torch.ones(2, 2).to(fine), "bias": torch.ones(2)}, tmp_path / "w")
        load_state(nn.Linear(2, 2), tmp_path / "w")
    torch.save({"weight": torch.full((2, 2), torch.nan), "bias": torch.ones(2)}, tmp_path / "w")
    with pytest.raises(InputError, match="NaN or infinite"):
        load_state(nn.Linear(2, 2), tmp_path / "w")


@pytest.mark.parametrize("name", ["w.SafeTensors", "w.bin", "w.pth", "w.ckpt", "w"])
def test_weights_are_told_by_their_content(tmp_path: Path, name: str) -> None:
    state = {"weight": torch.ones(2)}
    save_file(state, tmp_path / name, metadata={"format": "pt", "made by": "somebody"})
    assert read_state(tmp_path / name).keys() == state.keys()
    for key in ("state_dict", "model_state_dict", "model"):
        torch.save({key: state, "epoch": 3}, tmp_path / name)
        assert read_state(tmp_path / name).keys() == state.keys()
    (tmp_path / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "b"}}))
    with pytest.raises(InputError, match="lists the files of a network in parts"):
        read_state(tmp_path / name)


def test_shared_structure_of_a_pickle_is_gone_through_once() -> None:
    value: list[object] = [1]
    for _ in range(60):
        value = [value, value]
    resolver = _Resolver()
    resolver.resolved(value)
    assert resolver.looked_at == 121
    assert loads_restricted(pickle.dumps(value))
    value = []
    value.append(value)
    with pytest.raises(InputError, match="inside itself"):
        loads_restricted(pickle.dumps(value))


def test_a_pickle_that_numbers_an_object_beyond_its_size() -> None:
    with pytest.raises(InputError, match="numbers an object 2000000000"):
        loads_restricted(b"\x80\x02]r" + struct.pack("<I", 2_000_000_000) + b".")


# Stores, and what is written.


def store(path: Path) -> CellStore:
    return CellStore(
        path,
        schema="s/1",
        what="study",
        columns={"key": "TEXT PRIMARY KEY", "status": "TEXT", "accuracy": "REAL"},
        unfinished="failed",
    )


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE cells SET accuracy = 0.75 WHERE key = 'a'",
        "DELETE FROM cells WHERE key = 'a'",
        "DELETE FROM checksums WHERE key = 'a'",
        "UPDATE cells SET key = 'c' WHERE key = 'a'",
    ],
)
def test_a_row_that_changed_is_not_an_answer(tmp_path: Path, damage: str) -> None:
    rows = store(tmp_path / "s")
    for key in "ab":
        rows.write({"key": key, "status": "done", "accuracy": 0.5})
    assert store(tmp_path / "s").rows("ab")[0]["accuracy"] == 0.5
    with sqlite3.connect(tmp_path / "s") as database:
        database.execute(damage)
    database.close()
    with pytest.raises(InputError, match=r"is damaged: the row of cell '[ac]' is not as it was"):
        store(tmp_path / "s")
    with pytest.raises(InputError, match="is damaged"):
        rows.rows("ab")


def test_a_store_from_before_checksums_is_taken_over(tmp_path: Path) -> None:
    store(tmp_path / "s").write({"key": "a", "status": "done", "accuracy": 1})
    with sqlite3.connect(tmp_path / "s") as database:
        database.execute("DROP TABLE checksums")
    database.close()
    assert store(tmp_path / "s").rows("a")[0]["accuracy"] == 1.0
    with sqlite3.connect(tmp_path / "s") as database:
        assert len(database.execute("SELECT * FROM checksums").fetchall()) == 1
    database.close()


def test_a_link_to_itself_is_no_place_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="Too many levels of symbolic links"):
        write_atomically(tmp_path / "loop", "x")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / ("x" * 5000), "x")
    assert main(["plan", "--device", "jetson-nano", "--out", str(tmp_path / "loop")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    write_atomically(tmp_path / "odd", "\ud800")
    assert (tmp_path / "odd").read_text() == "\\ud800"


# Other people's terminals.


@pytest.mark.parametrize("columns", ["0", "1", "", "abc", "99999999999999999999"])
def test_columns_that_nothing_fits(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["devices"]) == 0
    assert "jetson-nano" in capsys.readouterr().out


def test_an_encoding_without_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert main(["devices", "jetson-nano"]) == 0
    assert b"Jetson Nano" in raw.getvalue()


def test_a_device_is_no_endless_file() -> None:
    with pytest.raises(InputError, match="/dev/zero: has more than"):
        load_device("/dev/zero")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_zip_does_not_unpack_to_far_more_than_it_is(method: int, tmp_path: Path) -> None:
    """bzip2 packs megabytes of zeros into some hundred bytes: a tar of them is refused as well."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"):
            archive.writestr(name, FILES["ant/0.png"] + bytes(9_000_000))
    source = open_images(path)
    with pytest.raises(InputError, match="it unpacks to more than 100 times the archive's size"):
        sample_task(source, ways=2, shots=1, queries=1, seed=0, resolution=(8, 8), channels=3)
    with zipfile.ZipFile(path, "w") as archive:  # as large, and not made to grow
        for name in ("ant/0.png", "bee/0.png"):
            archive.writestr(name, FILES["ant/0.png"] + bytes(9_000_000))
    sample_task(open_images(path), ways=2, shots=1, seed=0, resolution=(8, 8), channels=3)


def test_aliases_are_counted_together() -> None:
    """Each stands for few values, all of them for many."""
    few = f"a: &a [{', '.join(['x'] * 99)}]\nb: [{', '.join(['*a'] * 99)}]\n"
    assert len(parse_yaml(few, "x")["b"]) == 99
    many = f"a: &a [{', '.join(['x'] * 99)}]\nb: [{', '.join(['*a'] * 110)}]\n"
    with pytest.raises(InputError, match="aliases stand for more than 10,000 values"):
        parse_yaml(many, "x")

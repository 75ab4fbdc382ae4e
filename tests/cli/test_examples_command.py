"""`costsim examples` and `costsim inspect`, as a person types them."""

import json
from pathlib import Path

import pytest

from costsim.cli import main
from costsim.cli.examples import DIGITS, digits_zip, examples
from costsim.data import open_source
from costsim.device import load_device

ROOT = Path(__file__).parents[2]


def test_everything_in_the_folder_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["examples"]
    files = [*(ROOT / "examples").glob("*.*"), *(ROOT / "devices").glob("*.yaml")]
    assert {row["name"] for row in rows} == {DIGITS, *(file.name for file in files)}
    assert all(row["words"][0].isupper() and row["words"].endswith(".") for row in rows)


@pytest.mark.parametrize("name", examples())
def test_an_example_is_written_as_it_is_and_never_over_another(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", name]) == 0
    whole = digits_zip() if name == DIGITS else examples()[name].read_bytes()
    assert (tmp_path / name).read_bytes() == whole
    assert main(["examples", name]) == 2
    assert capsys.readouterr().err == (
        f"costsim: {name} is there already; give another name with --out\n"
    )
    assert main(["examples", name, "--out", "other"]) == 0


def test_a_device_file_that_was_written_is_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "stm32f746.yaml", "--out", "my-board.yaml"]) == 0
    assert load_device("my-board.yaml").name == "stm32f746"


def test_the_digits_that_were_written_are_images_in_ten_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", DIGITS]) == 0
    source = open_source(tmp_path / DIGITS)
    assert sorted(source.classes) == [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["study"], "example 'study' is unknown; did you mean 'study.yaml'? there are "),
        (["--out", "x"], "--out: name an example"),
        (["study.yaml", "--json"], "--json is for the list"),
        (["study.yaml", "--out", "no/where"], "--out: the folder no does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["examples", *arguments]) == 2
    assert told in capsys.readouterr().err

"""`costsim devices`, called as a person calls it."""

import json
from pathlib import Path

import pytest

from costsim.cli import main
from costsim.device import DeviceSpec, load_device, shipped_devices


def test_the_list_names_every_shipped_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    out, err = capsys.readouterr()
    assert all(name in out for name in shipped_devices())
    assert "peak" in out
    assert err == ""


@pytest.mark.parametrize("name", shipped_devices())
def test_one_device_shows_every_number_with_its_source(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")
    assert main(["devices", name]) == 0
    out = capsys.readouterr().out
    for key, quantity in load_device(name).quantities():
        (line,) = [line for line in out.splitlines() if f" {key} " in line]
        assert all(text in line for text in (str(quantity), quantity.provenance, quantity.source))


def test_json_of_the_list_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["schema"] == "costsim.devices/1"
    loaded = [DeviceSpec.from_json(item) for item in document["devices"]]
    assert loaded == [load_device(name) for name in shipped_devices()]
    assert err == ""


def test_json_of_one_device_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "stm32h743", "--json"]) == 0
    assert DeviceSpec.from_json(json.loads(capsys.readouterr().out)) == load_device("stm32h743")


def test_a_file_is_shown_as_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    shipped = Path(__file__).parents[2] / "devices" / "pi-zero-2.yaml"
    mine = tmp_path / "mine.yaml"
    # What a terminal library would take for markup must come through.
    mine.write_text(shipped.read_text().replace("a usual card;", "a [/bold] card :smile:;"))
    assert main(["devices", str(mine)]) == 0
    assert "a [/bold] card :smile:;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "shipped are jetson-nano"),
        ("[1, 2]", "mapping"),
        ("name: a\nname: b", "twice"),
        ("memory: {ram: {size: {value: 12 parsecs}}}", "memory.ram.size.value"),
    ],
)
def test_a_bad_file_is_exit_status_2_and_a_line_for_each_mistake(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "board.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["devices", str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(line.startswith("costsim: ") for line in err.splitlines())
    assert "board.yaml" in err
    assert words in err

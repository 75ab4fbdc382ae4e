"""Whole numbers that people, programs and other people's environments give."""

from pathlib import Path

import pytest

from costsim.base.errors import InputError
from costsim.base.units import MOST_COUNTED, parse_count
from costsim.cli import main
from costsim.hardware.calibration.probes import parse_probe
from costsim.hardware.targets.base import parse_target
from costsim.learning.pretraining.parallel import leads, processes

ODD = ["²", "٣", "1" * 5000, "-1", "1.5", "", " 7", "0x10", "1_000"]
"""What `str.isdigit` and `int` take for different things, or for numbers."""


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_plain_number_is_none(text: str) -> None:
    assert parse_count(text) is None


def test_plain_numbers_are_read_within_bounds() -> None:
    assert parse_count("0") == 0
    assert parse_count("007") == 7
    assert parse_count(str(MOST_COUNTED)) == MOST_COUNTED
    assert parse_count(str(MOST_COUNTED + 1)) is None
    assert parse_count("0", least=1) is None


@pytest.mark.parametrize("text", [odd for odd in ODD if odd])
@pytest.mark.parametrize(
    "words",
    [
        ("plan", "--device", "jetson-nano", "--bits"),
        ("plan", "--device", "jetson-nano", "--inspect"),
        ("plan", "--device", "jetson-nano", "--batch"),
        ("compare", "--store", "s.sqlite", "--inspect"),
    ],
)
def test_a_command_refuses_it_in_one_line(
    words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if words[-1] == "--batch" and text in ("1_000", " 7", "٣"):
        pytest.skip("a number by Python's own rules, which the option has")
    assert main([*words, text]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert len(told[0]) < 600


@pytest.mark.parametrize("text", [odd for odd in ODD if odd])
@pytest.mark.parametrize(
    "name", ["ssh://host:{}", "ssh://host?patience={}", "serial:/dev/x?baud={}"]
)
def test_a_target_refuses_it(name: str, text: str) -> None:
    if name.startswith("ssh") and "patience" in name and text == "1.5":
        pytest.skip("seconds need not be whole")
    with pytest.raises(InputError) as caught:
        parse_target(name.format(text))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [odd for odd in ODD if odd])
def test_a_probe_of_no_number_is_unknown(text: str) -> None:
    for name in (f"mobile-{text}-b8", f"mobile-3-b{text}"):
        with pytest.raises(InputError, match="is unknown"):
            parse_probe(name)


def test_the_rank_of_another_program_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch systems set `RANK` too: without processes of torchrun this one still writes."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for rank in ("3", "none"):
        monkeypatch.setenv("RANK", rank)
        assert leads()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not leads()
    for name, wrong in (("RANK", "none"), ("WORLD_SIZE", "²"), ("WORLD_SIZE", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, wrong)
            with pytest.raises(InputError, match=f"{name} is .* in the environment"):
                leads()
    assert processes() == 2


@pytest.mark.parametrize("columns", ["²", "0", "-5", "9" * 9, "9" * 5000])
@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
def test_odd_sizes_of_a_terminal_are_passed_over(
    name: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, columns)
    assert main(["devices"]) == 0
    assert "jetson-nano" in capsys.readouterr().out


def test_a_share_of_memory_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1e308 % times a megabyte is no number of bytes."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(
        "models: [mcunet-5fps]\nsolvers: [greedy]\ndevices: [stm32f746]\n"
        "budgets: [{memory: 1e308%}]\ntasks: [digits]\n"
    )
    assert main(["compare", "c.yaml", "--store", "c.sqlite"]) == 2
    assert "at most 100000000 % is allowed" in capsys.readouterr().err

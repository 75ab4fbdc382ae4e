"""Where nothing fits, the hint says what to type, and typing it does."""

import re
import shlex

import pytest

from costsim.cli import main

SMALL = ["plan", "--device", "jetson-nano", "--resolution", "48", "--ways", "3", "--shots", "1"]


def hinted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The note on a plan that does not fit."""
    assert main([*SMALL, *arguments]) == 1
    notes = [line for line in capsys.readouterr().err.splitlines() if "to blame" in line]
    assert len(notes) == 1
    return notes[0].removeprefix("costsim: note: ")


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        pytest.param(["--memory", "20KiB"], "memory is to blame", marks=pytest.mark.slow),
        pytest.param(["--macs", "0.001%"], "backward MACs are to blame", marks=pytest.mark.slow),
        (["--latency", "1us"], "latency of a step is to blame"),
        (["--memory", "10KiB", "--macs", "1000"], "memory and backward MACs are to blame"),
    ],
)
def test_what_the_hint_says_would_do_does(
    arguments: list[str], blamed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = hinted(arguments, capsys)
    assert told.startswith(f"{blamed}; --")
    assert told.endswith(" would do"), "nothing of it was the board's recommendation"
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    given |= dict(re.findall(r"(--\w+) (\S+)", told))
    asked = shlex.split(" ".join(f"{option} {value}" for option, value in given.items()))
    assert main([*SMALL, *asked]) == 0


def test_a_board_with_more_room_than_is_recommended_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    big = ["plan", "--device", "pi-zero-2", "--resolution", "512", "--ways", "3", "--shots", "1"]
    assert main(big) == 1
    told = capsys.readouterr().err
    assert re.search(
        r"memory is to blame; --memory \S+MiB would do: 977 KiB is what is recommended for a "
        r"personal task on pi-zero-2, which has \S+ MiB in one piece",
        told,
    )


def test_a_board_that_is_too_small_itself_is_not_a_matter_of_budgets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    big = ["plan", "--device", "stm32f746", "--resolution", "400", "--ways", "3", "--shots", "1"]
    assert main(big) == 1
    told = capsys.readouterr().err
    assert re.search(r"to blame: \S+ MiB are needed, and stm32f746 has 288 KiB in one piece", told)
    assert "smaller images (--resolution)" in told

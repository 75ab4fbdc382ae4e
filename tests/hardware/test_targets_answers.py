"""Whatever a device answers is a figure, or a line that a person can read: nothing else happens."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costsim.base.errors import CostsimError, one_line
from costsim.cli import main
from costsim.hardware.boards.line import compared_losses
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.targets.base import TargetError, parse_target
from costsim.hardware.targets.readings import Readings
from costsim.hardware.targets.worker_answer import outcome_of, progress_of, status_of

LOCAL = parse_target("local")
ENDED = {"ended": "exit", "returncode": 1}

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(ANYTHING)
def test_progress_is_told_or_passed_over(answer: Any) -> None:
    told = progress_of(json.dumps(answer))
    assert told is None or told[0].isprintable()


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "9" * 400, "[]"])
def test_progress_of_impossible_numbers(number: str) -> None:
    told = progress_of(f'["stepping", {number}, 10]')
    assert told is None or told[1] <= 10**12


@given(ANYTHING, ANYTHING, ANYTHING)
def test_a_failure_is_one_readable_line(reason: Any, message: Any, memory: Any) -> None:
    texts = {"failure.json": json.dumps({"reason": reason, "message": message})}
    for found in (texts, {}, {"log": str(message)}):
        for code in (1, -9):
            with pytest.raises(TargetError) as caught:
                outcome_of(LOCAL, {**ENDED, "returncode": code, "memory": memory}, found, 1.0)
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("size", [10**400, -1, True, 0, 1.5, "9", None])
def test_how_much_a_killed_job_held_is_believed_where_it_can_be(size: Any) -> None:
    memory = {"by": "group", "peak_bytes": size, "limit_bytes": size}
    with pytest.raises(TargetError, match=r"because memory ran out$"):
        outcome_of(LOCAL, {**ENDED, "returncode": -9, "memory": memory}, {}, 1.0)


def test_a_device_does_not_steer_the_terminal() -> None:
    said = "\x1b]0;owned\x07\x1b[2J\n\ttwo  lines\u202e"
    texts = {"failure.json": json.dumps({"reason": "failed", "message": said})}
    with pytest.raises(TargetError) as caught:
        outcome_of(LOCAL, ENDED, texts, 1.0)
    assert str(caught.value) == r"local: \x1b]0;owned\x07\x1b[2J two lines\u202e"
    assert one_line("a" * 10**7) == one_line("a" * 10**6)


def test_an_answer_of_another_schema_is_told_in_short() -> None:
    for document in ({"schema": "x" * 10**6}, {"schema": "costsim.outcome/1", "x" * 10**6: 1}):
        with pytest.raises(CostsimError) as caught:
            Outcome.from_json(document, "there")
        assert len(str(caught.value)) < 1000
    with pytest.raises(TargetError, match="not told"):
        status_of("there", '{"ended": [], "returncode": 1.5}')


def test_only_seconds_are_readings_of_steps() -> None:
    found = Readings()
    found.add("0.5; nan; inf; -1.0; 1e999; -inf; x; 0.25; 0.1")
    assert found.step_s == [0.5, 0.25]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_loss_that_is_no_number_is_wrong_wherever_it_stands(place: int, exact: bool) -> None:
    right = [1.0, 0.5, 0.25]
    assert "WRONG" not in compared_losses(right, right, exact=exact)
    wrong = [*right[:place], math.nan, *right[place + 1 :]]
    assert compared_losses(wrong, right, exact=exact).startswith("WRONG")


def test_what_a_message_repeats_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--device", "\x1b[2Jx\x07.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.endswith("\n")
    assert told[:-1].isprintable()
    assert main(["measure", "p.json", "--on", "ssh://host:" + "9" * 5000]) == 2

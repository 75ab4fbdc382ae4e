"""The campaign of docs/reliability.md, a few times each; `make reliability` does all of it."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign.__main__ import experiments
from campaign.experiment import Experiment, Unavailable
from campaign.stage import Stage

ROOT = Path(__file__).parents[1]
TRIED = [experiment for experiment in experiments() if experiment.quick]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("experiment", TRIED, ids=[experiment.name for experiment in TRIED])
def test_what_the_campaign_says_holds(experiment: Experiment, stage: Stage) -> None:
    try:
        experiment.trial(stage, experiment.quick, random.Random(1))
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_the_table_has_a_row_for_every_experiment() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in text.splitlines()
            if line.startswith("| ") and not re.match(r"\| (fault|-)", line)}  # fmt: skip
    assert {f"{fault}: {where}" for fault, where in rows} == {e.name for e in experiments()}

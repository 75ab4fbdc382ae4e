"""The campaign of docs/reliability.md, a few times each; `make reliability` does all of it."""

import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign.__main__ import experiments
from campaign.commands import Warm
from campaign.experiment import Experiment, Unavailable
from campaign.stage import Stage
from campaign.workloads import MODEL, WORKLOADS

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


def test_the_commands_of_the_campaign_start_and_one_killed_before_it_began_is_told(
    tmp_path: Path,
) -> None:
    """Else every row would fail for the same reason, and only the slow suite would know."""
    with Warm(tmp_path) as warm:
        ended = warm.run(["devices"], tmp_path)
        assert (ended.status, ended.err) == (0, "")
        assert "jetson-nano" in ended.out
        running = warm.start(["devices"], tmp_path)
        running.kill()
        assert running.wait().status in (0, -signal.SIGKILL)


def test_what_a_workload_is_given_is_named_as_a_person_would() -> None:
    """A plan file's own code is called only where `--model` names it."""
    for work in WORKLOADS.values():
        assert "plan.json" not in work.arguments or MODEL in work.arguments


def test_the_table_has_a_row_for_every_experiment() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in text.splitlines()
            if line.startswith("| ") and not re.match(r"\| (fault|-)", line)}  # fmt: skip
    assert {f"{fault}: {where}" for fault, where in rows} == {e.name for e in experiments()}

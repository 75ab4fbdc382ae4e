"""A small plan as a job, for the tests of targets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fork_server import PIPE, Process, start

from costsim.cli import main
from costsim.hardware.ssh.shipment import plan_job
from costsim.hardware.targets.job import PlanJob, RunOptions
from costsim.solving.planfile import PlanFile, read_plan

SIDE = 32
FOREVER = 10**9
"""More steps than any test waits for."""


def write_plan(folder: Path, side: int = SIDE, batch: int = 1) -> Path:
    """The plan file of a built-in network on small images."""
    path = folder / "plan.json"
    asked = {"--resolution": side, "--batch": batch, "--criterion": "l2_norm", "--out": path}
    given = [str(part) for pair in asked.items() for part in pair]
    assert main(["plan", "--device", "jetson-nano", "--memory", "100MiB", "--bias", *given]) == 0
    return path


def make_job(folder: Path, side: int = SIDE, batch: int = 1) -> PlanJob:
    """That plan as a job, with quick options."""
    plan: PlanFile = read_plan(write_plan(folder, side, batch))
    return plan_job(plan, folder, options=RunOptions(steps=2))


def fork_jobs(patch: pytest.MonkeyPatch) -> None:
    """Let the target `local` fork its jobs: for tests of what is made of them, not of how long
    they take to start or of what a process holds.
    """

    def begin(command: Sequence[str], **how: Any) -> Process:
        return start(command[1:], **how)

    patch.setattr(
        "costsim.hardware.targets.local.subprocess", SimpleNamespace(Popen=begin, PIPE=PIPE)
    )


def with_options(job: PlanJob, **options: Any) -> PlanJob:
    """The same job, run otherwise."""
    return replace(job, options=replace(job.options, **options))

"""How a machine was while it measured, from folder trees as the kernel writes them."""

from dataclasses import replace
from pathlib import Path

import pytest

from costsim.hardware.meters.conditions import SLOWED, Snapshot, describe_change, doubts


def write(path: Path, value: object) -> None:
    """One file of sysfs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


def test_a_board_tells_its_clock_governor_and_hottest_zone(tmp_path):
    cpu = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    write(cpu / "scaling_governor", "ondemand")
    write(cpu / "scaling_cur_freq", 600_000)
    for number, millidegrees in enumerate((41_500, 57_250, "")):
        write(tmp_path / f"sys/class/thermal/thermal_zone{number}/temp", millidegrees)
    found = Snapshot.now(tmp_path)
    assert (found.governor, found.clock_hz, found.temperature_c) == ("ondemand", 600e6, 57.25)


def test_a_machine_that_tells_nothing_leaves_it_open(tmp_path):
    found = Snapshot.now(tmp_path)
    assert (found.governor, found.clock_hz, found.temperature_c) == (None, None, None)
    assert found.load is not None


QUIET = Snapshot(governor="performance", clock_hz=1e9, temperature_c=40.0, load=0.0)


@pytest.mark.parametrize(
    ("before", "after", "threads", "told"),
    [
        (QUIET, QUIET, 2, []),
        (QUIET, replace(QUIET, clock_hz=SLOWED * 1e9 - 1), 1, ["clock fell from 1000 to 900 MHz"]),
        (QUIET, replace(QUIET, clock_hz=SLOWED * 1e9), 1, []),
        (replace(QUIET, load=2.0), QUIET, 1, ["load 2.0 on 2 cores"]),
        (replace(QUIET, load=1.0), QUIET, 1, []),
        (replace(QUIET, clock_hz=None, load=None), replace(QUIET, clock_hz=1.0), 2, []),
    ],
)
def test_what_makes_seconds_doubtful_is_said(before, after, threads, told):
    found = doubts(before, after, threads, 2)
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found, strict=True))


def test_both_looks_are_kept():
    after = replace(QUIET, temperature_c=60.0)
    found = describe_change(QUIET, after)
    assert (found["temperature_c before"], found["temperature_c"]) == (40.0, 60.0)
    assert found["governor"] == "performance"

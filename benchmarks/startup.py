"""Seconds from a cold interpreter to the end, for the package and for each command.

    python benchmarks/startup.py [--repeats N]

Runs are interleaved: one of each, N times over. `ratio` is to an interpreter that does nothing.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

BASELINE = "python -c pass"
COMMAND = [sys.executable, "-m", "costsim"]
RUNS: dict[str, list[str]] = {
    BASELINE: [sys.executable, "-c", "pass"],
    "import costsim": [sys.executable, "-c", "import costsim"],
    "costsim --help": [*COMMAND, "--help"],
    "costsim devices": [*COMMAND, "devices"],
    "costsim models": [*COMMAND, "models"],
    "costsim plan --device jetson-nano": [*COMMAND, "plan", "--device", "jetson-nano"],
}


def seconds(command: Sequence[str]) -> float:
    """Wall-clock seconds of one run, which must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    elapsed = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    return elapsed


def main() -> None:
    """Time every run and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="runs of each (default: 7)")
    repeats = parser.parse_args().repeats
    for command in RUNS.values():  # byte code and file caches
        seconds(command)
    samples: dict[str, list[float]] = {name: [] for name in RUNS}
    for _ in range(repeats):
        for name, command in RUNS.items():
            samples[name].append(seconds(command))

    baseline = statistics.median(samples[BASELINE])
    table = Table(title=f"Start-up, median of {repeats} interleaved runs", box=SIMPLE_HEAD)
    table.add_column("run", no_wrap=True)
    for heading in ("median s", "fastest s", "slowest s", "ratio"):
        table.add_column(heading, justify="right")
    for name, values in samples.items():
        median = statistics.median(values)
        numbers = (median, min(values), max(values))
        table.add_row(name, *(f"{value:.3f}" for value in numbers), f"{median / baseline:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""Predicted against measured step time, on this machine, after its own calibration.

For each number of threads: calibrate, draw plans of networks that the calibration never saw,
predict their steps, measure every plan twice, interleaved with all others, and print the error,
the share of plans within 10 %, how many measured steps lie within the predicted 90 % interval, and
the noise floor, which is how far two measurements of the same plan are apart.

    python benchmarks/latency.py
    python benchmarks/latency.py --threads 1 --plans 2 --time-limit 60s

Between any two steps one of a fixed yardstick is run; "at the yardstick's speed" are the same
errors once what the machine did to the yardstick since the calibration is taken out.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")
ROUNDS = 30
FEWEST_ROUNDS = 6


@dataclass
class Held:
    """One plan of one network at one batch size: what was predicted, and the steps of two runs."""

    name: str
    predicted_s: float
    low_s: float
    high_s: float
    step: object
    runs: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    yardstick: list[float] = field(default_factory=list)

    @property
    def measured_s(self) -> float:
        """The median step."""
        return statistics.median(self.runs[0] + self.runs[1])

    @property
    def floor(self) -> float:
        """How far the two runs are apart, as a share of the step."""
        return abs(statistics.median(self.runs[0]) - statistics.median(self.runs[1])) / (
            self.measured_s
        )


def main() -> None:
    """Calibrate, measure and print, for every number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", default=f"1,{os.cpu_count()}", help="default: 1 and all")
    parser.add_argument("--batches", default="1,8", help="batch sizes (default: 1,8)")
    parser.add_argument("--plans", type=int, default=5, help="of each network and batch size")
    parser.add_argument("--time-limit", default="5min", help="of each calibration")
    parser.add_argument("--measure", default="3min", help="for the held-out plans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=16, help="of ResNet-18 (published: 64)")
    parser.add_argument("--keep", type=Path, help="folder for the calibrated devices")
    arguments = parser.parse_args()
    for threads in dict.fromkeys(map(int, arguments.threads.split(","))):
        run(threads, arguments)


def run(threads: int, arguments: argparse.Namespace) -> None:
    """One number of threads: calibrate, measure, print."""
    import torch

    from costsim.base.units import parse_seconds
    from costsim.hardware.calibration.conditions import describe_conditions
    from costsim.hardware.calibration.device_file import machine_spec, write_device
    from costsim.hardware.calibration.session import CalibrationRequest, calibrate, local_runner

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        calibrated = calibrate(
            CalibrationRequest(
                machine_spec(describe_conditions(threads)),
                local_runner(threads),
                folder / f"samples-{threads}.json",
                time_limit_s=parse_seconds(arguments.time_limit),
                resume=True,
            ),
            _progress,
        )
        if arguments.keep:
            write_device(folder / f"device-{threads}.yaml", calibrated.spec)
    held = draw(calibrated.spec, threads, arguments)
    measure(held, threads, parse_seconds(arguments.measure))
    calibration = calibrated.calibration
    print(
        f"\n{threads} thread(s), {calibration.conditions.cpu}: {calibration.probes} probes, "
        f"{len(calibration.kernels)} kernels, noise floor of the calibration "
        f"{calibration.noise_floor:.1%}"
    )
    for warning in calibrated.warnings:
        print(f"warning: {warning}")
    report(held, calibration.yardstick_s)


def draw(spec, threads: int, arguments: argparse.Namespace) -> list[Held]:  # type: ignore[no-untyped-def]
    """Plans of every network at every batch size, with their predictions, ready to run."""
    import torch
    from zoo import resnet18

    from costsim.hardware.calibration.probes import random_plan
    from costsim.ir.program import compile_program
    from costsim.ir.step import TrainingStep
    from costsim.models.networks.graph import architecture_graph
    from costsim.models.tracing import capture
    from costsim.pricing.cost import step_seconds

    rng = random.Random(arguments.seed)
    found = []
    for batch in map(int, arguments.batches.split(",")):
        torch.manual_seed(0)
        traced = capture(resnet18(arguments.width), torch.randn(batch, 3, 64, 64))
        graphs = {name: architecture_graph(name, batch=batch) for name in NETWORKS}
        for name, graph in {**graphs, f"resnet18-w{arguments.width}": traced.graph}.items():
            for _ in range(arguments.plans):
                step = TrainingStep(
                    batch=batch,
                    optimizer=rng.choice(("sgd", "momentum", "adam")),
                    update=rng.choice(("immediate", "deferred")),
                )
                program = compile_program(graph, random_plan(graph, rng), step)
                seconds = step_seconds(program, spec.target())
                found.append(
                    Held(
                        f"{name} batch {batch}",
                        seconds.value,
                        seconds.low,
                        seconds.high,
                        runnable(program, threads),
                    )
                )
    return found


def runnable(program, threads: int):  # type: ignore[no-untyped-def]
    """A function that runs one step and returns its seconds."""
    from costsim.hardware.calibration.timing import Running, clock_for

    running = Running(program, clock_for(threads))
    return lambda: running.step() / 1e9


def measure(held: list[Held], threads: int, limit_s: float) -> None:
    """Steps of all plans by turns, in another order each round; every other round is one run."""
    from costsim.hardware.calibration.probes import YARDSTICK

    yardstick = runnable(YARDSTICK.program(), threads)
    for one in held:
        one.step()  # type: ignore[operator]
        yardstick()
    started, order = time.monotonic(), random.Random(1)
    for number in range(2 * ROUNDS):
        if number >= 2 * FEWEST_ROUNDS and time.monotonic() - started > limit_s:
            break
        order.shuffle(held)
        for one in held:
            one.yardstick.append(yardstick())
            one.runs[number % 2].append(one.step())  # type: ignore[operator]
        _progress("measuring held-out plans", number, 2 * ROUNDS)


def report(held: list[Held], usual_s: float) -> None:
    """The table, and the figures that must hold."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for heading in ("network", "plans", "step ms", "error", "within 10 %", "in interval", "floor"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name in dict.fromkeys(one.name for one in sorted(held, key=lambda one: one.name)):
        row(table, name, [one for one in held if one.name == name], None)
    row(table, "all", held, None)
    row(table, "all, at the yardstick's speed", held, usual_s)
    table.caption = "error: median of |measured / predicted - 1|, in brackets its signed median"
    Console(width=110).print(table)


def row(table, name: str, some: list[Held], usual_s: float | None) -> None:  # type: ignore[no-untyped-def]
    """One line of the table; with `usual_s` scaled to the machine's speed at calibration."""
    scales = [
        1.0 if usual_s is None else usual_s / statistics.median(one.yardstick) for one in some
    ]
    measured = [scale * one.measured_s for scale, one in zip(scales, some, strict=True)]
    errors = [seconds / one.predicted_s - 1 for seconds, one in zip(measured, some, strict=True)]
    inside = [one.low_s <= s <= one.high_s for s, one in zip(measured, some, strict=True)]
    table.add_row(
        name,
        str(len(some)),
        f"{1e3 * min(measured):.1f} to {1e3 * max(measured):.1f}",
        f"{statistics.median(map(abs, errors)):.1%} ({statistics.median(errors):+.1%})",
        f"{statistics.mean(abs(error) < 0.1 for error in errors):.0%}",
        f"{statistics.mean(inside):.0%}",
        f"{statistics.median(one.floor for one in some):.1%}",
    )


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what} {done}/{total}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

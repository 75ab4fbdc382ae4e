"""Running probes in this process: the seconds of steps and of each operation in its place."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.base.progress import Progress
from costsim.hardware.calibration.conditions import describe_conditions
from costsim.hardware.calibration.probes import YARDSTICK, parse_probe
from costsim.ir.graph import LayerGraph
from costsim.ir.program import TrainingProgram
from costsim.run.execution.executor import Executor

LEARNING_RATE = 1e-7
WARM_UPS = 3
FEWEST, MOST = 5, 60
"""Repetitions of a probe, whatever time they take."""


@dataclass(frozen=True)
class Clock:
    """Nanoseconds; `cost_ns` is what reading it takes."""

    now: Callable[[], int]
    cost_ns: int


def clock_for(threads: int) -> Clock:
    """The clock that steps are timed by.

    On one thread its own processor time, from which nothing is missing that a step does and in
    which nothing is that other processes do; on several there is only the wall clock.
    """
    now = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    readings = [now() for _ in range(2000)]
    return Clock(now, round(statistics.median(b - a for a, b in pairwise(readings))))


def run_batch(batch: Any, options: Any, report: Progress) -> dict[str, Any]:
    """Time the probes named in `batch["probes"]`, `batch["seconds_each"]` seconds for each.

    Each is timed by turns with the yardstick: one step of that, one step of the probe undisturbed,
    one in which the clock is read after every operation. Returns the conditions, and for each
    probe nanoseconds: `steps`, `yardstick`, and `operations` [repetition][operation].
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    clock = clock_for(torch.get_num_threads())
    yardstick = Running(YARDSTICK.program(), clock)
    yardstick.warm_up()
    conditions = describe_conditions(torch.get_num_threads())
    found = []
    names = batch["probes"]
    for number, name in enumerate(names):
        report(f"timing {name}", number, len(names))
        found.append(_time(name, yardstick, clock, float(batch["seconds_each"])))
    return {"conditions": conditions.model_dump(mode="json"), "probes": found}


def _time(name: str, yardstick: "Running", clock: "Clock", seconds: float) -> dict[str, Any]:
    started = time.perf_counter()
    probe = Running(parse_probe(name).program(), clock)
    probe.warm_up()
    lengths: list[int] = []
    steps: list[int] = []
    operations: list[list[int]] = []
    while len(steps) < FEWEST or (len(steps) < MOST and time.perf_counter() - started < seconds):
        lengths.append(yardstick.step())
        operations.append(probe.traced())
        steps.append(probe.step())
    return {"name": name, "steps": steps, "yardstick": lengths, "operations": operations}


class Running:
    """A program with an executor of its own, on noise."""

    def __init__(self, program: TrainingProgram, clock: "Clock") -> None:
        self.program, self.clock = program, clock
        self.stamps: list[int] = []
        self.executor = Executor(
            program, tensors_for(program.graph), learning_rate=LEARNING_RATE, loss=_loss
        )
        shape = program.graph[program.graph.input].shape
        self.images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.labels = torch.zeros(shape[0], dtype=torch.int64)

    def warm_up(self) -> None:
        """Steps that are not timed, the last of them traced."""
        for _ in range(WARM_UPS):
            self.step()
        self.traced()

    def step(self) -> int:
        """One step; its nanoseconds."""
        self.executor.observer = None
        images = self.images.clone()
        started = self.clock.now()
        self.executor.step(images, self.labels)
        return self.clock.now() - started

    def traced(self) -> list[int]:
        """One step with the clock read after each operation; the nanoseconds of each."""
        stamps = self.stamps
        stamps.clear()
        self.executor.observer = self._observe
        images = self.images.clone()
        stamps.append(self.clock.now())
        self.executor.step(images, self.labels)
        cost = self.clock.cost_ns
        return [max(after - before - cost, 0) for before, after in pairwise(stamps)]

    def _observe(self, *_: object) -> None:
        self.stamps.append(self.clock.now())


def _loss(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(1), labels)


def tensors_for(graph: LayerGraph) -> dict[str, Tensor]:
    """Noise of a size that keeps activations finite, for every parameter of a graph."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for parameter in graph.parameters:
        fan_in = max(1, parameter.size // parameter.shape[0])
        noise = torch.randn(parameter.shape, generator=generator)
        found[parameter.name] = noise * (fan_in**-0.5 if len(parameter.shape) > 1 else 0.1)
    for call in graph.calls:
        for buffer in call.buffers:
            found[buffer.name] = torch.rand(buffer.shape, generator=generator) + 0.5
    return found

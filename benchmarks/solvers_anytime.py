"""Gap of the solvers at 50 ms, 1 s and 10 s, and how the time to a proof grows with the problem.

    python benchmarks/solvers_anytime.py [--images PATH] [--full]

Every solver is asked the same problems with each time limit in turn, in one process. The gap is how
much less a plan gains than the least bound that any solver proved for the problem. Scores are
Fisher information of a 10-way 5-shot task of real images, as in `solvers.py`; networks start from a
seed. The largest problem is a ResNet-50 at 64×64 with both axes of all of its layers: about 50,000
channels. `--full` asks for more devices and budgets; without it a few minutes do.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from costsim.solvers.evolutionary import Evolutionary
from costsim.solvers.exact import Exact
from costsim.solvers.greedy import Greedy
from costsim.solvers.ilp import IntegerProgram
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from solvers_scores import NETWORKS, SHARED, scores
from torch import nn

from costsim.data import digits, open_images, sample_task
from costsim.device import load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import capture
from costsim.pricing.cost import full_backward_macs
from costsim.problem.budget import Budget
from costsim.problem.importance import Importance, inspected_layers
from costsim.problem.problem import Problem
from costsim.problem.solution import Solver, Status
from costsim.run.criteria import CRITERIA
from costsim.solving.solve import solve

LIMITS_S = (0.05, 1.0, 10.0)

SHARES = ((0.25, 0.15), (0.6, 0.3), (0.9, 0.8))
"""Of the memory and of the MACs of updating everything: tight, loose, and hardly a limit."""


class Bottleneck(nn.Module):
    """He et al., "Deep Residual Learning", 2016: 1×1, 3×3, 1×1 beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.reduce, self.norm1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.expand, self.norm3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both ways."""
        y = torch.relu(self.norm1(self.reduce(x)))
        y = torch.relu(self.norm2(self.conv(y)))
        return torch.relu(self.norm3(self.expand(y)) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 without its classifier, from a fixed seed."""
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)]
    parts += [nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            parts.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def resnet_scores(images: Path | None) -> tuple[LayerGraph, Importance]:
    """The graph of a ResNet-50 for one image, and the scores of both axes of all layers."""
    module = resnet50()
    source = digits() if images is None else open_images(images)
    task = sample_task(source, ways=5, shots=2, seed=0, resolution=64)
    traced = capture(module, torch.zeros(1, 3, 64, 64))
    importance = CRITERIA["fisher"].score(
        traced.graph,
        traced.tensors,
        torch.tensor(task.images),
        torch.tensor(task.labels),
        layers=inspected_layers(traced.graph, None),
        axes=("output", "input"),
    )
    return traced.graph, importance


def problem(
    graph: LayerGraph, importance: Importance, device: str, shares: tuple[float, float]
) -> Problem:
    """Memory and MACs as shares of what updating all scored output channels takes."""
    target, step = load_device(device).target(), TrainingStep()
    wide = Problem(graph, step, importance, Budget(10**15, "peak", 10**15), timer=target)
    full = wide.usage(np.array([[c.size * (c.axis == "output") for c in wide.candidates]]))
    memory = int(full["memory_bytes"][0] * shares[0])
    least = wide.usage(np.eye(len(wide.candidates), dtype=np.int64))["memory_bytes"].min()
    macs = int(full_backward_macs(graph, step) * shares[1])
    return wide.within(Budget(max(memory, int(least)), "peak", macs))


def problems(images: Path | None, full: bool) -> Iterator[tuple[str, Problem]]:
    """The problems, by name."""
    shares = SHARES if full else SHARES[:2]
    for name in NETWORKS:
        importance = scores(name, images, False)
        for one in shares:
            yield f"{name} {one}", problem(architecture_graph(name), importance, "stm32f746", one)
    graph, importance = resnet_scores(images)
    channels = sum(len(entry.scores) for entry in importance.channels)
    for one in shares:
        yield (
            f"ResNet-50, {channels:,} channels {one}",
            problem(graph, importance, "jetson-nano", one),
        )


def anytime(console: Console, images: Path | None, full: bool) -> None:
    """Gaps at each limit, and seconds to the proof."""
    solvers: dict[str, Solver] = {
        "exact": Exact(),
        "ilp (HiGHS)": IntegerProgram(),
        "ilp (CBC)": IntegerProgram("CBC"),
        "evolutionary": Evolutionary(),
        "greedy": Greedy(),
    }
    gaps: dict[tuple[str, float], list[float | None]] = {}
    proofs: dict[str, list[float]] = {name: [] for name in solvers}
    count = 0
    for label, asked in problems(images, full):
        count += 1
        found = {}
        for name, solver in solvers.items():
            for limit in LIMITS_S:
                limited = solver
                if hasattr(solver, "time_limit_s"):
                    limited = replace(solver, time_limit_s=limit)  # type: ignore[type-var]
                found[name, limit] = solve(asked, limited)
                if found[name, limit].status is Status.OPTIMAL:
                    proofs[name].append(found[name, limit].seconds)
                    for later in LIMITS_S[LIMITS_S.index(limit) :]:
                        found[name, later] = found[name, limit]
                    break
        bounds = [
            solution.objective if solution.status is Status.OPTIMAL else solution.bound
            for solution in found.values()
        ]
        bound = min(one for one in bounds if one is not None)
        line = []
        for (name, limit), solution in found.items():
            gap = None if solution.objective is None else 1 - solution.objective / bound
            gaps.setdefault((name, limit), []).append(gap)
            if name == "exact":
                line.append(f"{limit:g} s {'no plan' if gap is None else f'{max(gap, 0):.1e}'}")
        console.print(f"{label}: exact " + ", ".join(line), highlight=False)
    table = Table(title=f"{count} problems: gap, median and worst", box=SIMPLE_HEAD)
    table.add_column("solver", no_wrap=True)
    for heading in (*(f"at {limit:g} s" for limit in LIMITS_S), "proven", "median s", "slowest s"):
        table.add_column(heading, justify="right")
    for name in solvers:
        cells = []
        for limit in LIMITS_S:
            known = [gap for gap in gaps[name, limit] if gap is not None]
            missing = count - len(known)
            told = f"{statistics.median(known):.1e} {max(known):.1e}" if known else "-"
            cells.append(told + (f" ({missing} without)" if missing else ""))
        seconds = proofs[name]
        times = (
            [f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"] if seconds else ["-"] * 2
        )
        table.add_row(name, *cells, f"{len(seconds)}/{count}", *times)
    console.print(table)


def growth(console: Console, images: Path | None) -> None:
    """Seconds of the exact solver against layers and channels."""
    graph, importance = resnet_scores(images)
    table = Table(title="exact on the last layers of a ResNet-50, both axes", box=SIMPLE_HEAD)
    for heading in ("layers", "channels", "posing s", "solving s", "status", "gap"):
        table.add_column(heading, justify="right")
    for layers in (5, 10, 20, 30, len(importance.layers)):
        last = set(importance.layers[-layers:])
        part = replace(
            importance, channels=tuple(e for e in importance.channels if e.layer in last)
        )
        started = time.perf_counter()
        asked = problem(graph, part, "jetson-nano", SHARES[1])
        posed = time.perf_counter() - started
        solution = solve(asked, Exact(10.0))
        table.add_row(
            str(layers),
            f"{sum(len(entry.scores) for entry in part.channels):,}",
            f"{posed:.2f}",
            f"{solution.seconds:.2f}",
            str(solution.status),
            "-" if solution.gap is None else f"{solution.gap:.1e}",
        )
    console.print(table)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flowers = SHARED / "data" / "vgg_flower.tar.gz"
    parser.add_argument("--images", type=Path, default=flowers if flowers.exists() else None)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    console = Console()
    growth(console, options.images)
    anytime(console, options.images, options.full)


if __name__ == "__main__":
    main()

"""What posing a problem takes, and how that grows with the layers of a network.

    python benchmarks/posing.py [--layers N,N,...]

Networks are chains of residual blocks of 3×3 convolutions with 16 channels, at which a graph can
be made without PyTorch. Seconds are of the processor, on one thread, so that a busy machine tells
nearly the same; memory is what Python had allocated at most, in a run of its own. `power` is the
exponent of the growth since the row before: 2 where doubling the layers takes four times as much.
"""

import argparse
import math
import time
import tracemalloc
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import Add, Convolution, Input, Mean, Operator, ReLU
from costsim.ir.program import build_schedule
from costsim.ir.step import TrainingStep
from costsim.pricing.derivation import build_table

STEP = TrainingStep(optimizer="momentum")
CHANNELS = 16


def residual_network(layers: int) -> LayerGraph:
    """A convolution, then pairs of them with a shortcut around each, `layers` in all."""
    calls: list[Call] = []

    def add(operator: Operator, *inputs: int, parameters: bool = False) -> int:
        name = f"{operator.kind}{len(calls)}"
        shapes = [calls[i].shape for i in inputs]
        weight = bias = None
        if parameters:
            weight = Parameter(f"{name}.weight", (CHANNELS, shapes[0][1], 3, 3))
            bias = Parameter(f"{name}.bias", (CHANNELS,))
        shape = operator.output_shape(shapes, weight.shape if weight else None)
        names = tuple(calls[i].name for i in inputs)
        layer = name if parameters else None
        calls.append(Call(name, operator, names, shape, layer, weight, bias))
        return len(calls) - 1

    def convolution(x: int) -> int:
        return add(Convolution((1, 1), (1, 1), (1, 1), 1), x, parameters=True)

    x = convolution(add(Input((1, 3, 16, 16))))
    for made in range(1, layers, 2):
        y = add(ReLU(), convolution(x))
        if made + 1 < layers:
            y = convolution(y)
        x = add(ReLU(), add(Add(), x, y))
    add(Mean((2, 3)), x)
    return LayerGraph(calls)


def processor_s(run: Callable[[], object]) -> float:
    """Seconds of processor time, the least of three runs, or of one that takes long."""
    found = math.inf
    for _ in range(3):
        started = time.process_time()
        run()
        found = min(found, time.process_time() - started)
        if found > 1.0:
            break
    return found


def most_mib(run: Callable[[], object]) -> float:
    """MiB allocated at most during a run, by Python and by NumPy."""
    tracemalloc.start()
    run()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def row(layers: int) -> tuple[float, float, float]:
    """Seconds of the schedule and of the cost table, and MiB of both together."""
    graph = residual_network(layers)
    schedule = build_schedule(graph, STEP)
    return (
        processor_s(lambda: build_schedule(graph, STEP)),
        processor_s(lambda: build_table(graph, STEP, schedule=schedule)),
        most_mib(lambda: build_table(graph, STEP)),
    )


def main() -> None:
    """Pose each and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--layers",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[10, 50, 100, 200],
        metavar="N,N,...",
        help="how many layers (default: 10,50,100,200)",
    )
    table = Table(title="Posing a problem", box=SIMPLE_HEAD)
    for heading in ("layers", "schedule, s", "power", "cost table, s", "power", "memory, MiB"):
        table.add_column(heading, justify="right")
    table.add_column("power", justify="right")
    before: tuple[int, Sequence[float]] | None = None
    for layers in parser.parse_args().layers:
        found = row(layers)
        cells = [str(layers)]
        for index, value in enumerate(found):
            power = ""
            if before is not None:
                power = f"{math.log(value / before[1][index], layers / before[0]):.1f}"
            cells += [f"{value:.3f}" if index < 2 else f"{value:.1f}", power]
        table.add_row(*cells)
        before = layers, found
    Console().print(table)


if __name__ == "__main__":
    main()

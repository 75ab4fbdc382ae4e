"""Seconds of one training step: a sparse plan through the executor beside stock PyTorch.

    python benchmarks/execution.py [--model NAME] [--batches 1,32] [--repeats N]

Two stock contenders, because the first alone flatters: *full* trains everything; *frozen + masks*
has `requires_grad=False` on every layer the plan leaves out and multiplies the gradients of the
others by a mask, which is what sparse training without a program of its own comes to. The plan
is of the size that TinyTrain finds: a quarter of the output channels of 6 of the last 15
convolutions. Runs are interleaved, one thread each; seconds are the processor's, so that other
work on the machine does not count; ratios are of medians.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy

# Fixed for every contender alike, before anything is allocated: or page faults decide.
FIXED = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "OMP_NUM_THREADS": "1",
}

LEARNING_RATE = 1e-4


def contenders(name: str, batch: int) -> dict[str, tuple[Callable[[], tuple[float, float]], int]]:
    """Each contender: a function that steps once and returns its forward and its other seconds,
    and the MACs of its backward pass."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from costsim.execution.executor import Executor
    from costsim.models import load_model
    from costsim.plan import ChannelSubset, UpdatePlan
    from costsim.program import Direction, TrainingProgram, compile_program
    from costsim.step import TrainingStep
    from costsim.tracing.capture import capture

    loaded = load_model(name, batch=batch)
    x, labels = loaded.example_input, torch.arange(batch) % 10

    def loss_of(output: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(1), labels)

    graph = capture(loaded.module, x).graph
    layers = [call.layer for call in graph.calls if call.operator.kind == "convolution"]
    chosen = [str(layer) for layer in layers[-15::3] + layers[-1:]]
    plan = UpdatePlan(
        tuple(
            ChannelSubset(layer, "output", tuple(range(0, count, 4)))
            for layer in chosen
            for count in [graph.selectable_channels(layer, "output")]
        )
    )
    whole = UpdatePlan(
        tuple(
            ChannelSubset(layer, "output", tuple(range(graph.selectable_channels(layer, "output"))))
            for layer in chosen
        )
    )
    step = TrainingStep(batch)
    programs = {
        "full": compile_program(graph, UpdatePlan.full(graph), step),
        "frozen": compile_program(graph, whole, step),
        "sparse": compile_program(graph, plan, step),
    }

    def backward_macs(program: TrainingProgram) -> int:
        directions = (Direction.INPUT_GRADIENT, Direction.WEIGHT_GRADIENT)
        return sum(op.macs for op in program.operations if op.direction in directions)

    def stock(frozen: bool) -> Callable[[], tuple[float, float]]:
        model: nn.Module = deepcopy(loaded.module)
        masks: dict[nn.Parameter, Tensor] = {}
        if frozen:
            model.requires_grad_(False)
            for subset in plan.subsets:
                weight = model.get_parameter(f"{subset.layer}.weight").requires_grad_()
                mask = torch.zeros(weight.shape[0], *(1,) * (weight.ndim - 1))
                mask[list(subset.channels)] = 1.0
                masks[weight] = mask  # type: ignore[index]
        optimizer = torch.optim.SGD(
            (p for p in model.parameters() if p.requires_grad), LEARNING_RATE
        )

        def run() -> tuple[float, float]:
            started = time.process_time()
            output = model(x)
            forward = time.process_time()
            loss_of(output, labels).backward()
            for weight, mask in masks.items():
                assert weight.grad is not None
                weight.grad.mul_(mask)
            optimizer.step()
            optimizer.zero_grad()
            return forward - started, time.process_time() - forward

        return run

    def ours(program: TrainingProgram) -> Callable[[], tuple[float, float]]:
        tensors = capture(deepcopy(loaded.module), x).tensors
        times: list[float] = []

        def loss(output: Tensor, labels: Tensor) -> Tensor:
            times.append(time.process_time())
            return loss_of(output, labels)

        executor = Executor(program, tensors, learning_rate=LEARNING_RATE, loss=loss)

        def run() -> tuple[float, float]:
            started = time.process_time()
            executor.step(x, labels)
            forward = times.pop()
            return forward - started, time.process_time() - forward

        return run

    macs = {key: backward_macs(program) for key, program in programs.items()}
    return {
        "stock, full": (stock(False), macs["full"]),
        "stock, frozen + masks": (stock(True), macs["frozen"]),
        "executor, full": (ours(programs["full"]), macs["full"]),
        "executor, sparse": (ours(programs["sparse"]), macs["sparse"]),
    }


def main() -> None:
    """Time every contender at every batch size and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="mcunet-5fps")
    parser.add_argument("--batches", default="1,32", help="batch sizes (default: 1,32)")
    parser.add_argument("--repeats", type=int, default=0, help="steps of each (default: as fit)")
    arguments = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in FIXED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **FIXED})

    import torch
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    torch.set_num_threads(1)
    for batch in map(int, arguments.batches.split(",")):
        repeats = arguments.repeats or max(15, 100 // batch)
        runs = contenders(arguments.model, batch)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for run, _ in runs.values():
            run()
        for _ in range(repeats):
            for name, (run, _) in runs.items():
                samples[name].append(run())
        table = Table(
            title=f"{arguments.model}, batch {batch}: median of {repeats} interleaved steps",
            box=SIMPLE_HEAD,
        )
        table.add_column("contender", no_wrap=True)
        for heading in ("forward ms", "backward ms", "step ms", "MACs", "backward ×", "step ×"):
            table.add_column(heading, justify="right")
        backward, whole = {}, {}
        for name, values in samples.items():
            backward[name] = statistics.median(back for _, back in values)
            whole[name] = statistics.median(sum(value) for value in values)
        ours = "executor, sparse"
        for name, (_, macs) in runs.items():
            table.add_row(
                name,
                f"{1e3 * statistics.median(forward for forward, _ in samples[name]):.2f}",
                f"{1e3 * backward[name]:.2f}",
                f"{1e3 * whole[name]:.2f}",
                f"{macs / runs[ours][1]:.2f}",
                f"{backward[name] / backward[ours]:.2f}",
                f"{whole[name] / whole[ours]:.2f}",
            )
        table.caption = "MACs: of the backward pass; × and MACs: over those of the last row"
        Console(width=100).print(table)


if __name__ == "__main__":
    main()

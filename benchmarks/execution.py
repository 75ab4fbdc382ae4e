"""Seconds and kept bytes of a training step: a sparse plan through the executor and stock PyTorch.

    python benchmarks/execution.py [--models NAMES] [--batches 1,32] [--repeats N] [--quick]

Stock PyTorch appears as *full*, which trains everything, and, because that alone flatters, as
*frozen + masks*: `requires_grad=False` on every layer the plan leaves out and the gradients of the
others multiplied by a mask, which is what sparse training without a program of its own comes to.
Both run as they come and with `channels_last` images and weights, as a careful user would. The
plan is of the size that TinyTrain finds: a quarter of the output channels of 6 of the last 15
convolutions.

Runs are interleaved, one thread each; seconds are the processor's, so that other work on the
machine does not count; ratios are of medians, and of minima, which a busy machine disturbs less.
Kept bytes are measured: of stock PyTorch every storage that autograd saves for the backward pass,
parameters aside, each once; of the executor every storage alive before and after the loss.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from costsim.ir.plan import UpdatePlan
    from costsim.ir.program import TrainingProgram

# Fixed for every contender alike, before anything is allocated: or page faults decide.
FIXED = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "OMP_NUM_THREADS": "1",
}

LEARNING_RATE = 1e-4
MODELS = "mcunet-5fps,mbv2-w0.35,proxyless-w0.3"
OURS = "executor, sparse"


@dataclass(frozen=True)
class Contender:
    """`run` steps once and returns its forward and its other seconds; `macs` are of its backward
    pass."""

    run: Callable[[], tuple[float, float]]
    kept_bytes: int
    macs: int


@dataclass(frozen=True, eq=False)
class Setting:
    """One network on one batch, a plan for it, and the steps: full, of the plan's layers whole
    (`frozen`), and of its channels alone (`sparse`)."""

    model: "nn.Module"
    images: "Tensor"
    labels: "Tensor"
    plan: "UpdatePlan"
    programs: Mapping[str, "TrainingProgram"]


def contenders(name: str, batch: int) -> dict[str, Contender]:
    """Everything that is compared, by name."""
    import torch

    setting = setting_of(name, batch)
    return {
        "stock, full": stock(setting, False, torch.contiguous_format),
        "stock, full, channels_last": stock(setting, False, torch.channels_last),
        "stock, frozen + masks": stock(setting, True, torch.contiguous_format),
        "stock, frozen + masks, channels_last": stock(setting, True, torch.channels_last),
        "executor, full": ours(setting, setting.programs["full"]),
        OURS: ours(setting, setting.programs["sparse"]),
    }


def setting_of(name: str, batch: int) -> Setting:
    """A quarter of the channels of six of the last fifteen convolutions is trained."""
    import torch

    from costsim.ir.plan import ChannelSubset, UpdatePlan
    from costsim.ir.program import compile_program
    from costsim.ir.step import TrainingStep
    from costsim.models.loading import load_model
    from costsim.models.tracing.capture import capture

    loaded = load_model(name, batch=batch)
    graph = capture(loaded.module, loaded.example_input).graph
    layers = [call.layer for call in graph.calls if call.operator.kind == "convolution"]
    counts = {
        str(layer): graph.selectable_channels(str(layer), "output")
        for layer in layers[-15::3] + layers[-1:]
    }

    def every(stride: int) -> UpdatePlan:
        return UpdatePlan(
            tuple(
                ChannelSubset(layer, "output", tuple(range(0, count, stride)))
                for layer, count in counts.items()
            )
        )

    step = TrainingStep(batch)
    programs = {
        "full": compile_program(graph, UpdatePlan.full(graph), step),
        "frozen": compile_program(graph, every(1), step),
        "sparse": compile_program(graph, every(4), step),
    }
    labels = torch.arange(batch) % 10
    return Setting(loaded.module, loaded.example_input, labels, every(4), programs)


def loss_of(output: "Tensor", labels: "Tensor") -> "Tensor":
    """Cross entropy over whatever the model returns, as if it were logits."""
    from torch.nn import functional

    return functional.cross_entropy(output.flatten(1), labels)


def backward_macs(program: "TrainingProgram") -> int:
    """MACs of a step after its forward pass."""
    from costsim.ir.program import Direction

    directions = (Direction.INPUT_GRADIENT, Direction.WEIGHT_GRADIENT)
    return sum(op.macs for op in program.operations if op.direction in directions)


def stock(setting: Setting, frozen: bool, form: "torch.memory_format") -> Contender:
    """PyTorch's own step: full, or with all other layers frozen and gradients masked."""
    import torch

    model: nn.Module = deepcopy(setting.model).to(memory_format=form)  # type: ignore[call-overload]
    images = setting.images.contiguous(memory_format=form)
    masks: dict[nn.Parameter, Tensor] = {}
    if frozen:
        model.requires_grad_(False)
        for subset in setting.plan.subsets:
            weight = model.get_parameter(f"{subset.layer}.weight").requires_grad_()
            mask = torch.zeros(weight.shape[0], *(1,) * (weight.ndim - 1))
            mask[list(subset.channels)] = 1.0
            masks[weight] = mask  # type: ignore[index]
    trained = (p for p in model.parameters() if p.requires_grad)
    optimizer = torch.optim.SGD(trained, LEARNING_RATE)

    def run() -> tuple[float, float]:
        started = time.process_time()
        output = model(images)
        forward = time.process_time()
        torch.autograd.backward(loss_of(output, setting.labels))
        for weight, mask in masks.items():
            assert weight.grad is not None
            weight.grad.mul_(mask)
        optimizer.step()
        optimizer.zero_grad()
        return forward - started, time.process_time() - forward

    program = setting.programs["frozen" if frozen else "full"]
    return Contender(run, saved_bytes(model, images), backward_macs(program))


def saved_bytes(model: "nn.Module", images: "Tensor") -> int:
    """What autograd keeps for the backward pass, the model's own tensors apart."""
    import torch

    saved: list[Tensor] = []

    def save(tensor: "Tensor") -> "Tensor":
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model(images)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for place, size in storages.items() if place not in own)


def ours(setting: Setting, program: "TrainingProgram") -> Contender:
    """The step as the executor runs it."""
    from costsim.hardware.meters.observe import StorageObserver
    from costsim.models.tracing.capture import capture
    from costsim.run.execution.executor import Executor

    tensors = capture(deepcopy(setting.model), setting.images).tensors
    times: list[float] = []

    def loss(output: "Tensor", labels: "Tensor") -> "Tensor":
        times.append(time.process_time())
        return loss_of(output, labels)

    executor = Executor(program, tensors, learning_rate=LEARNING_RATE, loss=loss)

    def run() -> tuple[float, float]:
        started = time.process_time()
        executor.step(setting.images, setting.labels)
        forward = times.pop()
        return forward - started, time.process_time() - forward

    observer = StorageObserver(program)
    executor.observer = observer
    run()
    executor.observer = None
    kept = sum(buffer.bytes for buffer in observer.buffers() if buffer.kept)
    return Contender(run, kept, backward_macs(program))


def main() -> None:
    """Time every contender on every network at every batch size and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default=MODELS, help=f"(default: {MODELS})")
    parser.add_argument("--batches", default="1,32", help="batch sizes (default: 1,32)")
    parser.add_argument("--repeats", type=int, default=0, help="steps of each (default: as fit)")
    parser.add_argument("--quick", action="store_true", help="the first network, batch 1, 20 steps")
    arguments = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in FIXED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **FIXED})

    import torch

    torch.set_num_threads(1)
    models, batches = arguments.models.split(","), [int(n) for n in arguments.batches.split(",")]
    if arguments.quick:
        models, batches = models[:1], [1]
    kept: dict[tuple[str, int], dict[str, int]] = {}
    for name in models:
        for batch in batches:
            repeats = arguments.repeats or (20 if arguments.quick else max(15, 100 // batch))
            runs = contenders(name, batch)
            samples: dict[str, list[tuple[float, float]]] = {each: [] for each in runs}
            for one in runs.values():
                one.run()
            for _ in range(repeats):
                for each, one in runs.items():
                    samples[each].append(one.run())
            _print_seconds(f"{name}, batch {batch}", repeats, runs, samples)
            kept[name, batch] = {each: one.kept_bytes for each, one in runs.items()}
    _print_kept(kept)


def _print_seconds(
    title: str,
    repeats: int,
    runs: dict[str, Contender],
    samples: dict[str, list[tuple[float, float]]],
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}: median of {repeats} interleaved steps", box=SIMPLE_HEAD)
    table.add_column("contender", no_wrap=True)
    for heading in ("forward ms", "backward ms", "step ms", "MACs ×", "backward ×", "step ×"):
        table.add_column(heading, justify="right", no_wrap=True)
    forward = {each: [first for first, _ in values] for each, values in samples.items()}
    backward = {each: [rest for _, rest in values] for each, values in samples.items()}
    whole = {each: [sum(value) for value in values] for each, values in samples.items()}

    def ratio(of: dict[str, list[float]], each: str) -> str:
        median, least = (f(of[each]) / f(of[OURS]) for f in (statistics.median, min))
        return f"{median:.2f} ({least:.2f})"

    for each, one in runs.items():
        table.add_row(
            each,
            *(f"{1e3 * statistics.median(of[each]):.2f}" for of in (forward, backward, whole)),
            f"{one.macs / runs[OURS].macs:.2f}",
            ratio(backward, each),
            ratio(whole, each),
        )
    table.caption = "×: over the last row, in brackets that of the minima; MACs: of the backward"
    Console(width=130).print(table)


def _print_kept(kept: dict[tuple[str, int], dict[str, int]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Kept from the forward pass to the backward pass", box=SIMPLE_HEAD)
    table.add_column("network, batch", no_wrap=True)
    names = ("stock, full", "stock, frozen + masks", "executor, full", OURS)
    for each in names:
        table.add_column(f"{each} KiB", justify="right")
    table.add_column("full ×", justify="right")
    table.add_column("frozen ×", justify="right")
    for (name, batch), found in kept.items():
        table.add_row(
            f"{name}, {batch}",
            *(f"{found[each] / 1024:,.0f}" for each in names),
            *(f"{found[each] / found[OURS]:.1f}" for each in names[:2]),
        )
    table.caption = "×: stock over the sparse plan"
    Console(width=130).print(table)


if __name__ == "__main__":
    main()

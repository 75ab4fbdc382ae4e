"""Seconds and bytes of a training step: a sparse plan through the executor and stock PyTorch.

    python benchmarks/execution.py [--models NAMES] [--batches 1,32] [--repeats N] [--quick]

Stock PyTorch appears as *full*, which trains everything, and, because that alone flatters, as
*frozen + masks*: `requires_grad=False` on every layer the plan leaves out and the gradients of the
others multiplied by a mask, which is what sparse training without a program of its own comes to.
Both run as they come and with `channels_last` images and weights, as a careful user would. *Chosen
layers* is what a clever user does: gradients of the plan's layers only, which are trained whole,
`channels_last`, a fused optimizer; *in place* are its ReLU6 besides, also without `channels_last`,
which takes scratch on one of the networks. *Cached* leaves out what comes
before the first block trained, as where the same images are shown again: by the clever user, and by
the executor. The plan is of the size that TinyTrain finds: a quarter of the output channels of 6 of
the last 15 convolutions.

Runs are interleaved, one thread each; seconds are the processor's, so that other work on the
machine does not count; ratios are of medians, and of minima, which a busy machine disturbs less.
Kept bytes are measured: of stock PyTorch every storage that autograd saves for the backward pass,
parameters aside, each once; of the executor every storage alive before and after the loss. The
peak is measured in the same way for all: by the events of the allocators during one step, scratch
of kernels included, above what was there at its start.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from costsim.ir.plan import UpdatePlan
    from costsim.ir.program import TrainingProgram
    from costsim.models.networks.build import Network

# Fixed for every contender alike, before anything is allocated: or page faults decide.
FIXED = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "OMP_NUM_THREADS": "1",
}

LEARNING_RATE = 1e-4
MODELS = "mcunet-5fps,mbv2-w0.35,proxyless-w0.3"
OURS = "executor, sparse"
CLEVER = "stock, chosen layers"


@dataclass(frozen=True)
class Contender:
    """`run` steps once and returns its forward and its other seconds; `macs` are of its backward
    pass."""

    run: Callable[[], tuple[float, float]]
    kept_bytes: int
    peak_bytes: int
    macs: int


@dataclass(frozen=True, eq=False)
class Setting:
    """One network on one batch, a plan for it, and the steps: full, of the plan's layers whole
    (`frozen`), of its channels alone (`sparse`), and that from the block on that is the first one
    trained (`cached`)."""

    model: "Network"
    images: "Tensor"
    labels: "Tensor"
    plan: "UpdatePlan"
    programs: Mapping[str, "TrainingProgram"]


def contenders(name: str, batch: int) -> dict[str, Contender]:
    """Everything that is compared, by name."""
    import torch

    setting = setting_of(name, batch)
    return {
        "stock, full": stock(setting, "full", torch.contiguous_format),
        "stock, full, channels_last": stock(setting, "full", torch.channels_last),
        "stock, frozen + masks": stock(setting, "masks", torch.contiguous_format),
        "stock, frozen + masks, channels_last": stock(setting, "masks", torch.channels_last),
        CLEVER: stock(setting, "chosen", torch.channels_last),
        f"{CLEVER}, in place": stock(setting, "chosen", torch.channels_last, in_place=True),
        f"{CLEVER}, in place, as it comes": stock(
            setting, "chosen", torch.contiguous_format, in_place=True
        ),
        f"{CLEVER}, cached": stock(setting, "chosen", torch.channels_last, cached=True),
        "executor, full": ours(setting, setting.programs["full"]),
        f"{OURS}, cached": ours(setting, setting.programs["cached"]),
        OURS: ours(setting, setting.programs["sparse"]),
    }


def setting_of(name: str, batch: int) -> Setting:
    """A quarter of the channels of six of the last fifteen convolutions is trained."""
    import torch

    from costsim.ir.cuts import between, last_frozen_cut
    from costsim.ir.plan import ChannelSubset, UpdatePlan
    from costsim.ir.program import compile_program
    from costsim.ir.step import TrainingStep
    from costsim.models.loading import load_model
    from costsim.models.networks.build import Network
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

    step, rest = TrainingStep(batch), between(graph, last_frozen_cut(graph, counts))
    programs = {
        "full": compile_program(graph, UpdatePlan.full(graph), step),
        "frozen": compile_program(graph, every(1), step),
        "sparse": compile_program(graph, every(4), step),
        "cached": compile_program(rest, every(4), step),
    }
    assert isinstance(loaded.module, Network)
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


def stock(
    setting: Setting,
    trained: str,
    form: "torch.memory_format",
    *,
    in_place: bool = False,
    cached: bool = False,
) -> Contender:
    """PyTorch's own step: `full`, or of the `chosen` layers, whole or their gradients with `masks`.

    With `in_place` ReLU6 overwrites its input; with `cached` the step begins with the values that
    the blocks before the first trained one have computed of the images.
    """
    import torch

    network = deepcopy(setting.model).to(memory_format=form)  # type: ignore[call-overload]
    images = setting.images.contiguous(memory_format=form)
    masks: dict[nn.Parameter, Tensor] = {}
    if trained != "full":
        network.requires_grad_(False)
    for subset in setting.plan.subsets if trained != "full" else ():
        weight = network.get_parameter(f"{subset.layer}.weight").requires_grad_()
        if trained == "masks":
            mask = torch.zeros(weight.shape[0], *(1,) * (weight.ndim - 1))
            mask[list(subset.channels)] = 1.0
            masks[weight] = mask
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, LEARNING_RATE, fused=trained == "chosen")
    model: Callable[[Tensor], Tensor] = in_place_relu6(network) if in_place else network
    if cached:
        before, model = halves(network, setting.plan.by_layer)
        with torch.no_grad():
            images = before(images)

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

    program = setting.programs["full" if trained == "full" else "frozen"]
    kept = saved_bytes(network, model, images)
    return Contender(run, kept, peak_bytes(run), backward_macs(program))


def in_place_relu6(network: "nn.Module") -> "nn.Module":
    """The same network with every ReLU6 written over its input."""
    from torch import fx
    from torch.nn import functional

    traced = fx.symbolic_trace(network)
    for node in traced.graph.nodes:
        if node.target is functional.relu6:
            node.update_kwarg("inplace", True)
    traced.recompile()
    return traced


def halves(
    network: "Network", layers: Collection[str]
) -> "tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]":
    """The network up to the first block that has one of `layers`, and from there on."""
    from torch.nn import functional

    numbers = [int(layer.split(".")[1]) for layer in layers if layer.startswith("blocks.")]
    first = min(numbers, default=len(network.blocks))
    blocks, rest = network.blocks[:first], network.blocks[first:]

    def before(x: "Tensor") -> "Tensor":
        return blocks(functional.relu6(network.stem_norm(network.stem(x))))

    def after(x: "Tensor") -> "Tensor":
        x = rest(x)
        if network.architecture.feature_mix:
            x = functional.relu6(network.mix_norm(network.mix(x)))
        return x.mean((2, 3))

    return before, after


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of allocators and kernels' scratch at once in a step, beyond its start."""
    from costsim.hardware.meters.allocator import record_allocations

    run()
    with record_allocations() as recorder:
        run()
        recorder.mark("step")
    return recorder.pieces[0].peak_bytes()


def saved_bytes(
    network: "nn.Module", forward: "Callable[[Tensor], Tensor]", images: "Tensor"
) -> int:
    """What autograd keeps for the backward pass, the network's own tensors apart."""
    import torch

    saved: list[Tensor] = []

    def save(tensor: "Tensor") -> "Tensor":
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        forward(images)
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for place, size in storages.items() if place not in own)


def ours(setting: Setting, program: "TrainingProgram") -> Contender:
    """The step as the executor runs it, on the images or on what comes before its graph's input."""
    import torch

    from costsim.hardware.meters.observe import StorageObserver
    from costsim.models.tracing.capture import capture
    from costsim.run.execution.executor import Executor
    from costsim.run.execution.forward import evaluate

    network = capture(deepcopy(setting.model), setting.images)
    tensors, start = network.tensors, program.graph.input
    with torch.no_grad():
        images = evaluate(network.graph, tensors, setting.images, keep=[start])[1][start]
    times: list[float] = []

    def loss(output: "Tensor", labels: "Tensor") -> "Tensor":
        times.append(time.process_time())
        return loss_of(output, labels)

    executor = Executor(program, tensors, learning_rate=LEARNING_RATE, loss=loss)

    def run() -> tuple[float, float]:
        started = time.process_time()
        executor.step(images, setting.labels)
        forward = times.pop()
        return forward - started, time.process_time() - forward

    observer = StorageObserver(program)
    executor.observer = observer
    run()
    executor.observer = None
    kept = sum(buffer.bytes for buffer in observer.buffers() if buffer.kept)
    return Contender(run, kept, peak_bytes(run), backward_macs(program))


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
    found: dict[str, dict[str, Contender]] = {}
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
            found[f"{name}, {batch}"] = runs
    _print_bytes("Kept for the backward pass", found, "kept_bytes")
    _print_bytes("Peak of a step", found, "peak_bytes")


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


def _print_bytes(title: str, found: dict[str, dict[str, Contender]], what: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, caption="KiB, and how many times the last row")
    table.add_column("contender", no_wrap=True)
    for setting in found:
        table.add_column(setting, justify="right", no_wrap=True)
    for each in next(iter(found.values())):
        sizes = [(getattr(runs[each], what), getattr(runs[OURS], what)) for runs in found.values()]
        table.add_row(each, *(f"{size / 1024:,.0f}  {size / ours:5.1f}" for size, ours in sizes))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()

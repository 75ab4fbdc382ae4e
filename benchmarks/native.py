"""Seconds of a sparse step by native kernels, beside torch, stock PyTorch and ONNX Runtime.

    python benchmarks/native.py [--models NAMES] [--batches 1,32] [--repeats N] [--compile]

The plan and the contenders are those of `execution.py`: a quarter of the output channels of 6 of
the last 15 convolutions. *Chosen layers* is what a clever user does: gradients of these layers
only, which are trained whole, channels last, a fused optimizer; with `--compile` also as
`torch.compile` makes it, which takes minutes. ONNX Runtime runs the forward pass alone, as a
yardstick: no plan is part of it. The loss is cross entropy for all who have one; native steps have
a kernel for it.

All run interleaved, in an order drawn anew each time, on one thread; seconds are the processor's.
Ratios are of medians over the native step's, quartiles in brackets. ONNX Runtime is needed by
nothing else (`pip install onnx onnxruntime`); without it its rows are left out.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from execution import FIXED, LEARNING_RATE, MODELS, Setting, loss_of, ours, setting_of, stock

NATIVE = "native, sparse step"
Run = Callable[[], object]


def contenders(setting: Setting, *, compiled: bool) -> dict[str, Run]:
    """Everything that is compared, by name; each runs once before it is timed."""
    import torch

    chosen = stock(setting, "chosen", torch.channels_last)
    found: dict[str, Run] = {
        NATIVE: native(setting, "sparse"),
        "native, full step": native(setting, "full"),
        "native, forward alone": native_forward(setting),
        "torch executor, sparse step": ours(setting, setting.programs["sparse"]).run,
        "stock, chosen layers": chosen.run,
        "stock, full step": stock(setting, "full", torch.channels_last).run,
    }
    if compiled:
        found["stock, chosen layers, compiled"] = compiled_step(setting)
    if (forward := onnx_forward(setting)) is not None:
        found["ONNX Runtime, forward alone"] = forward
    return found


def native(setting: Setting, program: str) -> Run:
    """The step as native kernels run it."""
    from costsim.models.tracing.capture import capture
    from costsim.run.native.backend import why_not_native
    from costsim.run.native.executor import NativeExecutor

    if (reason := why_not_native()) is not None:
        sys.exit(f"native kernels cannot be used here: {reason}")
    tensors = capture(deepcopy(setting.model), setting.images).tensors
    executor = NativeExecutor(setting.programs[program], tensors, learning_rate=LEARNING_RATE)
    return lambda: executor.step(setting.images, setting.labels)


def native_forward(setting: Setting) -> Run:
    """The forward pass of a program that trains nothing."""
    from costsim.ir.plan import UpdatePlan
    from costsim.ir.program import compile_program
    from costsim.ir.step import TrainingStep
    from costsim.models.tracing.capture import capture
    from costsim.run.native.executor import NativeExecutor

    traced = capture(deepcopy(setting.model), setting.images)
    program = compile_program(traced.graph, UpdatePlan(), TrainingStep(len(setting.images)))
    executor = NativeExecutor(program, traced.tensors)
    return lambda: executor.forward(executor.begin(), setting.images)


def compiled_step(setting: Setting) -> Run:
    """The clever user's step with the model compiled."""
    import torch

    network = deepcopy(setting.model).to(memory_format=torch.channels_last)
    images = setting.images.contiguous(memory_format=torch.channels_last)
    network.requires_grad_(False)
    for subset in setting.plan.subsets:
        network.get_parameter(f"{subset.layer}.weight").requires_grad_()
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, LEARNING_RATE, fused=True)
    model: Callable[[torch.Tensor], torch.Tensor] = torch.compile(network)

    def run() -> None:
        torch.autograd.backward(loss_of(model(images), setting.labels))
        optimizer.step()
        optimizer.zero_grad()

    return run


def onnx_forward(setting: Setting) -> Run | None:
    """The whole network's forward pass by ONNX Runtime; None where it is not installed."""
    import torch

    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError:
        print("onnx and onnxruntime are not installed: their row is left out", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an exporter that needs nothing more installed
        file = Path(folder) / "network.onnx"
        torch.onnx.export(setting.model, (setting.images,), file, dynamo=False, verbose=False)
        exported = file.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: setting.images.numpy()}
    (found,) = session.run(None, given)
    with torch.no_grad():
        expected = setting.model(setting.images)
    assert torch.allclose(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)
    return lambda: session.run(None, given)


def main() -> None:
    """Time every contender on every network at every batch size and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", default=MODELS, help=f"(default: {MODELS})")
    parser.add_argument("--batches", default="1,32", help="batch sizes (default: 1,32)")
    parser.add_argument("--repeats", type=int, default=0, help="steps of each (default: as fit)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes")
    parser.add_argument("--quick", action="store_true", help="the first network, batch 1, 20 steps")
    arguments = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in FIXED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **FIXED})

    import torch

    torch.set_num_threads(1)
    models, batches = arguments.models.split(","), [int(n) for n in arguments.batches.split(",")]
    if arguments.quick:
        models, batches = models[:1], [1]
    for name in models:
        for batch in batches:
            runs = contenders(setting_of(name, batch), compiled=arguments.compile)
            repeats = arguments.repeats or (20 if arguments.quick else max(15, 200 // batch))
            show(f"{name}, batch {batch}", repeats, interleaved(runs, repeats))


def interleaved(runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each run, `repeats` of them, in an order drawn anew each time."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    order, generator = list(runs), random.Random(0)
    for _ in range(repeats):
        generator.shuffle(order)
        for name in order:
            started = time.process_time()
            runs[name]()
            samples[name].append(time.process_time() - started)
    return samples


def show(title: str, repeats: int, samples: dict[str, list[float]]) -> None:
    """The table of one network at one batch size."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}: {repeats} interleaved runs, one thread", box=SIMPLE_HEAD)
    table.add_column("contender", no_wrap=True)
    for heading in ("p10 ms", "median ms", "quartiles ms", "× native step", "× of p10"):
        table.add_column(heading, justify="right", no_wrap=True)
    step = statistics.median(samples[NATIVE])
    best = statistics.quantiles(samples[NATIVE], n=10)[0]
    for name, seconds in samples.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        tenth = statistics.quantiles(seconds, n=10)[0]
        table.add_row(
            name,
            f"{1e3 * tenth:.2f}",
            f"{1e3 * middle:.2f}",
            f"{1e3 * low:.2f}-{1e3 * high:.2f}",
            f"{middle / step:.2f}",
            f"{tenth / best:.2f}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()

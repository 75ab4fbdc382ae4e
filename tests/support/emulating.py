"""Programs on an emulated core, beside PyTorch's executor."""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from settled import settled_batches
from torch import Tensor
from waiting import PATIENCE_S

from costsim.base.errors import InputError
from costsim.c.emission import EmissionOptions, Quantization, integers
from costsim.c.emission.reference import Reference
from costsim.c.emulation.memory_map import MemoryMap, memory_map
from costsim.c.emulation.toolchain import find_compiler
from costsim.c.emulation.trial import Trial
from costsim.device import DeviceSpec, load_device
from costsim.hardware.boards.scales import find_scales
from costsim.hardware.results.emulated_step import EmulatedStep
from costsim.ir.graph import LayerGraph
from costsim.ir.program import TrainingProgram, memory_timeline, plan_arena
from costsim.ir.step import BitWidths
from costsim.run.execution.executor import Executor

LEARNING_RATE = 0.05
EPS = 0.01
"""Large for Adam, which divides by the size of a gradient: one that is all rounding would count."""


def needs_emulator() -> None:
    """Skip the test that asks where there is no emulator or no compiler."""
    for package in ("unicorn", "elftools", "capstone"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (costsim[emulator])")
    try:
        find_compiler()
    except InputError as error:
        pytest.skip(str(error))


@cache
def board(name: str = "stm32f746") -> tuple[DeviceSpec, MemoryMap]:
    """A shipped device and where its memories lie."""
    device = load_device(name)
    return device, memory_map(device)


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies, as C and numpy take them."""
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def trial_of(
    program: TrainingProgram,
    tensors: Mapping[str, Tensor],
    memory: MemoryMap | None = None,
    **given: Any,
) -> Trial:
    """A program on the emulated core, with these rates; `given` goes to `Trial.of`."""
    options = EmissionOptions(learning_rate=LEARNING_RATE, eps=EPS)
    memory = memory or board()[1]
    given = {"time_limit_s": PATIENCE_S, **given}
    return Trial.of(program, arrays(tensors), memory, options=options, **given)


def batches(program: TrainingProgram, count: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Images and labels of `count` steps."""
    graph = program.graph
    shape = (program.step.batch, *graph[graph.input].shape[1:])
    classes = int(np.prod(graph[graph.output].shape[1:]))
    generator = np.random.default_rng(3)
    return [
        (
            generator.normal(size=shape).astype(np.float32),
            generator.integers(0, classes, program.step.batch),
        )
        for _ in range(count)
    ]


def flat_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of logits that may be maps of one pixel."""
    return torch.nn.functional.cross_entropy(output.flatten(1), labels)


def executor_of(program: TrainingProgram, tensors: Mapping[str, Tensor]) -> Executor:
    """PyTorch on the same program, with the same rates."""
    return Executor(program, tensors, learning_rate=LEARNING_RATE, eps=EPS, loss=flat_cross_entropy)


def check_emulated(
    program: TrainingProgram,
    tensors: Mapping[str, Tensor],
    *,
    steps: int = 3,
    device: str = "stm32f746",
    **given: Any,
) -> None:
    """Everything predicted of `program` is what happens, and the numbers are PyTorch's.

    Those of float64, on images of which rounding decides nothing.
    """
    own = {name: tensor.detach().double() for name, tensor in tensors.items()}
    spec, memory = board(device)
    labels = [torch.from_numpy(labels) for _, labels in batches(program, steps)]
    ours: dict[str, Any] = {"learning_rate": LEARNING_RATE, "eps": EPS, "loss": flat_cross_entropy}
    feed = [(x.numpy(), y.numpy()) for x, y in settled_batches(program, tensors, labels, **ours)]
    trial = trial_of(program, tensors, memory, **given)
    with trial:
        observed = trial.observe(*feed[0])
        losses = [observed.loss, *(trial.step(*batch) for batch in feed[1:])]
        updated = trial.updated()
    executor = executor_of(program, own)
    for (x, y), found in zip(feed, losses, strict=True):
        wanted = float(executor.step(torch.from_numpy(x).double(), torch.from_numpy(y)))
        assert found == pytest.approx(wanted, rel=2e-4, abs=2e-5)
    for name, value in updated.items():
        scale = max(1.0, float(own[name].abs().max()))
        assert np.abs(value - own[name].numpy()).max() <= 2e-4 * scale, name
    check_observed(EmulatedStep(program, spec, trial.firmware, observed))


NARROW = BitWidths(8, 8, 32, 32)
NARROW_RATE = 2.0
"""Large: a change of an integer below half a unit is lost."""


def scales_of(graph: LayerGraph, tensors: Mapping[str, Tensor], images: Tensor) -> Quantization:
    """Scales of what the network does on `images`."""
    return find_scales(graph, tensors, lambda: images)[0]


def narrow_trial(
    program: TrainingProgram,
    tensors: Mapping[str, Tensor],
    images: NDArray[Any],
    memory: MemoryMap | None = None,
    **given: Any,
) -> tuple[Trial, Reference]:
    """A trial of a step in 8 bits, and the numpy reference that it is held to."""
    scales = scales_of(program.graph, tensors, torch.from_numpy(images))
    options = EmissionOptions(learning_rate=NARROW_RATE)
    given = {"time_limit_s": PATIENCE_S, **given}
    trial = Trial.of(
        program,
        arrays(tensors),
        memory or board()[1],
        options=options,
        quantization=scales,
        **given,
    )
    stored = integers(program.graph, arrays(tensors), scales)
    return trial, Reference(program, stored, scales, options, fused=True)


def check_narrow(
    program: TrainingProgram,
    tensors: Mapping[str, Tensor],
    *,
    steps: int = 2,
    device: str = "stm32f746",
    **given: Any,
) -> None:
    """Everything predicted of `program` happens, and every bit is the reference's."""
    spec, memory = board(device)
    feed = batches(program, steps)
    size = program.graph.batch
    trial, reference = narrow_trial(program, tensors, feed[0][0][:size], memory, **given)
    with trial:
        observed = trial.observe(*feed[0])
        losses = [observed.loss, *(trial.step(*batch) for batch in feed[1:])]
        updated = trial.updated()
    assert losses == [reference.step(*batch) for batch in feed]
    for name, value in updated.items():
        assert value.dtype == reference.weights[name].dtype
        assert np.array_equal(value, reference.weights[name]), name
    check_observed(EmulatedStep(program, spec, trial.firmware, observed))


def check_observed(step: EmulatedStep) -> None:
    """Bytes and multiply-accumulates of one watched step are those of the program."""
    program, observed = step.program, step.observed
    arena = plan_arena(program).size_bytes
    assert observed.arena_bytes == observed.arena_end_bytes == arena
    assert step.touched_bytes == step.planned_bytes
    assert list(step.strays()) == []
    for position, op in enumerate(program.operations):
        if op.macs:
            wanted = program.times(op) * op.unpadded_macs
            assert step.executed_macs(position) == wanted, op.name
            assert observed.work[position].conditional_macs == 0, op.name
    planned, found = memory_timeline(program).total_bytes, step.liveness.live_bytes
    for position, op in enumerate(program.operations):
        assert found[position] <= planned[position], op.name
    assert 0 < observed.stack_bytes <= observed.stack_bound_bytes
    assert observed.ram_bytes == arena + observed.data_bytes + observed.stack_bytes

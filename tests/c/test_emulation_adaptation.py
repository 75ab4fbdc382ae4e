"""One whole adaptation of a real few-shot task on the emulated core, beside PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from emulating import (
    NARROW,
    arrays,
    board,
    flat_cross_entropy,
    needs_emulator,
    scales_of,
)
from running import copies
from torch import nn

from costsim.c.emission import EmissionOptions, integers
from costsim.c.emission.reference import Reference
from costsim.c.emulation.trial import Trial
from costsim.data import digits, open_images, sample_task
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.loading import load_model
from costsim.models.tracing import capture
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate

ITERATIONS = 40
RATE = 0.05
"""Of steps in 8 bits: with less, more is lost to rounding."""
WAYS = 5


def adapt_both(module, task, plan_of, step, rate, device="stm32f746", iterations=ITERATIONS):
    """Accuracy on the queries before, after on the emulated core, and after in PyTorch.

    PyTorch computes in float64, so that the answer is the same with any of its kernels.
    """
    x, labels = torch.tensor(task.images), torch.tensor(task.labels)
    assert len(x) == step.batch
    network = capture(module, x[: step.samples_a_pass])
    program = compile_program(network.graph, plan_of(network.graph), step)
    options = EmissionOptions(learning_rate=rate)
    trial = Trial.of(program, arrays(network.tensors), board(device)[1], options=options)
    start = {name: tensor.detach().double() for name, tensor in network.tensors.items()}
    own = copies(start)
    executor = Executor(program, own, learning_rate=rate, loss=flat_cross_entropy)
    queries = torch.tensor(task.query_images)
    size = step.samples_a_pass
    assert len(queries) % size == 0
    with trial:
        losses = [trial.step(task.images, task.labels) for _ in range(iterations)]
        parts = [trial.predict(queries[i : i + size].numpy()) for i in range(0, len(queries), size)]
    wanted = [float(executor.step(x.double(), labels)) for _ in range(iterations)]
    found = np.concatenate(parts).argmax(1)

    def predicted(tensors) -> np.ndarray:
        with torch.no_grad():
            parts = queries.double().split(size)
            outputs = [evaluate(network.graph, tensors, part)[0] for part in parts]
        return torch.cat(outputs).argmax(1).numpy()

    def accuracy(classes) -> float:
        return float((classes == task.query_labels).mean())

    assert losses[0] == pytest.approx(wanted[0], rel=1e-5)
    assert losses == pytest.approx(wanted, rel=2e-2, abs=2e-3)
    return accuracy(predicted(start)), accuracy(found), accuracy(predicted(own))


def small_classifier() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6(),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, WAYS),
    ).eval()  # fmt: skip


def last_layers(graph) -> UpdatePlan:
    """Half of the channels of the last convolutions, and all of the classifier."""
    *_, depthwise, pointwise, convolution, head = graph.layers
    subsets = [
        ChannelSubset(depthwise, "output", tuple(range(0, 8, 2))),
        ChannelSubset(pointwise, "output", tuple(range(0, 16, 2))),
        ChannelSubset(convolution, "input", tuple(range(8))),
        ChannelSubset(head, "output", tuple(range(WAYS))),
    ]
    return UpdatePlan(tuple(subsets), frozenset({convolution, head}))


@pytest.mark.slow
def test_digits_are_learnt_on_the_emulated_core_as_in_pytorch() -> None:
    needs_emulator()
    task = sample_task(digits(), ways=WAYS, shots=3, queries=6, seed=1, resolution=16)
    step = TrainingStep(WAYS * 3, micro_batch=5, optimizer="adam")
    before, emulated, pytorch = adapt_both(
        small_classifier(), task, last_layers, step, rate=6e-3, iterations=15
    )
    assert emulated == pytorch
    assert emulated > before + 0.3


@pytest.mark.slow
def test_digits_are_learnt_in_8_bits_on_the_emulated_core() -> None:
    """Integers all the way, the reference's to the bit, and nearly as good as floats.

    The loss stays high: outputs cannot leave the range that they had before.
    """
    needs_emulator()
    task = sample_task(digits(), ways=WAYS, shots=3, queries=6, seed=1, resolution=16)
    images, labels = torch.tensor(task.images), task.labels
    step = TrainingStep(WAYS * 3, micro_batch=5, optimizer="momentum", bits=NARROW)
    network = capture(small_classifier(), images[: step.samples_a_pass])
    program = compile_program(network.graph, last_layers(network.graph), step)
    scales = scales_of(network.graph, network.tensors, images)
    options = EmissionOptions(learning_rate=RATE)
    stored = integers(network.graph, arrays(network.tensors), scales)
    reference = Reference(program, stored, scales, options, fused=True)
    trial = Trial.of(
        program, arrays(network.tensors), board()[1], options=options, quantization=scales
    )
    queries, size = task.query_images, step.samples_a_pass

    def accuracy() -> float:
        parts = [trial.predict(queries[i : i + size]) for i in range(0, len(queries), size)]
        return float((np.concatenate(parts).argmax(1) == task.query_labels).mean())

    with trial:
        before = accuracy()
        losses = [trial.step(task.images, labels) for _ in range(ITERATIONS)]
        after, updated = accuracy(), trial.updated()
    assert losses == [reference.step(task.images, labels) for _ in range(ITERATIONS)]
    for name, value in updated.items():
        assert np.array_equal(value, reference.weights[name]), name
    assert after > before + 0.3
    floats = compile_program(
        network.graph, last_layers(network.graph), replace(step, bits=BitWidths())
    )
    own = copies(network.tensors)
    executor = Executor(floats, own, learning_rate=RATE, loss=flat_cross_entropy)
    for _ in range(ITERATIONS):
        executor.step(images, torch.tensor(labels))
    with torch.no_grad():
        parts = [
            evaluate(network.graph, own, part)[0] for part in torch.tensor(queries).split(size)
        ]
    wanted = float((torch.cat(parts).argmax(1).numpy() == task.query_labels).mean())
    assert abs(after - wanted) <= 0.1


@pytest.mark.slow
def test_traffic_signs_are_learnt_by_mcunet_on_the_emulated_core(shared) -> None:
    needs_emulator()
    side = 48
    backbone = load_model(
        "mcunet-5fps", weights=shared / "weights" / "mcunet-5fps.int8.pkl", resolution=side
    ).module
    torch.manual_seed(0)
    example = torch.zeros(1, 3, side, side)
    width = backbone(example).shape[1]
    module = nn.Sequential(backbone, nn.Linear(width, WAYS)).eval()
    source = open_images(shared / "data" / "traffic_sign.tar.gz")
    task = sample_task(source, ways=WAYS, shots=3, queries=5, seed=0, resolution=side)

    def plan_of(graph) -> UpdatePlan:
        *_, project, head = graph.layers
        count = graph.selectable_channels(project, "output")
        subsets = (
            ChannelSubset(project, "output", tuple(range(0, count, 4))),
            ChannelSubset(head, "output", tuple(range(WAYS))),
        )
        return UpdatePlan(subsets, frozenset({head}))

    step = TrainingStep(WAYS * 3, micro_batch=1, optimizer="adam")
    before, emulated, pytorch = adapt_both(
        module, task, plan_of, step, rate=1e-3, device="stm32h743"
    )
    assert emulated == pytorch
    assert emulated > before

"""Class means on an emulated core: bytes as predicted, numbers those of the reference."""

from importlib import import_module

import numpy as np
import pytest
import torch
from adapting import small_module, small_task
from channel_plans import every_other_channel
from emulating import NARROW, arrays, board, check_observed, needs_emulator, scales_of

from costsim.c.emission import EmissionOptions, integers
from costsim.c.emission.memory import Memory
from costsim.c.emission.options import ClassMeans
from costsim.c.emission.reference import Reference
from costsim.c.emission.sizes import sizes_of
from costsim.c.emulation.trial import Trial
from costsim.hardware.results.emulated_step import EmulatedStep
from costsim.ir.program import compile_program
from costsim.ir.program.adaptation import Task, compile_adaptation
from costsim.ir.recipe import Recipe
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.tracing import capture
from costsim.run.criteria.loss import prototype_loss, prototypes
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate

WAYS, RATE = 3, 0.5


@pytest.fixture(autouse=True)
def emulator() -> None:
    needs_emulator()


@pytest.mark.parametrize("bits", [BitWidths(), NARROW], ids=["32", "8"])
def test_a_task_by_class_means_is_what_was_predicted(bits) -> None:
    """Means, two steps, new means, answers; every byte and, in 8 bits, every bit."""
    task = small_task(WAYS, shots=2, queries=2)
    network = capture(small_module(torch.float32), torch.tensor(task.images[:1]))
    graph, tensors = network.graph, {n: t.detach() for n, t in network.tensors.items()}
    plan = every_other_channel(graph)
    program = compile_program(graph, plan, TrainingStep(bits=bits))
    options = EmissionOptions(learning_rate=RATE, class_means=ClassMeans(WAYS))
    spec, memory = board()
    scales = None if bits != NARROW else scales_of(graph, tensors, torch.tensor(task.images))
    trial = Trial.of(program, arrays(tensors), memory, options=options, quantization=scales)
    images, labels = task.images, task.labels
    with trial:
        trial.take_means(images, labels)
        first = trial.class_means()
        observed = trial.observe(images[:1], labels[:1])
        losses = [observed.loss, trial.step(images[3:4], labels[3:4])]
        trial.take_means(images, labels)
        means = trial.class_means()
        answers = [trial.classify(one[None]) for one in task.query_images]
        updated = trial.updated()
    step = EmulatedStep(program, spec, trial.firmware, observed, options)
    check_observed(step)
    sizes = sizes_of(Memory(program), 0, options)
    whole = compile_adaptation(
        graph, plan, Recipe(optimizer="sgd", batch=1), Task(len(images), WAYS),
        step=TrainingStep(bits=bits),
    )  # fmt: skip
    (planned,) = [one.bytes for one in whole.lasting if one.name == "class means"]
    assert observed.class_means_bytes == sizes.class_means_bytes == planned == means.nbytes
    assert observed.data_bytes == sizes.data_bytes
    assert not np.array_equal(first, means)
    found = np.array([label for (label,), _ in answers]), np.array([s for _, (s,) in answers])
    if scales is None:
        check_floats(program, tensors, task, losses, means, found)
        return
    stored = integers(graph, arrays(tensors), scales)
    reference = Reference(program, stored, scales, options, fused=True)
    reference.take_means(images, labels)
    assert np.array_equal(first, reference.classifier.means)
    assert losses == [reference.step(images[[i]], labels[[i]]) for i in (0, 3)]
    for name, value in updated.items():
        assert np.array_equal(value, reference.weights[name]), name
    reference.take_means(images, labels)
    assert np.array_equal(means, reference.classifier.means)
    rows = np.concatenate([reference.features(one[None]) for one in task.query_images])
    for ours, theirs in zip(found, reference.classifier.classify(rows), strict=True):
        assert np.array_equal(ours, theirs)


def check_floats(program, tensors, task, losses, means, found) -> None:
    """The same by PyTorch in float64, to rounding."""
    own = {name: tensor.double() for name, tensor in tensors.items()}
    images, labels = torch.tensor(task.images).double(), torch.tensor(task.labels)

    def features(x):
        with torch.no_grad():
            return torch.cat([evaluate(program.graph, own, one[None])[0] for one in x])

    before = prototypes(features(images), labels)
    executor = Executor(
        program, own, learning_rate=RATE,
        loss=lambda output, labels: prototype_loss(output, labels, 10.0, before),
    )  # fmt: skip
    wanted = [float(executor.step(images[[i]], labels[[i]])) for i in (0, 3)]
    assert losses == pytest.approx(wanted, rel=2e-4)
    normal = torch.nn.functional.normalize
    unit = normal(prototypes(features(images), labels))
    assert means == pytest.approx(unit.numpy(), abs=1e-4)
    shares = (10 * normal(features(torch.tensor(task.query_images).double())) @ unit.T).softmax(1)
    assert found[0].tolist() == shares.argmax(1).tolist()
    assert found[1] == pytest.approx(shares.amax(1).numpy(), rel=1e-3)


def test_a_turned_sign_is_not_the_references(monkeypatch) -> None:
    """The check can fail: a step that climbs, in the code alone, gives another loss."""
    emitting = import_module("costsim.c.emission.emit")
    task = small_task(WAYS, shots=2)
    network = capture(small_module(torch.float32), torch.tensor(task.images[:1]))
    graph, tensors = network.graph, {n: t.detach() for n, t in network.tensors.items()}
    program = compile_program(graph, every_other_channel(graph), TrainingStep(bits=NARROW))
    options = EmissionOptions(learning_rate=RATE, class_means=ClassMeans(WAYS))
    scales = scales_of(graph, tensors, torch.tensor(task.images))
    stored = integers(graph, arrays(tensors), scales)
    reference = Reference(program, stored, scales, options, fused=True)
    reference.take_means(task.images, task.labels)
    source = emitting.kernel_source()
    turned = source.replace("*dx++ = (pull - part) * outside;", "*dx++ = (part - pull) * outside;")
    assert turned != source
    monkeypatch.setattr(emitting, "kernel_source", lambda: turned)
    trial = Trial.of(program, arrays(tensors), board()[1], options=options, quantization=scales)
    with trial:
        trial.take_means(task.images, task.labels)
        found = [trial.step(task.images[[i]], task.labels[[i]]) for i in (0, 0, 0)]
    wanted = [reference.step(task.images[[i]], task.labels[[i]]) for i in (0, 0, 0)]
    assert found[0] == wanted[0]
    assert found[1:] != wanted[1:]
    assert wanted[2] < wanted[0] < found[2]

"""Whole networks: gradients, loss curves of ordinary training, live bytes, MACs, what is frozen."""

import copy
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest
import torch
from by_default import by_default
from channel_plans import every_nth_layer
from graphs import plans
from hypothesis import given, settings
from hypothesis import strategies as st
from running import check_gradients, check_measured, check_rounded_gradients, selected_mask
from torch.nn import functional as F  # noqa: N812
from whole_networks import BATCH, flat_cross_entropy, fresh, network, traced
from zoo import ZOO

from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import BitWidths, TrainingStep
from costsim.models.networks import NETWORKS
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate

NAMES = (*ZOO, *NETWORKS)
EPS = 1e-4  # of Adam: some gradients are zero but for rounding, and would be divided by themselves
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.05, eps=EPS),
}


def images(count: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, 32, 32, generator=generator).to(dtype)


@pytest.mark.parametrize(
    "name",
    by_default([*ZOO, "mcunet-5fps"], ["mobilenet_v3_like", "small_vit", "tiny", "mcunet-5fps"]),
)
def test_gradients_bytes_and_macs(name):
    @settings(max_examples=1 if name in NETWORKS else 3)
    @given(st.data())
    def run(data):
        check_drawn(name, data)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=10)
@given(st.data())
def test_gradients_bytes_and_macs_of_more_plans(name, data):
    check_drawn(name, data)


def check_drawn(name, data):
    double, single = traced(name, torch.float64), traced(name, torch.float32)
    plan = data.draw(plans(double.graph))
    passes = data.draw(st.integers(1, 2))
    step = TrainingStep(
        BATCH * passes, BATCH, update=data.draw(st.sampled_from(["immediate", "deferred"]))
    )
    check_gradients(double.graph, plan, step, tensors=double.tensors)
    check_rounded_gradients(single.graph, plan, step, tensors=single.tensors)
    check_measured(single.graph, plan, step, tensors=single.tensors)


@pytest.mark.parametrize(
    "name", by_default([*ZOO, "mcunet-5fps"], ["tiny", "small_vit", "classic"])
)
def test_brain_floats_cost_what_16_bits_are_priced(name):
    """bfloat16 throughout, statistics in float32; no further from float32 than autograd's is."""
    single, brain = traced(name, torch.float32), traced(name, torch.bfloat16)
    plan, bits = every_nth_layer(brain.graph, 3), BitWidths(16, 16, 16, 16)
    check_measured(brain.graph, plan, TrainingStep(BATCH, bits=bits), brain.tensors, torch.bfloat16)

    program = compile_program(brain.graph, plan, TrainingStep(BATCH, update="deferred", bits=bits))
    tensors = {key: t.bfloat16() for key, t in single.tensors.items()}
    executor = Executor(program, tensors)
    state = executor.begin()
    output = executor.forward(state, images(BATCH, torch.bfloat16))
    executor.backward(state, torch.ones_like(output))
    found = flat(executor.gradients(state)[atom] for atom in executor.selections)

    statistics = {buffer.name for call in brain.graph.calls for buffer in call.buffers}

    def autograds(dtype: torch.dtype) -> torch.Tensor:
        own = {
            key: t.detach().to(dtype, copy=True).requires_grad_(key not in statistics)
            for key, t in tensors.items()
        }
        evaluate(brain.graph, own, images(BATCH, torch.bfloat16).to(dtype))[0].sum().backward()
        grads = {id(tensors[key]): t.grad for key, t in own.items()}
        return flat(
            selection.read(grads[id(executor.parameter(atom))])
            for atom, selection in executor.selections.items()
        )

    exact = autograds(torch.float64)
    usual = (autograds(torch.bfloat16) - exact).norm()
    assert (found - exact).norm() <= 1.5 * usual + 1e-3 * exact.norm()


def flat(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.double().flatten() for part in parts])


def with_optimizers(names: Iterable[str]) -> list[Any]:
    """Each name with the next optimizer; of the built-in networks one by default."""
    cases = list(zip(names, cycle(OPTIMIZERS)))
    return by_default(cases, [case for case in cases if case[0] in (*ZOO, "mcunet-5fps")])


@pytest.mark.parametrize(("name", "optimizer"), with_optimizers(NAMES))
def test_the_full_plan_is_ordinary_training(name, optimizer):
    ordinary, (ours, graph, tensors) = (
        copy.deepcopy(network(name, torch.float64)),
        fresh(name, torch.float64),
    )
    passes = 2 if optimizer == "momentum" else 1
    x, labels = images(BATCH * passes, torch.float64), torch.arange(BATCH * passes) % 4

    optim = OPTIMIZERS[optimizer](ordinary.parameters())
    expected = []
    for _ in range(4):
        optim.zero_grad()
        loss = F.cross_entropy(ordinary(x).flatten(1), labels)
        loss.backward()
        optim.step()
        expected.append(loss.item())

    step = TrainingStep(BATCH * passes, BATCH, optimizer)
    executor = Executor(
        compile_program(graph, UpdatePlan.full(graph), step),
        tensors,
        learning_rate=0.05,
        eps=EPS,
        loss=flat_cross_entropy,
    )
    losses = [executor.step(x, labels).item() for _ in range(4)]

    assert losses == pytest.approx(expected, rel=1e-9)
    state = ours.state_dict()
    for key, value in ordinary.state_dict().items():
        assert torch.allclose(state[key], value, rtol=1e-7, atol=1e-9), key


@pytest.mark.parametrize(("name", "optimizer"), with_optimizers(NAMES[::-1]))
def test_what_is_not_selected_stays_bit_for_bit(name, optimizer):
    model, graph, tensors = fresh(name, torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    originals = {key: value.clone() for key, value in tensors.items()}
    plan = every_nth_layer(graph, 4)
    program = compile_program(graph, plan, TrainingStep(BATCH, optimizer=optimizer))
    executor = Executor(program, tensors, learning_rate=0.01, loss=flat_cross_entropy)
    losses = [
        float(executor.step(images(BATCH, torch.float32), torch.tensor([0, 1]))) for _ in range(5)
    ]
    assert losses[-1] < losses[0]
    moved = set()
    for key, original in originals.items():
        mask = selected_mask(executor, key)
        assert torch.equal(tensors[key][~mask], original[~mask]), key
        if not torch.equal(tensors[key], original):
            moved.add(key)
    touched = {id(executor.parameter(atom)) for atom in executor.selections}
    assert moved <= {key for key, tensor in tensors.items() if id(tensor) in touched}
    assert moved
    assert sum(not torch.equal(v, before[k]) for k, v in model.state_dict().items()) <= len(moved)

"""The executor against autograd, against `torch.optim`, and against the program it runs."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import chain, graphs, plans, steps
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from costsim.errors import InputError
from costsim.execution.executor import Executor, LossNotFinite
from costsim.execution.forward import FORWARD, evaluate
from costsim.execution.in_place import IN_PLACE
from costsim.execution.input_gradient import INPUT_GRADIENT
from costsim.execution.masks import BLOCKED
from costsim.execution.saving import SAVING
from costsim.execution.weight_gradient import WEIGHT_GRADIENT
from costsim.graph import LayerGraph, Parameter
from costsim.operators import OPERATORS, BatchNorm, Operator
from costsim.plan import ChannelSubset, UpdatePlan
from costsim.program import Category, Direction, compile_program, memory_timeline
from costsim.step import BitWidths, TrainingStep


def with_statistics(graph: LayerGraph) -> LayerGraph:
    """Batch norms given the two buffers they need to run."""
    return LayerGraph(
        replace(
            call,
            buffers=tuple(
                Parameter(f"{call.layer}.running_{what}", call.weight.shape)
                for what in ("mean", "var")
            ),
        )
        if isinstance(call.operator, BatchNorm) and call.weight
        else call
        for call in graph.calls
    )


def random_tensors(graph: LayerGraph, dtype=torch.float64, seed=0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for parameter in graph.parameters:
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        tensors[parameter.name] = (values * 0.5).to(dtype)
    for call in graph.calls:
        for buffer in call.buffers[1:]:
            tensors[buffer.name].abs_().add_(0.5)
    return tensors


def random_images(graph: LayerGraph, step: TrainingStep, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (step.batch, *graph[graph.input].shape[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def mean_square(output: Tensor, targets: Tensor) -> Tensor:
    return (output - targets).square().mean()


def targets_for(graph: LayerGraph, step: TrainingStep, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (step.batch, *graph[graph.output].shape[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def autograd_gradients(
    graph: LayerGraph, tensors: Mapping[str, Tensor], x: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradient of every parameter, micro-batches averaged."""
    statistics = {buffer.name for call in graph.calls for buffer in call.buffers}
    own = {name: t.clone().requires_grad_(name not in statistics) for name, t in tensors.items()}
    passes = len(x) // graph.batch
    total = sum(
        mean_square(evaluate(graph, own, part)[0], wanted)
        for part, wanted in zip(x.chunk(passes), targets.chunk(passes), strict=True)
    )
    loss = total / passes
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), {
        name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for name, tensor in own.items()
    }


def selected_mask(executor: Executor, name: str) -> Tensor:
    """True where the plan updates the parameter `name`."""
    mask = torch.zeros(executor.tensors[name].shape)
    for atom, selection in executor.selections.items():
        if executor.parameter(atom) is executor.tensors[name]:
            selection.write(mask, torch.ones(selection.shape))
    return mask > 0


def check_gradients(graph, plan, step, dtype=torch.float64, tolerance=1e-10, seed=0) -> None:
    """One step of SGD at learning rate 1 moves each selected weight by its gradient."""
    tensors = random_tensors(graph, dtype, seed)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    x, targets = random_images(graph, step, dtype), targets_for(graph, step, dtype)
    loss, expected = autograd_gradients(graph, before, x, targets)
    executor = Executor(
        compile_program(graph, plan, step), tensors, learning_rate=1.0, loss=mean_square
    )
    assert torch.allclose(executor.step(x, targets), loss, rtol=tolerance, atol=0)
    for name in before:
        mask = selected_mask(executor, name)
        moved = before[name] - tensors[name]
        assert torch.equal(tensors[name][~mask], before[name][~mask]), name
        scale = max(float(expected[name].abs().max()), float(before[name].abs().max()))
        error = (moved - expected[name])[mask].abs().max() if mask.any() else 0.0
        assert error <= tolerance * scale, (name, float(error), scale)


@settings(max_examples=200)
@given(st.data())
def test_gradients_of_selected_channels_are_autograds(data):
    graph = with_statistics(data.draw(graphs()))
    assume(graph.parameters)
    drawn = data.draw(steps(graph))
    step = TrainingStep(drawn.batch, drawn.micro_batch, "sgd", drawn.update)
    plan = data.draw(plans(graph))
    check_gradients(graph, plan, step)
    check_gradients(graph, plan, step, torch.float32, 1e-4)

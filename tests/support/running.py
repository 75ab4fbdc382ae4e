"""Running programs on random weights, and comparing with autograd and with the program."""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from settled import settled_images
from torch import Tensor

from costsim.ir.graph import LayerGraph, Parameter
from costsim.ir.operators import (
    BatchNorm,
    LayerNorm,
)
from costsim.ir.operators.elementwise import Where
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import (
    Category,
    Direction,
    Operation,
    TrainingProgram,
    compile_program,
    memory_timeline,
)
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate
from costsim.run.execution.mac_counter import MacCounter


def with_statistics(graph: LayerGraph) -> LayerGraph:
    """Calls given what they need to run: batch norms two buffers, layer norms a bias that fits."""
    return LayerGraph(
        replace(
            call,
            buffers=tuple(
                Parameter(f"{call.layer}.running_{what}", call.weight.shape)
                for what in ("mean", "var")
            ),
        )
        if isinstance(call.operator, BatchNorm) and call.weight
        else replace(call, bias=Parameter(call.bias.name, call.weight.shape))
        if isinstance(call.operator, LayerNorm) and call.bias and call.weight
        else replace(call, buffers=(Parameter(f"{call.name}.condition", call.operator.condition),))
        if isinstance(call.operator, Where)
        else call
        for call in graph.calls
    )


def random_tensors(
    graph: LayerGraph, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    """Of every parameter and buffer; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for parameter in graph.parameters:
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        tensors[parameter.name] = (values * 0.5).to(dtype)
    for call in graph.calls:
        for buffer in call.buffers[1:]:
            tensors[buffer.name].abs_().add_(0.5)
    return tensors


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values in memory of their own."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def random_images(
    graph: LayerGraph, step: TrainingStep, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Of all passes of a step, the same ones every time."""
    generator = torch.Generator().manual_seed(1)
    shape = (step.batch, *graph[graph.input].shape[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def mean_square(output: Tensor, targets: Tensor) -> Tensor:
    """A loss of any shape, for programs that classify nothing."""
    return (output - targets).square().mean()


def targets_for(
    graph: LayerGraph, step: TrainingStep, dtype: torch.dtype = torch.float64
) -> Tensor:
    """What `mean_square` compares the output of all passes with."""
    generator = torch.Generator().manual_seed(2)
    shape = list(graph[graph.output].shape)
    shape[0] *= step.passes
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def autograd_gradients(
    graph: LayerGraph, tensors: Mapping[str, Tensor], x: Tensor, targets: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradient of every parameter, micro-batches averaged."""
    statistics = {buffer.name for call in graph.calls for buffer in call.buffers}
    own = {
        name: t.detach().clone().requires_grad_(name not in statistics)
        for name, t in tensors.items()
    }
    passes = len(x) // graph.batch
    total = sum(
        (
            mean_square(evaluate(graph, own, part)[0], wanted)
            for part, wanted in zip(x.chunk(passes), targets.chunk(passes), strict=True)
        ),
        start=torch.zeros((), dtype=x.dtype),
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


EXACT = 1e-12
"""Of float64, relative to the largest of a tensor: sums may be in another order."""


def gradient_step(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    tensors: Mapping[str, Tensor],
    x: Tensor,
    targets: Tensor,
    kind: type[Executor] = Executor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and by how much one step at learning rate 1 moves each parameter: its gradient.

    Of what the plan does not select not a bit may change; it is left out of what is returned.
    """
    before = copies(tensors)
    executor = kind(
        compile_program(graph, plan, step), tensors, learning_rate=1.0, loss=mean_square
    )
    loss = executor.step(x, targets)
    moved = {}
    for name in before:
        mask = selected_mask(executor, name)
        assert torch.equal(tensors[name][~mask], before[name][~mask]), name
        if mask.any():
            moved[name] = (before[name] - tensors[name]).masked_fill(~mask, torch.nan)
    return loss, moved


def check_gradients(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """In float64 a step moves each selected weight by its gradient, as autograd has it."""
    tensors = copies(tensors) if tensors else random_tensors(graph)
    x, targets = random_images(graph, step), targets_for(graph, step)
    wanted, expected = autograd_gradients(graph, tensors, x, targets)
    sizes = {name: float(tensor.abs().max()) for name, tensor in tensors.items() if tensor.numel()}
    loss, moved = gradient_step(graph, plan, step, tensors, x, targets)
    assert torch.allclose(loss, wanted, rtol=EXACT, atol=0)
    for name, found in moved.items():
        scale = max(float(expected[name].abs().max()), sizes[name])
        error = (found - expected[name])[~found.isnan()].abs().max()
        assert error <= EXACT * scale, (name, float(error), scale)


def check_rounded_gradients(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    tensors: Mapping[str, Tensor] | None = None,
    kind: type[Executor] = Executor,
) -> None:
    """In single precision gradients are as far from those of float64 as autograd's, or less.

    Ten times as far is allowed, sums being in another order. The images are such that rounding
    decides nothing.
    """
    tensors = copies(tensors) if tensors else random_tensors(graph, torch.float32)
    x, targets = settled_images(graph, tensors, step), targets_for(graph, step, torch.float32)
    exactly = {name: tensor.double() for name, tensor in tensors.items()}
    exact = autograd_gradients(graph, exactly, x.double(), targets.double())
    usual = autograd_gradients(graph, tensors, x, targets)
    loss, moved = gradient_step(graph, plan, step, tensors, x, targets, kind)
    allowed = 10 * (usual[0] - exact[0]).abs() + 1e-5 * exact[0]
    assert (loss - exact[0]).abs() <= allowed
    for name, found in moved.items():
        scale = max(float(exact[1][name].abs().max()), float(exactly[name].abs().max()))
        allowed = 10 * (usual[1][name] - exact[1][name]).abs().max() + 1e-5 * scale
        error = (found - exact[1][name])[~found.isnan()].abs().max()
        assert error <= allowed, (name, float(error), float(allowed))


def live_bytes(buffers: Mapping[int, Tensor]) -> int:
    """Bytes of the distinct storages behind some tensors."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in buffers.values()
    }
    return sum(storages.values())


class Measured:
    """An observer: live bytes, MACs by direction, and the program's word on both."""

    def __init__(self, program: TrainingProgram) -> None:
        self.program = program
        timeline = memory_timeline(program)
        weights = timeline.by_category[Category.UPDATED_WEIGHTS]
        self.expected_bytes = timeline.total_bytes - weights
        self.counter = MacCounter()
        self.seen = [0] * len(program.operations)

    def __call__(self, operation: Operation, position: int, buffers: Mapping[int, Tensor]) -> None:
        """After each operation: what is live is what the program says."""
        self.counter.observe(operation, position, buffers)
        self.seen[position] += 1
        found = {
            self.program.buffers[i].name: t.untyped_storage().nbytes() for i, t in buffers.items()
        }
        expected = {
            b.name: b.bytes
            for b in self.program.buffers
            if b.birth <= position <= b.death
            and b.category not in (Category.UPDATED_WEIGHTS, Category.FROZEN_WEIGHTS)
        }
        assert found == expected, (operation.name, found, expected)
        assert live_bytes(buffers) == self.expected_bytes[position], operation.name

    def check(self) -> None:
        """Afterwards: each operation has run as often, with the MACs, as the program says."""
        program = self.program
        assert self.seen == [program.times(op) for op in program.operations]
        expected = dict.fromkeys(Direction, 0)
        for op in program.operations:
            expected[op.direction] += program.times(op) * op.macs
        assert {d: self.counter.by_direction[d] for d in Direction} == expected
        unknown = re.compile(r"conv|mm|mv|(?<!upsample_)(?<!bi)(?<!tri)linear|dot|attention|einsum")
        assert not [name for name in self.counter.others if unknown.search(name)]


def check_measured(
    graph: LayerGraph,
    plan: UpdatePlan,
    step: TrainingStep,
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Run a step; bytes after every operation and MACs of each cause are the program's."""
    program = compile_program(graph, plan, step)
    tensors = copies(tensors) if tensors else random_tensors(graph, dtype)
    measured = Measured(program)
    executor = Executor(program, tensors, learning_rate=0.0, loss=mean_square, observer=measured)
    x, targets = random_images(graph, step, dtype), targets_for(graph, step, dtype)
    with measured.counter:
        executor.step(x, targets)
    measured.check()

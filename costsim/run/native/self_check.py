"""Whether the native kernels of this machine compute what torch does: one small network, drawn."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import (
    Add,
    Clamp,
    Convolution,
    Input,
    Linear,
    Mean,
    Operator,
    ReLU,
    Shape,
)
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor
from costsim.run.native.executor import NativeExecutor

DRAWS = 3
"""Inputs drawn; a value that lies on the bound of a clamp to rounding may spoil one of them."""

STEPS = 3
TOLERANCE = 1e-3
"""Of the largest change of a weight: rounding comes to a hundredth of that, a fault to more."""


def disagreement() -> str | None:
    """What is wrong with the kernels on this machine; None if they agree with torch."""
    worst = float("inf")
    for seed in range(DRAWS):
        worst = min(worst, _difference(seed))
        if worst <= TOLERANCE:
            return None
    return (
        f"the kernels built for this machine do not compute what torch does: weights differ by "
        f"{worst:.1e} of their change"
    )


def _difference(seed: int) -> float:
    """The largest difference of a weight after some steps, over the largest change of one."""
    graph = checking_graph()
    step = TrainingStep(graph.batch)
    program = compile_program(graph, UpdatePlan.full(graph), step)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        parameter.name: torch.randn(parameter.shape, generator=generator)
        / max(1, parameter.size // parameter.shape[0]) ** 0.5
        for parameter in graph.parameters
    }
    images = torch.randn(graph[graph.input].shape, generator=generator)
    labels = torch.arange(graph.batch)
    after = []
    for kind in (Executor, NativeExecutor):
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        executor = kind(program, own, learning_rate=0.1, loss=F.cross_entropy)
        for _ in range(STEPS):
            executor.step(images, labels)
        after.append(own)
    by_torch, native = after
    change = max(_distance(by_torch[name], tensors[name]) for name in tensors)
    # A NaN is no agreement.
    apart = max(_distance(by_torch[name], native[name]) for name in tensors)
    return apart / change if apart == apart else float("inf")


def _distance(one: Tensor, other: Tensor) -> float:
    found = (one - other).abs().max().item()
    return found if found == found else float("inf")


def checking_graph(batch: int = 2) -> LayerGraph:
    """Every kernel in a few layers, with sizes that are whole vectors and sizes that are not."""
    calls = [Call("x", Input((batch, 3, 13, 13)), (), (batch, 3, 13, 13))]
    shapes: dict[str, Shape] = {"x": (batch, 3, 13, 13)}

    def then(name: str, o: Operator, *inputs: str, weight: Shape | None = None) -> str:
        given = [shapes[one] for one in inputs]
        shapes[name] = o.output_shape(given, weight)
        own = Parameter(f"{name}.weight", weight) if weight else None
        bias = Parameter(f"{name}.bias", weight[:1]) if weight else None
        layer = name if weight else None
        calls.append(Call(name, o, inputs, shapes[name], layer, own, bias))
        return name

    def convolution(
        name: str, x: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> str:
        o = Convolution((stride,) * 2, (kernel // 2,) * 2, (1, 1), groups)
        return then(name, o, x, weight=(out, shapes[x][1] // groups, kernel, kernel))

    def clamped(x: str) -> str:
        return then(f"{x}.clamp", Clamp(0.0, 6.0, False), x)

    x = clamped(convolution("stem", "x", 16, kernel=3, stride=2))
    for i, (kernel, stride, wide, out) in enumerate(
        ((3, 1, 32, 16), (5, 2, 24, 12), (7, 1, 20, 12), (3, 2, 40, 24))
    ):
        before = x
        x = clamped(convolution(f"{i}.expand", x, wide))
        x = clamped(convolution(f"{i}.depthwise", x, wide, kernel, stride, groups=wide))
        x = convolution(f"{i}.project", x, out)
        if shapes[x] == shapes[before]:
            x = then(f"{i}.add", Add(), before, x)
    x = then("relu", ReLU(), x)
    x = then("mean", Mean((2, 3), False), x)
    then("head", Linear(), x, weight=(10, shapes[x][1]))
    return LayerGraph(calls)

"""Inputs on which rounding decides nothing: away from every place where a derivative jumps.

A value nearer to the bound of a clamp than rounding reaches counts as clamped in one kernel, memory
format or processor and not in another, and so does the larger of two nearly equal values of a max
pool. Both answers are right, and gradients may differ by per cent. So whoever compares gradients or
training in single precision draws images again until nothing lies that near.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.program import TrainingProgram
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import evaluate

FACTOR = 4.0
"""How many times the largest rounding error of its tensor a value is away from a jump at least."""

DRAWS = 300
"""So often is a sample drawn again; at worst one in five will do."""

JUMPS: Mapping[str, Callable[[Any], tuple[float, ...]]] = {
    "relu": lambda _o: (0.0,),
    "leaky_relu": lambda _o: (0.0,),
    "elu": lambda _o: (0.0,),
    "absolute": lambda _o: (0.0,),
    "clamp": lambda o: (o.minimum, o.maximum),
    "hard_sigmoid": lambda _o: (-3.0, 3.0),
    "hard_swish": lambda _o: (-3.0, 3.0),
}
"""Where the derivative of an operator of one element jumps, by kind; `max_pool` does at ties."""


class Unsettled(AssertionError):
    """No image was found on which rounding decides nothing."""


def near(call: Call, x: Tensor, reach: Tensor) -> Tensor:
    """Which elements of the input `x` of `call`, or which of its windows, `reach` takes to a jump.

    A value that is a bound to the last bit was put there, by a clamp or as a border, and is there
    in every kernel; likewise equal values of a window. They are not near.
    """
    if call.operator.kind == "max_pool":
        windows = _windows(call, x)
        gaps = -windows.topk(min(2, windows.shape[-1]), dim=-1).values.diff(dim=-1)
    else:
        gaps = torch.stack([x - jump for jump in JUMPS[call.operator.kind](call.operator)], -1)
    return (gaps != 0) & (gaps.abs() <= reach)


def _windows(call: Call, x: Tensor) -> Tensor:
    """What each element of a max pool's output is the maximum of, in the last dimension."""
    o: Any = call.operator
    reach = [d * (k - 1) + 1 for k, d in zip(o.kernel, o.dilation, strict=True)]
    borders: list[int] = []
    for i, padding in enumerate(o.padding):
        needed = (call.shape[2 + i] - 1) * o.stride[i] + reach[i]
        borders = [padding, max(0, needed - padding - x.shape[2 + i]), *borders]
    x = F.pad(x, borders, value=-torch.inf)
    for i, size in enumerate(reach):
        x = x.unfold(2 + i, size, o.stride[i])[..., :: o.dilation[i]]
    return x.flatten(2 + len(reach))


def unsettled(
    graph: LayerGraph, exact: Mapping[str, Tensor], rounded: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """For each sample of `x`, of one pass, whether rounding decides something about it.

    `exact` and `rounded` are the same tensors, in float64 and in the type that is tested. What
    rounding comes to is measured, by the largest difference in each tensor.
    """
    calls = [call for call in graph.calls if call.operator.kind in (*JUMPS, "max_pool")]
    names = {call.inputs[0] for call in calls}
    dtype = next(t.dtype for t in rounded.values() if t.is_floating_point())
    with torch.no_grad():
        _, right = evaluate(graph, exact, x.double(), keep=names)
        _, found = evaluate(graph, rounded, x.to(dtype), keep=names)
    verdict = torch.zeros(len(x), dtype=torch.bool)
    for call in calls:
        value = right[call.inputs[0]]
        rounding = (value - found[call.inputs[0]]).abs().max()
        rounding = rounding + torch.finfo(dtype).eps * value.abs().max()
        close = near(call, value, FACTOR * rounding)
        one_each = len(close) == len(x)  # else samples lie along another dimension
        verdict |= close.flatten(1).any(1) if one_each else close.any()
    return verdict


def settle(unsettled_in: Callable[[Tensor], Tensor], shape: Sequence[int], seed: int) -> Tensor:
    """Noise in single precision of which `unsettled_in` says false for every sample."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    for _ in range(DRAWS):
        wrong = unsettled_in(x)
        if not wrong.any():
            return x
        x[wrong] = torch.randn(x[wrong].shape, generator=generator)
    raise Unsettled(f"{DRAWS} draws, and rounding still decides about {int(wrong.sum())} samples")


def settled_images(
    graph: LayerGraph, tensors: Mapping[str, Tensor], step: TrainingStep, seed: int = 1
) -> Tensor:
    """Images for the passes of a step on which rounding decides nothing, in single precision."""
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    rounded = {name: tensor.float() for name, tensor in tensors.items()}

    def of_a_pass(x: Tensor) -> Tensor:
        return unsettled(graph, exact, rounded, x)

    shape = graph[graph.input].shape
    return torch.cat([settle(of_a_pass, shape, seed + 1000 * i) for i in range(step.passes)])


def settled_batches(
    program: TrainingProgram,
    tensors: Mapping[str, Tensor],
    labels: Sequence[Tensor],
    seed: int = 1,
    **options: Any,
) -> list[tuple[Tensor, Tensor]]:
    """Images for each of the `labels`, of which rounding decides nothing along the training.

    It is trained in float64 and in single precision, by executors with `options`, so that weights
    which have come apart by rounding count as rounding.
    """
    types = (torch.float64, torch.float32)
    runs = [
        Executor(program, {n: t.detach().to(one, copy=True) for n, t in tensors.items()}, **options)
        for one in types
    ]
    exact, rounded = (executor.tensors for executor in runs)
    shape = program.graph[program.graph.input].shape

    def of_a_pass(x: Tensor) -> Tensor:
        return unsettled(program.graph, exact, rounded, x)

    batches = []
    for i, wanted in enumerate(labels):
        seeds = (seed + 1000 * (i * program.step.passes + j) for j in range(program.step.passes))
        x = torch.cat([settle(of_a_pass, shape, one) for one in seeds])
        for executor, dtype in zip(runs, types, strict=True):
            executor.step(x.to(dtype), wanted)
        batches.append((x, wanted))
    return batches

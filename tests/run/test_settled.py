"""What settled images are: away from every jump by more than rounding, or else drawn again."""

from typing import Any

import pytest
import torch
from graphs import GraphBuilder, chain
from operator_cases import CASES, POSITIVE, case
from running import mean_square, random_tensors, targets_for
from settled import JUMPS, Unsettled, _windows, settle, settled_batches, settled_images, unsettled
from torch.nn import functional as F  # noqa: N812

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Clamp, HardSwish, MaxPool, ReLU
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor
from costsim.run.execution.forward import FORWARD, Operands, evaluate

LEAST = torch.finfo(torch.float32).eps


def of_one(operator) -> LayerGraph:
    """An operator on the input as it is, one value of one channel a pixel."""
    g = GraphBuilder()
    g.add(operator, (g.input(2, 1, 1, 4),))
    return g.graph()


def verdicts(graph: LayerGraph, values: list[float]) -> list[bool]:
    """Of a sample of these four values, and of one that lies anywhere but near a jump."""
    x = torch.tensor([values, [0.6, -0.7, 1.5, 2.2]]).view(2, 1, 1, 4)
    return unsettled(graph, {}, {"none": torch.zeros(1)}, x).tolist()


@pytest.mark.parametrize(
    ("operator", "jump"),
    [(ReLU(), 0.0), (Clamp(0.0, 6.0, False), 6.0), (HardSwish(), -3.0), (HardSwish(), 3.0)],
    ids=str,
)
def test_a_value_beside_a_jump_is_unsettled_and_one_upon_it_is_not(operator, jump):
    graph = of_one(operator)
    nearly = LEAST * max(1.0, abs(jump))
    for beside in (jump - nearly, jump + nearly):
        assert verdicts(graph, [0.9, beside, 1.1, -1.0]) == [True, False]
    for value in (jump, jump - 0.01, jump + 0.01):
        assert verdicts(graph, [0.9, value, 1.1, -1.0]) == [False, False]


def test_nearly_equal_values_of_a_window_are_unsettled_and_equal_ones_are_not():
    graph = of_one(MaxPool((1, 2), (1, 2), (0, 0), (1, 1)))
    assert verdicts(graph, [1.0, 1.0 + LEAST, 0.3, 0.2]) == [True, False]
    assert verdicts(graph, [1.0, 1.0, 0.3, 0.2]) == [False, False]
    assert verdicts(graph, [0.3, 1.0, 1.0 + LEAST, 0.2]) == [False, False]  # not in one window


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("max_pool")])
def test_windows_are_those_of_max_pools(name):
    graph = case(name, alone=True)
    (call,) = (call for call in graph.calls if call.operator.kind == "max_pool")
    x = torch.randn(graph[call.inputs[0]].shape)
    wanted = FORWARD[call.operator](Operands((x,)))
    assert torch.equal(_windows(call, x).amax(-1), wanted)


def test_jumps_are_where_derivatives_jump():
    """Nowhere else do slopes differ from one side to the other."""
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    seen = set()
    for name in CASES:
        graph = case(name, alone=True)
        for call in graph.calls:
            kind = call.operator.kind
            if call.operator not in FORWARD or len(call.inputs) != 1 or call.weight is not None:
                continue
            shape = graph[call.inputs[0]].shape
            if shape != call.shape or kind in ("softmax", "log_softmax", "permute", "reshape"):
                continue
            if kind in ("max_pool", "average_pool", "adaptive_average_pool", "pad", "expand"):
                continue

            def slope(at: torch.Tensor, call=call) -> torch.Tensor:
                given = at.clone().requires_grad_()
                y = FORWARD[call.operator](Operands((given,)))
                return torch.autograd.grad(y.sum(), given)[0]

            step = 1e-7
            line = x.abs() + 0.5 if name in POSITIVE else x
            found = line[(slope(line + step) - slope(line - step)).abs() > 1e-3]
            jumps = JUMPS.get(kind, lambda _o: ())(call.operator)
            assert torch.allclose(found, torch.tensor(sorted(jumps), dtype=torch.float64)), name
            seen.add(kind)
    assert seen > set(JUMPS)


def test_images_are_drawn_again_until_they_are_settled():
    seen: list[torch.Tensor] = []

    def large(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x.flatten(1).amax(1) > 1.0

    x = settle(large, (3, 1, 2, 2), seed=0)
    assert float(x.max()) <= 1.0
    kept = seen[0].flatten(1).amax(1) <= 1.0
    assert torch.equal(x[kept], seen[0][kept])
    assert not kept.all()
    assert torch.equal(settle(large, (3, 1, 2, 2), seed=0), x)
    with pytest.raises(Unsettled, match=r"300 draws.*3 samples"):
        settle(lambda x: torch.ones(len(x), dtype=torch.bool), (3, 1), seed=0)


def test_along_a_training_every_step_is_settled_by_the_weights_of_then():
    graph, step = chain(batch=2), TrainingStep(4, 2, update="deferred")
    program = compile_program(graph, UpdatePlan.full(graph), step)
    tensors = random_tensors(graph, torch.float32)
    targets = targets_for(graph, step, torch.float32)
    options: dict[str, Any] = {"learning_rate": 0.05, "loss": mean_square}
    feed = settled_batches(program, tensors, [targets] * 3, **options)
    own = {name: tensor.double() for name, tensor in tensors.items()}
    executor = Executor(program, own, **options)
    for x, labels in feed:
        for part in x.chunk(2):
            rounded = {name: tensor.float() for name, tensor in own.items()}
            assert not unsettled(graph, own, rounded, part).any()
        executor.step(x.double(), labels)
    first = settled_images(graph, tensors, step)
    assert first.shape == feed[0][0].shape
    _, kept = evaluate(graph, own, first[:2].double(), keep=[graph.calls[1].name])
    assert F.relu(kept[graph.calls[1].name]).any()

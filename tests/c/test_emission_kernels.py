"""Emitted C, one operator kind at a time, against PyTorch; the multiply-accumulates it executes."""

import ctypes
import math
from typing import Any

import numpy as np
import pytest
import torch
from emitting import Emitted, kernels
from operator_cases import CASES, WEIGHTED, case, operator_of
from running import random_images, random_tensors
from settled import settled_batches
from torch.nn import functional as F  # noqa: N812

from costsim.c.emission import EmissionOptions
from costsim.c.emission.forward import FORWARD
from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Reshape, elements
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.run.execution.executor import Executor

TOLERANCE = 2e-5
"""Of fp32 sums of some hundred terms, relative to the largest of a tensor."""


def cross_entropy(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.flatten(1), labels)


def as_one_sample(graph: LayerGraph) -> LayerGraph:
    """The output as the logits of one sample."""
    size = elements(graph[graph.output].shape)
    flat = Call("as_one_sample", Reshape((1, size)), (graph.output,), (1, size))
    return LayerGraph([*graph.calls, flat])


def graph_of(name: str, *, alone: bool) -> LayerGraph:
    graph = case(name, alone=alone)
    return graph if alone else as_one_sample(graph)


def scattered_plans(graph: LayerGraph) -> list[UpdatePlan]:
    """Of every selectable layer, along each axis: every other channel, and all but the first."""
    found = []
    for name in graph.layers:
        for axis in ("output", "input"):
            count = graph.selectable_channels(name, axis)
            for channels in {tuple(range(0, count, 2)), tuple(range(1, count))} - {()}:
                subset = ChannelSubset(name, axis, channels)
                found.append(UpdatePlan((subset,), UpdatePlan.full(graph).biases))
    return found


def labels_for(graph: LayerGraph) -> np.ndarray:
    """One for each row of the output, and no fewer than C reads: one for each image."""
    rows, size = graph[graph.output].shape[0], elements(graph[graph.output].shape)
    return np.arange(max(rows, graph.batch), dtype=np.int32) % (size // rows)


def check_step(program: TrainingProgram) -> None:
    """Two steps of the C code and of PyTorch in float64 from the same weights."""
    graph = program.graph
    tensors = random_tensors(graph, torch.float64)
    before = {name: tensor.float().numpy().copy() for name, tensor in tensors.items()}
    tensors = {name: torch.from_numpy(array).double() for name, array in before.items()}
    emitted = Emitted(program, before, options=EmissionOptions(learning_rate=0.25))
    executor = Executor(program, tensors, learning_rate=0.25, loss=cross_entropy)
    labels = labels_for(graph)
    targets = torch.from_numpy(labels[: graph[graph.output].shape[0]]).long()
    ours: dict[str, Any] = {"learning_rate": 0.25, "loss": cross_entropy}
    for images, _ in settled_batches(program, tensors, [targets] * 2, **ours):
        expected = float(executor.step(images.double(), targets))
        assert emitted.step(images.numpy(), labels) == pytest.approx(
            expected, rel=TOLERANCE, abs=2e-5
        )
    updated = emitted.updated()
    assert updated.keys() == {u.parameter.name for u in emitted.memory.updates}
    assert {u.atom for u in emitted.memory.updates} == executor.selections.keys()
    for name, array in updated.items():
        wanted = tensors[name].numpy()
        scale = max(float(np.abs(wanted).max()), float(np.abs(wanted - before[name]).max()))
        assert np.abs(array - wanted).max() <= TOLERANCE * scale, name


EMITTED = [name for name in CASES if operator_of(name) in FORWARD]
WITH_WEIGHTS = [name for name in WEIGHTED if name in EMITTED]
"""The cases that there is a kernel for."""


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
@pytest.mark.parametrize("name", EMITTED)
def test_each_kind_steps_as_in_pytorch(name, alone):
    graph = graph_of(name, alone=alone)
    step = TrainingStep(graph.batch, graph.batch)
    check_step(compile_program(graph, UpdatePlan.full(graph), step))


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_some_channels_are_updated_as_in_pytorch(name):
    graph = graph_of(name, alone=True)
    step = TrainingStep(graph.batch, graph.batch)
    for plan in scattered_plans(graph):
        check_step(compile_program(graph, plan, step))


@pytest.mark.parametrize("name", [*WITH_WEIGHTS, "matmul", "matmul_transposed", "matmul_broadcast"])
def test_every_priced_multiply_accumulate_is_executed_and_no_other(name):
    graph = graph_of(name, alone=True)
    step = TrainingStep(graph.batch, graph.batch)
    for plan in [UpdatePlan.full(graph), *scattered_plans(graph)[:2]]:
        program = compile_program(graph, plan, step)
        weights = {key: t.float().numpy() for key, t in random_tensors(graph).items()}
        emitted = Emitted(program, weights, counting=True)
        images = random_images(graph, step, torch.float32).numpy()
        counted = emitted.operation_macs(images, labels_for(graph))
        assert counted == [op.unpadded_macs for op in program.operations]


FUNCTIONS = {
    "exp": (math.exp, np.linspace(-103.5, 88.7, 20001)),
    "expm1": (math.expm1, np.linspace(-2, 5, 20001)),
    "log": (math.log, np.geomspace(1e-44, 3e38, 20001)),
    "tanh": (math.tanh, np.linspace(-10, 10, 20001)),
    "erf": (math.erf, np.linspace(-4.5, 4.5, 20001)),
    "sqrt": (math.sqrt, np.geomspace(1e-44, 3e38, 20001)),
}
LIMITS = {"sqrt": 0.5, "exp": 2.0, "log": 2.0}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_mathematics_is_as_accurate_as_it_says(name):
    """Errors in units of the last place of the result."""
    exact, points = FUNCTIONS[name]
    function = getattr(kernels(), f"costsim_{name}")
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    worst = 0.0
    for x in points.astype(np.float32):
        wanted = exact(float(x))
        unit = float(np.spacing(np.float32(abs(wanted))))
        worst = max(worst, abs(function(float(x)) - wanted) / unit)
    assert worst <= LIMITS.get(name, 5.0) * (1 + 1e-6)


def test_log_softmax_of_far_apart_logits_is_not_the_logarithm_of_a_zero():
    x = np.array([[1e4, 0.0, -1e4], [-3.0, -3.0, -200.0]], np.float32)
    y = np.empty_like(x)
    kernels().costsim_log_softmax_forward(
        2, 3, 1, x.ctypes.data_as(ctypes.c_void_p), y.ctypes.data_as(ctypes.c_void_p)
    )
    wanted = torch.from_numpy(x).double().log_softmax(1).numpy()
    assert np.abs(y - wanted).max() <= 1e-6 * np.abs(wanted).max()
    assert y[0].tolist() == [0.0, -1e4, -2e4]


def test_mathematics_at_the_edges():
    library = kernels()
    for name, cases in {
        "exp": [(math.inf, math.inf), (-math.inf, 0.0), (89.0, math.inf), (-104.0, 0.0), (0, 1)],
        "log": [(0.0, -math.inf), (math.inf, math.inf), (1.0, 0.0)],
        "sqrt": [(0.0, 0.0), (math.inf, math.inf), (1.0, 1.0), (4.0, 2.0)],
        "tanh": [(0.0, 0.0), (math.inf, 1.0), (-math.inf, -1.0)],
        "erf": [(0.0, 0.0), (math.inf, 1.0), (-math.inf, -1.0)],
    }.items():
        function = getattr(library, f"costsim_{name}")
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        assert [function(x) for x, _ in cases] == [y for _, y in cases], name
        assert math.isnan(function(math.nan)), name
    for name in ("log", "sqrt"):
        assert math.isnan(getattr(library, f"costsim_{name}")(-1.0)), name

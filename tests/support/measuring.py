"""Programs of real networks, measured: for the tests of measurement."""

from functools import cache

import torch
from graphs import plans
from hypothesis import strategies as st
from zoo import ZOO

from costsim.hardware.meters.measure import Measured, measure
from costsim.hardware.meters.scratch import ScratchTable
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program, even_cuts
from costsim.ir.step import OPTIMIZER_STATES, TrainingStep
from costsim.models.loading import load_model
from costsim.models.networks import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import capture
from costsim.models.tracing.capture import Traced
from costsim.run.execution.executor import Executor

SMALL = 48
"""Side of the images of built-in networks in quick tests."""


@cache
def traced(name: str, batch: int = 1, side: int | None = None) -> Traced:
    """A network of the zoo or a built-in one; its weights stay as they are in most tests."""
    if name in NETWORKS:
        side = side or SMALL
        module = load_model(name, resolution=side).module
        graph = architecture_graph(name, batch=batch, resolution=side)
        return Traced(graph, dict(module.state_dict()))
    torch.manual_seed(0)
    return capture(ZOO[name](), torch.randn(batch, 3, side or 32, side or 32))


def executor_of(network: Traced, program: TrainingProgram) -> Executor:
    """On copies of the weights; steps so small that losses stay finite."""
    tensors = {name: tensor.detach().clone() for name, tensor in network.tensors.items()}
    return Executor(program, tensors, learning_rate=1e-5)


class Feed:
    """Noise for one pass at a time."""

    def __init__(self, program: TrainingProgram) -> None:
        self.shape = program.graph[program.graph.input].shape
        self.labels = torch.arange(self.shape[0]) % 2

    def __call__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of one pass."""
        return torch.rand(self.shape), self.labels


def measured(
    network: Traced, program: TrainingProgram, scratch: ScratchTable | None = None, steps: int = 1
) -> Measured:
    """The program run and measured, on the network as a model named `net`."""
    return measure(
        executor_of(network, program), Feed(program), model="net", steps=steps, scratch=scratch
    )


@st.composite
def programs(draw: st.DrawFn, network: Traced) -> TrainingProgram:
    """Any plan of the network; one or two passes, with recomputation or without."""
    graph = network.graph
    step = TrainingStep(
        batch=graph.batch * draw(st.integers(1, 2)),
        micro_batch=graph.batch,
        optimizer=draw(st.sampled_from(sorted(OPTIMIZER_STATES))),
        update=draw(st.sampled_from(["immediate", "deferred"])),
        recompute=even_cuts(graph, draw(st.integers(1, 3))),
    )
    return compile_program(graph, draw(plans(graph)), step)


def full_program(network: Traced) -> TrainingProgram:
    """A step of all parameters."""
    graph = network.graph
    return compile_program(graph, UpdatePlan.full(graph), TrainingStep(graph.batch))

"""The paper's methods on a network: what each trains, and what it holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from costsim.device import load_device
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.models.networks.graph import architecture_graph
from costsim.planning.request import BudgetRequest
from costsim.planning.swapping import with_norms
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.accounting.sparse_update import SCHEMES, scheme_plan
from costsim.pricing.cost import mac_cost, memory_cost
from costsim.problem.importance import ChannelScores, Importance, inspected_layers
from costsim.problem.problem import Problem
from costsim.solvers.greedy import Greedy
from costsim.solving.solve import solve
from costsim.studies.published.figures import MCUNET, PI

BATCH = 100
"""Images of an iteration: those of the paper's figure for the memory of full training."""

ITERATIONS = 40

STEP = TrainingStep(BATCH, optimizer="adam")

SCHEME_KB = {MCUNET: 99}
"""By its backward MACs the paper's; of the other networks one scheme is published."""


@dataclass(frozen=True)
class Trained:
    """What a method trains of a network.

    `stock_plan` is of `stock`, all images in one pass and batch norm apart, as stock PyTorch runs
    it. `plan` is the same of the built-in network as this project runs it, batch norm folded; None
    where a method puts modules of its own into the network. `held_bytes` are as the paper counts.
    """

    stock_plan: UpdatePlan
    stock: LayerGraph
    plan: UpdatePlan | None
    held_bytes: int

    @property
    def backward_macs(self) -> int:
        """Of one image."""
        return mac_cost(self.stock_program).backward // BATCH

    @cached_property
    def stock_program(self) -> TrainingProgram:
        """One iteration."""
        return compile_program(self.stock, self.stock_plan, STEP)


def own_graph(network: str, batch: int = 1) -> LayerGraph:
    """A network of the paper as this project runs it."""
    return architecture_graph(network, batch=batch)


def _stock_graph(network: str) -> LayerGraph:
    return architecture_graph(network, batch=BATCH, batch_norm=True)


def _by_autograd(plan: UpdatePlan, stock: LayerGraph, own: UpdatePlan | None) -> Trained:
    """A method that has all images in memory at once."""
    memory = autograd_memory(stock, plan, optimizer_states=STEP.optimizer_states)
    return Trained(plan, stock, own, memory.total_bytes)


def _sparse(network: str, plan: UpdatePlan) -> Trained:
    """A method that has one image in memory at a time, and of it what is trained needs."""
    own, stock = own_graph(network), _stock_graph(network)
    program = compile_program(own, plan, replace(STEP, batch=1))
    held = memory_cost(program).paper_bytes
    return Trained(with_norms(plan, own, stock), stock, plan, held)


def _full(network: str) -> Trained:
    own, stock = own_graph(network), _stock_graph(network)
    return _by_autograd(UpdatePlan.full(stock), stock, UpdatePlan.full(own))


def _last_layer(network: str) -> Trained:
    own = own_graph(network)
    (layer,) = inspected_layers(own, 1)
    channels = tuple(range(own.selectable_channels(layer, "output")))
    return _sparse(network, UpdatePlan((ChannelSubset(layer, "output", channels),)))


def _sparse_update(network: str) -> Trained:
    found = [scheme for scheme in SCHEMES if scheme.network == network]
    (scheme,) = [s for s in found if s.size_kb == SCHEME_KB.get(network, s.size_kb)]
    return _sparse(network, scheme_plan(own_graph(network), scheme))


def _tinytrain(network: str) -> Trained:
    """By the paper's greedy within its budgets, which count memory as it does.

    Channels are scored by lot, for which neither weights nor images are needed. Plans by Fisher
    information, on the published weights and traffic signs, do as many MACs to within 6 % and hold
    as many bytes to within a quarter.
    """
    own, step = own_graph(network), replace(STEP, batch=1)
    lot = np.random.default_rng(0)
    scores = tuple(
        ChannelScores(name, "output", tuple(lot.random(own.selectable_channels(name, "output"))))
        for name in inspected_layers(own)
    )
    budget = BudgetRequest(accounting="paper").resolve(load_device(PI), own, step)
    solution = solve(Problem(own, step, Importance("random", scores), budget), Greedy())
    assert solution.plan is not None
    return _sparse(network, solution.plan)


def _tinytl(network: str) -> Trained:
    """With the lite residual modules of this project: the paper does not give its own."""
    import torch

    from costsim.learning.methods.tinytl import LiteNetwork, TinyTL, lite_plan
    from costsim.models.networks.build import build
    from costsim.models.tracing import capture

    method = TinyTL()
    base = build(network, batch_norm=True)
    lite = LiteNetwork(base, 0, kernel=method.kernel, groups=method.groups).eval()
    side = base.architecture.resolution
    stock = capture(lite, torch.zeros(BATCH, 3, side, side)).graph
    return _by_autograd(lite_plan(stock, 0), stock, None)


METHODS: Mapping[str, Callable[[str], Trained]] = {
    "FullTrain": _full,
    "LastLayer": _last_layer,
    "TinyTL": _tinytl,
    "SparseUpdate": _sparse_update,
    "TinyTrain": _tinytrain,
}
"""In the paper's order."""

TRACED = frozenset({"TinyTL"})
"""Whose networks are traced, which takes a while: only where something is published of them."""

"""Biases that are chosen by themselves: what they cost, and what choosing them brings."""

import numpy as np
import pytest
from costsim.solvers import SOLVERS, make_solver
from costsim.solvers.brute_force import BruteForce
from costsim.solvers.exact import Exact
from costsim.solvers.greedy import Greedy
from costsim.solvers.ilp import IntegerProgram
from graphs import chain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import problems

from costsim.base.errors import InputError
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.step import OPTIMIZER_STATES, TrainingStep
from costsim.pricing.cost import price
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance, tinytrain_scores
from costsim.problem.problem import Problem
from costsim.problem.solution import Status
from costsim.solving.solve import solve

WIDTHS = (4, 6, 5)
BITS = 32


def chain_problem(scores, budget=None, *, with_bias=False, **options):
    """Convolutions of `WIDTHS`; `scores` by axis and layer number: one number for all channels."""
    graph = chain(channels=WIDTHS)
    layers = list(graph.layers)
    entries = []
    for (axis, number), score in sorted(scores.items(), key=lambda item: item[0][1]):
        layer = layers[number]
        values = (float(score),) * graph.selectable(layer, axis)
        entries.append(ChannelScores(layer, axis, values))
    importance = Importance("given", tuple(entries))
    step = TrainingStep(**options)
    return Problem(graph, step, importance, budget or Budget(), with_bias=with_bias)


def compiled(problem, plan):
    return price(compile_program(problem.graph, plan, problem.step))


@settings(max_examples=50)
@given(problems(max_layers=4), st.data())
def test_a_selection_costs_what_its_program_does(problem, data):
    """What solvers see, the table by selection, against the compiled plan, in every accounting."""
    selection = np.array([data.draw(st.integers(0, c.size)) for c in problem.candidates])
    for group in problem.exclusive:
        for index in group[1:]:
            selection[index] = 0
    plan = problem.plan(selection)
    memory, macs = (cost := compiled(problem, plan)).memory, cost.macs
    for accounting in ("peak", "paper", "tiny-training"):
        limits = Budget(10**9, accounting, 10**12, working_bytes=10**9)
        usage = problem.within(limits).usage(selection[None])
        assert usage["memory_bytes"][0] == memory.in_accounting(accounting)
        assert usage["working_bytes"][0] == memory.peak_bytes
        assert usage["macs"][0] == macs.backward
    assert problem.gains(selection[None])[0] == pytest.approx(problem.gain(plan))


@pytest.mark.parametrize("optimizer", OPTIMIZER_STATES)
def test_a_bias_costs_reach_and_its_own_few_bytes(optimizer):
    problem = chain_problem({("output", 1): 1, ("bias", 0): 1}, optimizer=optimizer)
    layers = list(problem.graph.layers)
    alone = compiled(problem, UpdatePlan((), frozenset(layers[:1])))
    states = {"sgd": 0, "momentum": 1, "adam": 2}[optimizer]
    element_bytes = BITS // 8
    # Gradients pass the two layers behind it: as many MACs as their forward passes.
    behind = sum(
        problem.graph[call].operator.forward_macs(problem.graph.shapes(problem.graph[call]))
        for layer in layers[1:]
        for call in problem.graph.layers[layer].calls
    )
    assert (alone.macs.input_gradient, alone.macs.weight_gradient) == (behind, 0)
    assert alone.memory.updated_weight_bytes == element_bytes * WIDTHS[0]
    assert alone.memory.gradient_bytes == element_bytes * WIDTHS[0]
    assert alone.memory.optimizer_bytes == element_bytes * WIDTHS[0] * states
    # Nothing is kept but a bit for each element of the ReLUs that the gradient crosses.
    crossed = sum(16 * width for width in WIDTHS)
    assert alone.memory.kept_bytes == crossed // 8
    # With a bias before it a layer's channels take their own gradient and nothing more.
    channels = ChannelSubset(layers[1], "output", (0, 2))
    both = compiled(problem, UpdatePlan((channels,), frozenset(layers[:1])))
    assert both.macs.input_gradient == behind
    assert both.macs.weight_gradient == 2 * (WIDTHS[0] * 9) * 16


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in SOLVERS
        if name not in (*SOLVERS.tagged("no scores"), *SOLVERS.tagged("whole network"))
    ],
)
def test_without_limits_all_channels_and_all_biases_are_taken(name):
    scores = {(axis, i): 1.0 for axis in ("output", "bias") for i in range(2)}
    problem = chain_problem(scores)
    plan = solve(problem, make_solver(name)).plan
    layers = list(problem.graph.layers)[:2]
    assert set(plan.by_layer) == plan.biases == set(layers)
    assert [len(plan.by_layer[layer].channels) for layer in layers] == list(WIDTHS[:2])


def test_biases_are_chosen_where_channels_are_not_worth_it():
    """A bias of the first layer, channels of the last, and nothing between: none does it alone."""
    channels = {("output", 0): 0.1, ("output", 1): 0.1, ("output", 2): 1.0}
    free = chain_problem(channels | {("bias", 0): 3.0, ("bias", 1): 0.0})
    first, _, last = free.graph.layers
    wanted = UpdatePlan((ChannelSubset(last, "output", tuple(range(5))),), frozenset({first}))
    memory = compiled(free, wanted).memory.paper_bytes
    problem = free.within(Budget(memory_bytes=memory, accounting="paper"))
    for solver in (Exact(), IntegerProgram(), BruteForce()):
        solution = solve(problem, solver)
        assert solution.status is Status.OPTIMAL
        assert solution.plan == wanted
        assert solution.objective == 5 * 1.0 + 3.0
    without = chain_problem(channels).within(problem.budget)
    assert solve(without, Exact()).objective < 8.0


@pytest.mark.parametrize(
    "solver",
    [Exact(), IntegerProgram(), IntegerProgram(by_case=False), BruteForce(), Greedy()],
    ids=["exact", "ilp", "one program", "brute-force", "greedy"],
)
def test_without_a_single_mac_the_last_bias_is_trained(solver):
    scores = {(axis, i): 1.0 for axis in ("output", "bias") for i in range(3)}
    solution = solve(chain_problem(scores, Budget(macs=0, memory_bytes=10**6)), solver)
    last = list(chain(channels=WIDTHS).layers)[-1]
    assert solution.plan == UpdatePlan((), frozenset({last}))


@settings(max_examples=15)
@given(problems(max_layers=4))
def test_a_choice_of_biases_never_lowers_the_optimum(problem):
    """With them closed the plans are those of the problem without them."""
    weights = tuple(e for e in problem.importance.channels if e.axis != "bias")
    assume(weights and weights != problem.importance.channels)
    fewer = problem.rescored(Importance("drawn", weights))
    less, more = solve(fewer, Exact()), solve(problem, Exact())
    if less.plan is not None:
        assert more.objective >= less.objective * (1 - 1e-9)


def test_a_bias_is_chosen_or_comes_with_its_layer_but_not_both():
    scores = {("output", 0): 1.0, ("bias", 0): 1.0}
    with pytest.raises(InputError, match="cannot also come with the layers"):
        chain_problem(scores, with_bias=True)
    problem = chain_problem({("output", 0): 1.0}, with_bias=True)
    with pytest.raises(InputError, match="cannot also come with the layers"):
        problem.rescored(chain_problem(scores).importance)
    assert problem.plan([1]).biases == {*problem.plan([1]).by_layer}
    chosen = chain_problem(scores)
    assert chosen.plan([1, 0]).biases == frozenset()
    assert chosen.plan([0, 1]) == UpdatePlan((), chosen.plan([1, 1]).biases)


def test_the_gain_of_a_layer_is_its_better_axis_and_its_bias():
    problem = chain_problem(
        {("output", 0): 1.0, ("input", 0): 2.0, ("bias", 0): 5.0, ("bias", 2): 7.0}
    )
    first, _, last = problem.graph.layers
    assert problem.importance.layer_gains == {first: max(4 * 1.0, 3 * 2.0) + 5.0, last: 7.0}


def test_greedy_ranks_a_bias_as_a_layer_of_its_own():
    scores = {("output", 0): 1.0, ("output", 1): 9.0, ("bias", 0): 1e-3, ("bias", 1): 1e-3}
    problem = chain_problem(scores)
    graph = problem.graph
    first, second, _ = graph.layers
    sizes = [4 * 3 * 9 + 4, 6 * 4 * 9 + 6]
    macs = [4 * 3 * 9 * 16, 6 * 4 * 9 * 16]
    ranks = tinytrain_scores(problem.importance, graph, "bias")
    assert ranks == {
        first: pytest.approx(1e-3 / ((4 / max(sizes)) * (4 * 16 / max(macs)))),
        second: pytest.approx(1e-3 / ((6 / max(sizes)) * (6 * 16 / max(macs)))),
    }
    weights = tinytrain_scores(problem.importance, graph)
    assert weights[first] == pytest.approx(4 / ((sizes[0] / sizes[1]) * (macs[0] / macs[1])))
    # The order is the second layer's channels, the first one's, its bias, the second's bias.
    assert weights[second] > weights[first] > ranks[first] > ranks[second]
    expected = UpdatePlan(
        (
            ChannelSubset(second, "output", tuple(range(6))),
            ChannelSubset(first, "output", tuple(range(4))),
        ),
        frozenset({first}),
    )
    memory = compiled(problem, expected).memory.paper_bytes
    tight = problem.within(Budget(memory_bytes=memory, accounting="paper"))
    assert solve(tight, Greedy()).plan == expected

"""The evolutionary search and the published schemes: in the budgets, repeatable, near the best."""

from dataclasses import replace

import numpy as np
import pytest
from costsim.solvers import make_solver
from costsim.solvers.brute_force import BruteForce
from costsim.solvers.evolutionary import Evolutionary, _Search
from costsim.solvers.static_scheme import SparseUpdate
from hypothesis import assume, given, settings
from problems import problems

from costsim.ir.step import TrainingStep
from costsim.models.networks import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.accounting.sparse_update import SCHEMES, scheme_plan
from costsim.pricing.accounting.tiny_training import tiny_training_bytes
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance, inspected_layers
from costsim.problem.problem import Problem
from costsim.problem.solution import Status
from costsim.solving.solve import solve

EXACT = BruteForce(most=20_000)
QUICK = Evolutionary(generations=15, population=32, parents=8)
NETWORKS_WITH_SCHEMES = tuple(dict.fromkeys(scheme.network for scheme in SCHEMES))


def drawn_importance(graph, last=None, axes=("output", "input"), seed=0):
    """Scores of the last layers that differ in scale from layer to layer."""
    random = np.random.default_rng(seed).random
    return Importance(
        "drawn",
        tuple(
            ChannelScores(name, axis, tuple((random() * random(count)).tolist()))
            for name in inspected_layers(graph, last)
            for axis in axes
            if (count := graph.selectable_channels(name, axis))
        ),
    )


@pytest.fixture(scope="module")
def mcunet():
    graph = architecture_graph("mcunet-5fps")
    budget = Budget(memory_bytes=1_000_000, macs=5_000_000)
    return Problem(graph, TrainingStep(), drawn_importance(graph, 18), budget)


@settings(max_examples=30)
@given(problems())
def test_small_problems_are_solved_nearly_and_always_within_the_budgets(problem):
    assume(np.prod([c.size + 1.0 for c in problem.candidates]) <= EXACT.most)
    oracle, found = solve(problem, EXACT), solve(problem, QUICK)
    assert (found.plan is None) == (oracle.plan is None)
    if found.plan is not None:
        assert not problem.exceeded(found.plan)
        assert found.status == Status.FEASIBLE
        assert found.bound is None
        assert found.objective >= 0.9 * oracle.objective


@settings(max_examples=40)
@given(problems())
def test_whatever_is_settled_is_within_the_budgets(problem):
    search = _Search(QUICK, problem)
    wild = (search.random((16, len(search.sizes))) * (search.sizes + 1)).astype(np.int64)
    settled = search.settle(wild)
    assert (settled <= search.sizes).all()
    assert not ((wild == 0) & (settled > 0)).any()
    if problem.fits(np.zeros_like(wild[:1]))[0]:
        assert problem.fits(settled).all()


def test_the_gap_is_small_on_a_real_network(mcunet):
    best = solve(mcunet, make_solver("exact", time_limit_s=20))
    assert best.status == Status.OPTIMAL
    found = solve(mcunet, QUICK)
    assert 0.9 * best.objective <= found.objective <= best.objective * (1 + 1e-9)
    assert found.objective > solve(mcunet, make_solver("greedy")).objective


def test_same_seed_same_plan_and_another_seed_another_search(mcunet):
    few = replace(QUICK, generations=2)
    first, again = solve(mcunet, few), solve(mcunet, few)
    assert first.plan == again.plan
    other = Problem(mcunet.graph, mcunet.step, mcunet.importance, mcunet.budget, seed=1)
    assert solve(other, few).plan != first.plan


def test_more_generations_are_never_worse(mcunet):
    found = [solve(mcunet, replace(QUICK, generations=n)).objective for n in (0, 3, 10)]
    assert found == sorted(found)


def test_a_time_limit_ends_the_search_with_its_best_plan(mcunet):
    found = solve(mcunet, make_solver("evolutionary", time_limit_s=0.0))
    assert found.status == Status.TIME_LIMIT
    assert found.plan is not None


def test_no_budget_at_all_takes_everything(mcunet):
    free = Problem(
        mcunet.graph, mcunet.step, drawn_importance(mcunet.graph, 6, ("output",)), Budget()
    )
    best = sum(c.cumulative[-1] for c in free.candidates)
    assert solve(free, QUICK).objective == pytest.approx(best)


# The published schemes.


@pytest.mark.parametrize("network", NETWORKS_WITH_SCHEMES)
@pytest.mark.parametrize("mix", [True, False])
def test_the_largest_scheme_that_fits_is_chosen(network, mix):
    architecture = NETWORKS[network] if mix else NETWORKS[network].without_feature_mix()
    graph = architecture_graph(architecture)
    importance = drawn_importance(graph)
    sizes = {
        scheme.size_kb: tiny_training_bytes(graph, scheme_plan(graph, scheme))
        for scheme in SCHEMES
        if scheme.network == network
    }
    for size in sizes.values():
        for memory, allowed in (
            (size, [s for s in sizes.values() if s <= size]),
            (size - 1, [s for s in sizes.values() if s < size]),
        ):
            budget = Budget(memory_bytes=memory, accounting="tiny-training")
            found = solve(Problem(graph, TrainingStep(), importance, budget), SparseUpdate())
            if allowed:
                assert found.plan is not None
                assert tiny_training_bytes(graph, found.plan) == max(allowed)
                assert found.reason == ""
            else:
                assert found.status == Status.INFEASIBLE
                assert "the smallest scheme takes memory" in found.reason


def test_norms_choose_the_channels_and_scores_do_without_them():
    graph = architecture_graph("mcunet-5fps")
    importance = drawn_importance(graph)
    problem = Problem(graph, TrainingStep(), importance, Budget())
    norms = {
        call.layer: [float(i) for i in range(graph.shapes(call).inputs[0][1])]
        for call in graph.calls
        if call.operator.kind == "convolution"
    }
    last = solve(problem, SparseUpdate(weight_norms=norms)).plan
    scored = solve(problem, make_solver("sparse-update")).plan
    for plan in (last, scored):
        assert plan is not None
        assert {s.layer for s in plan.subsets} == {s.layer for s in last.subsets}
    for subset in last.subsets:
        size = graph.selectable_channels(subset.layer, subset.axis)
        assert sorted(subset.channels) == list(range(size - len(subset.channels), size))
    for subset in scored.subsets:
        scores = importance.scores(subset.layer, subset.axis)
        left = np.delete(scores, list(subset.channels))
        assert not len(left) or scores[list(subset.channels)].min() >= left.max()


def test_what_was_not_scored_is_said():
    graph = architecture_graph("mcunet-5fps")
    problem = Problem(graph, TrainingStep(), drawn_importance(graph, 18, ("output",)), Budget())
    found = solve(problem, SparseUpdate())
    assert found.plan is not None
    assert "of its 6 layers were not scored" in found.reason


def test_a_network_without_schemes_is_told_which_have_some():
    graph = architecture_graph("mcunet-320kb-1mb")
    problem = Problem(graph, TrainingStep(), drawn_importance(graph, 3), Budget())
    found = solve(problem, SparseUpdate())
    assert found.status == Status.INFEASIBLE
    assert all(name in found.reason for name in NETWORKS_WITH_SCHEMES)

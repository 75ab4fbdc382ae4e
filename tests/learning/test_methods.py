"""Every method of the paper: what it trains, what it costs, and what it must not look at."""

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from adapting import network_situation, place, small_situation
from costsim.solvers.evolutionary import Evolutionary
from costsim.solvers.exact import Exact
from costsim.solvers.greedy import Greedy
from costsim.solvers.static_scheme import published
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from costsim.base.errors import InputError
from costsim.data import FixedEpisode, digits, sample_episode
from costsim.ir.operators import UpdateKind
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program.adaptation import Phase
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.learning.adaptation.cost import method_cost
from costsim.learning.adaptation.guard.base import NoGuard
from costsim.learning.adaptation.method import Method, NothingFits
from costsim.learning.adaptation.one_task import adapt
from costsim.learning.adaptation.situation import Situation
from costsim.learning.adaptation.source import source_situations
from costsim.learning.methods import METHODS, make_method
from costsim.learning.methods.bias_only import BiasOnly
from costsim.learning.methods.correlation import (
    FixedPlan,
    designed_trials,
    gain_by_target,
    importances_of,
    predicted_gain,
    random_trials,
    spearman,
)
from costsim.learning.methods.gain_train import GainTrain
from costsim.learning.methods.last_layer import LastLayer
from costsim.learning.methods.sparse_update import SearchedScheme, SparseUpdate
from costsim.learning.methods.static import static_importance
from costsim.learning.methods.tinytl import TinyTL, lite_plan
from costsim.learning.methods.tinytrain import TinyTrain
from costsim.learning.methods.transductive import Transductive
from costsim.learning.training.backbone import load_backbone
from costsim.pricing.accounting.sparse_update import input_channel_norms, scheme_plan
from costsim.problem.budget import Budget
from costsim.problem.importance import ChannelScores, Importance, inspected_layers
from costsim.problem.problem import Problem
from costsim.problem.solution import Answer, Status
from costsim.run.criteria.step_gain import StepGain
from costsim.solving.solve import solve_uninterrupted

PAPER = (
    "None", "FullTrain", "LastLayer", "TinyTL", "AdapterDrop-25%", "AdapterDrop-50%",
    "AdapterDrop-75%", "Transductive", "SparseUpdate", "TinyTrain",
)  # fmt: skip


@pytest.fixture(scope="module")
def situation() -> Situation:
    return network_situation()


def plan_of(situation: Situation, method: Method) -> UpdatePlan:
    with_modules = situation.on(method.backbone(situation.backbone))
    return method.choose(with_modules).plan


def test_the_registry_has_the_papers_methods_by_name() -> None:
    assert set(PAPER) <= set(METHODS)
    for name, method in METHODS.items():
        assert method.name == name or name == "BiasOnly"
        assert make_method(name.upper()) == method
        assert method.learning_rate >= 0
    with pytest.raises(InputError, match="method 'Magic' is unknown; known are None; FullTrain"):
        make_method("Magic")


TRACED_LONG = ("AdapterDrop-25%", "AdapterDrop-50%")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in TRACED_LONG else ()) for name in METHODS],
)
def test_every_method_runs_and_is_priced_in_every_accounting(
    situation: Situation, name: str
) -> None:
    before = {k: t.clone() for k, t in situation.backbone.tensors.items()}
    method = make_method(name)
    adapted = adapt(situation, method.informed([situation]) if method.needs_source else method)
    assert len(adapted.losses) == (0 if name == "None" else 2)
    assert len(adapted.predictions) == len(situation.task.query_labels)
    memory, plan = adapted.cost.step.memory, adapted.choice.plan
    trains = bool(plan.subsets or plan.biases)
    assert trains == (name != "None")
    assert memory.arena_bytes >= memory.peak_bytes > 0
    assert bool(memory.paper_bytes) == trains
    assert memory.tiny_training_bytes > 0
    assert adapted.cost.autograd_bytes >= memory.paper_bytes - memory.optimizer_bytes
    assert bool(adapted.cost.step.macs.backward) == trains
    document = adapted.to_json()
    assert document["method"] == name or name == "BiasOnly"
    assert document["predicted"]["adaptation"] is None or trains
    for key, tensor in situation.backbone.tensors.items():
        assert torch.equal(tensor, before[key])


# One after the other.


def test_full_train_and_last_layer(situation: Situation) -> None:
    graph = situation.graph
    assert plan_of(situation, make_method("FullTrain")) == UpdatePlan.full(graph)
    plan = plan_of(situation, LastLayer())
    (subset,) = plan.subsets
    assert subset.layer == [*graph.layers][-1] == "blocks.13.project"
    assert len(subset.channels) == 160
    assert plan.biases == {subset.layer}


def test_bias_only(situation: Situation) -> None:
    layers = [*situation.graph.layers]
    assert plan_of(situation, BiasOnly(last=None)) == UpdatePlan((), frozenset(layers))
    assert plan_of(situation, BiasOnly(last=5)) == UpdatePlan((), frozenset(layers[-5:]))


def test_lite_modules_add_nothing_at_first(situation: Situation) -> None:
    for dropped in (0.0, 0.5):
        method = TinyTL(dropped=dropped)
        backbone = method.backbone(situation.backbone)
        assert backbone is method.backbone(situation.backbone)  # made once
        assert backbone is not situation.backbone
        torch.testing.assert_close(
            backbone.features(situation.images), situation.backbone.features(situation.images)
        )
        for name, tensor in situation.backbone.tensors.items():
            other = backbone.tensors[f"base.{name}"]
            assert torch.equal(other, tensor)
            assert other.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize(("dropped", "first"), [(0.0, 0), (0.25, 4), (0.5, 7), (0.75, 11)])
def test_tinytl_trains_modules_and_biases_and_no_weight(
    situation: Situation, dropped: float, first: int
) -> None:
    """`first` of 14 blocks have no module, and nothing before it is trained."""
    method = TinyTL(dropped=dropped)
    plan = plan_of(situation, method)
    graph = method.backbone(situation.backbone).graph(1)
    blocks = {int(layer.split(".")[1]) for layer in plan.by_layer}
    assert all(layer.startswith("lite.") for layer in plan.by_layer)
    assert blocks == set(range(first, 14))
    assert len(plan.subsets) == 2 * len(blocks)
    for subset in plan.subsets:
        assert len(subset.channels) == graph.selectable_channels(subset.layer, "output")
    biases = {name for name in plan.biases if name.startswith("base.blocks")}
    assert {int(name.split(".")[2]) for name in biases} == set(range(first, 14))
    assert ("base.stem" in plan.biases) == (first == 0)
    assert plan == lite_plan(graph, first)


def test_dropping_more_modules_costs_less(situation: Situation) -> None:
    costs = []
    for dropped in (0.0, 0.25, 0.5, 0.75):
        method = TinyTL(dropped=dropped)
        one = situation.on(method.backbone(situation.backbone))
        costs.append(method_cost(one, method.choose(one)))
    for more, less in pairwise(costs):
        assert less.step.macs.backward < more.step.macs.backward
        assert less.step.memory.paper_bytes < more.step.memory.paper_bytes
        faster, slower = less.adaptation.uncached, more.adaptation.uncached
        assert faster.latency_s.value < slower.latency_s.value
    # what the modules add to a forward pass is priced too
    plain = method_cost(situation, LastLayer().choose(situation))
    assert costs[-1].step.macs.forward > plain.step.macs.forward


def test_lite_modules_learn(situation: Situation) -> None:
    settings = replace(situation.recipe, iterations=8, augment=False)
    longer = Situation(situation.backbone, situation.task, situation.place, settings)
    adapted = adapt(longer, TinyTL(dropped=0.75))
    assert adapted.losses[-1] < adapted.losses[0]


def test_tinytl_needs_to_know_the_blocks() -> None:
    with pytest.raises(InputError, match="TinyTL: small is no built-in network"):
        adapt(small_situation(), TinyTL())
    with pytest.raises(InputError, match="dropped is 1; allowed is 0 to below 1"):
        TinyTL(dropped=1.0)


def test_transductive_looks_at_images_of_queries_and_not_at_labels(situation: Situation) -> None:
    """Other labels change nothing, other images do; the queries' passes are paid for."""
    task = situation.task
    first = adapt(situation, Transductive())
    permuted = replace(task, query_labels=task.query_labels[::-1].copy())
    other = Situation(situation.backbone, permuted, situation.place, situation.recipe)
    assert adapt(other, Transductive()).predictions == first.predictions
    dark = replace(task, query_images=task.query_images * np.float32(0.5))
    other = Situation(situation.backbone, dark, situation.place, situation.recipe)
    assert adapt(other, Transductive()).losses != first.losses
    n, m = len(task.labels), len(task.query_labels)
    full = adapt(situation, make_method("FullTrain"))
    assert first.cost.samples == n + m
    assert first.cost.step.macs.backward * n == full.cost.step.macs.backward * (n + m)


def test_sparse_update_takes_the_published_scheme(situation: Situation) -> None:
    graph, tensors = situation.graph, situation.backbone.tensors
    norms = input_channel_norms(graph, {k: t.numpy() for k, t in tensors.items()})
    schemes = {scheme.size_kb: scheme for scheme in published(graph)}
    assert plan_of(situation, SparseUpdate()) == scheme_plan(graph, schemes[148], norms)
    assert plan_of(situation, SparseUpdate(size_kb=49)) == scheme_plan(graph, schemes[49], norms)
    assert SparseUpdate(size_kb=49).name == "SparseUpdate-49kB"
    with pytest.raises(InputError, match="SparseUpdate-50kB: published for it are 148, 124, 99"):
        plan_of(situation, SparseUpdate(size_kb=50))
    with pytest.raises(InputError, match="no scheme was published for small"):
        plan_of(small_situation(), SparseUpdate())


def test_sparse_update_within_budgets(situation: Situation) -> None:
    """The first published scheme, from the largest on, whose MACs are no more than allowed."""
    sizes = [scheme.size_kb for scheme in published(situation.graph)]
    macs = {
        size: method_cost(situation, SparseUpdate(size_kb=size).choose(situation)).step.macs
        for size in sizes
    }
    method = SparseUpdate(within_budgets=True)
    for limit in sorted(macs.values(), key=lambda cost: cost.backward):
        allowed = place(memory_bytes=10**9, macs=limit.backward)
        tight = Situation(situation.backbone, situation.task, allowed, situation.recipe)
        fitting = next(size for size in sizes if macs[size].backward <= limit.backward)
        wanted = SparseUpdate(size_kb=fitting).choose(situation).plan
        assert method.choose(tight).plan == wanted
    allowed = place(memory_bytes=10**9, macs=min(m.backward for m in macs.values()) - 1)
    tight = Situation(situation.backbone, situation.task, allowed, situation.recipe)
    with pytest.raises(NothingFits, match="no published scheme is within the budgets"):
        method.choose(tight)


def test_a_searched_scheme_is_the_same_for_every_task(situation: Situation) -> None:
    source = [network_situation(seed=seed) for seed in (5, 6)]
    importance = static_importance(source)
    assert "mean over 2 tasks" in importance.source
    assert sum(sum(one.scores) for one in importance.channels) == pytest.approx(1)
    method = SearchedScheme(importance=importance)
    plans = {plan_of(network_situation(seed=seed), method) for seed in (0, 1)}
    assert len(plans) == 1
    informed = SearchedScheme().informed(iter(source))
    assert (SearchedScheme().needs_source, informed.needs_source) == (True, False)
    assert informed == method
    with pytest.raises(InputError, match="needs scores of tasks of another domain"):
        plan_of(situation, SearchedScheme())
    with pytest.raises(InputError, match="there are none"):
        static_importance([])


@dataclass(frozen=True)
class Counted:
    """A solver that keeps a list of the problems it was asked."""

    name = "counted"
    asked: list[Problem] = field(default_factory=list, compare=False)

    def __call__(self, problem: Problem) -> Answer:
        self.asked.append(problem)
        return Evolutionary(generations=3)(problem)


def test_a_scheme_is_searched_once_and_before_the_clock_of_a_task(situation: Situation) -> None:
    """Whatever the number of images: the budgets are in memory and a share of the MACs."""
    solver = Counted()
    importance = static_importance([network_situation(seed=5)])
    method = SearchedScheme(importance=importance, solver=solver)
    plans = set()
    for shots in (1, 3, 4):
        task = sample_episode(digits(), FixedEpisode(3, shots, 2), seed=shots, resolution=32)
        here = Situation(situation.backbone, task, place(), Recipe(iterations=1, seed=shots))
        method.prepare(here)
        assert len(solver.asked) == 1
        choice = method.choose(here)
        assert not choice.scored
        assert method_cost(here, choice).step.macs.backward <= here.budget.macs
        plans.add(choice.plan)
    assert len(solver.asked) == len(plans) == 1
    other = Situation(situation.backbone, task, place(memory_bytes=2**18), here.recipe)
    assert method.choose(other).plan not in plans
    assert len(solver.asked) == 2


def test_a_scheme_is_searched_for_the_task_where_its_limits_are_no_shares(
    situation: Situation,
) -> None:
    solver = Counted()
    method = SearchedScheme(importance=static_importance([situation]), solver=solver)
    tight = Situation(
        situation.backbone, situation.task, place(macs=situation.budget.macs), situation.recipe
    )
    choice = method.choose(tight)
    assert [problem.step.batch for problem in solver.asked] == [2, situation.samples]
    assert method_cost(tight, choice).step.macs.backward <= situation.budget.macs
    method.choose(tight)
    assert len(solver.asked) == 2


@pytest.mark.parametrize("criterion", ["fisher", "l2_norm", "random", StepGain(0.01)])
@pytest.mark.parametrize("solver", [Greedy(), Exact()])
def test_tinytrain_stays_within_the_budgets(situation: Situation, criterion, solver) -> None:
    method = TinyTrain(criterion=criterion, solver=solver)
    choice = method.choose(situation)
    cost = method_cost(situation, choice)
    assert cost.step.memory.peak_bytes <= situation.budget.memory_bytes
    assert cost.step.macs.backward <= situation.budget.macs
    assert set(choice.plan.by_layer) <= set(inspected_layers(situation.graph))
    assert choice.solution.cost.memory == cost.step.memory
    assert bool(choice.scored) == (method.criterion_name not in ("l2_norm", "random"))


def test_the_exact_solver_is_never_worse(situation: Situation) -> None:
    greedy, exact = (TinyTrain(solver=one).choose(situation) for one in (Greedy(), Exact()))
    assert exact.problem.gain(greedy.plan) <= exact.solution.objective * (1 + 1e-9)


def test_gain_train_is_the_proven_best_by_its_criterion_and_shrunk(situation: Situation) -> None:
    method = make_method("GainTrain")
    choice = method.choose(situation)
    assert choice.solution.status is Status.OPTIMAL
    layers = inspected_layers(situation.graph)
    assert choice.importance == situation.score("step_gain", layers)
    assert choice.plan == TinyTrain(solver=Exact(), criterion="step_gain").choose(situation).plan
    cost = method_cost(situation, choice).step
    assert cost.memory.peak_bytes <= situation.budget.memory_bytes
    assert cost.macs.backward <= situation.budget.macs
    adapted = adapt(situation, method)
    assert (adapted.kept, adapted.learning_rate) == (0.75, 0.003)
    assert adapt(situation, method, guard=NoGuard()).kept == 1
    assert GainTrain(solver=Greedy(), axes=("output", "bias")).name == "GainTrain (greedy, biases)"


def test_choosing_biases_too_is_never_worse(situation: Situation) -> None:
    """By the score that both go by, and within the same budgets."""
    channels = make_method("TinyTrain (exact)").choose(situation)
    both = make_method("TinyTrain (exact, biases)").choose(situation)
    assert both.plan.biases
    assert {entry.axis for entry in both.importance.channels} == {"output", "bias"}
    assert both.scored == channels.scored
    cost = method_cost(situation, both).step
    assert cost.memory.peak_bytes <= situation.budget.memory_bytes
    assert cost.macs.backward <= situation.budget.macs
    assert both.solution.objective >= channels.solution.objective * (1 - 1e-9)
    assert both.problem.gain(channels.plan) == pytest.approx(channels.solution.objective)


def test_a_problem_posed_again_is_the_same_problem() -> None:
    """What is shared between tasks changes no answer."""
    first, second = network_situation(seed=0), network_situation(seed=1)
    second.backbone = first.backbone
    alone = network_situation(seed=1)
    for method in (TinyTrain(), TinyTrain(solver=Exact(), axes=("output", "input"))):
        method.choose(first)
        found, wanted = method.choose(second), method.choose(alone)
        assert found.plan == wanted.plan
        assert found.problem.table.orders == wanted.problem.table.orders
        assert found.problem.exclusive == wanted.problem.exclusive
        assert found.problem.plan_usage(found.plan) == wanted.problem.plan_usage(wanted.plan)


@pytest.mark.parametrize(
    ("with_bias", "limit"),
    [
        (True, {}),
        (False, {"latency_s": 1.0}),
        pytest.param(False, {}, marks=pytest.mark.slow),
        pytest.param(True, {"latency_s": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_a_problem_of_any_number_of_images_is_as_if_posed_for_it_alone(
    limit: dict[str, float], with_bias: bool
) -> None:
    """The cost table is shared where it can be; answers are the same to the bit."""
    backbone = load_backbone("mcunet-5fps", resolution=32)
    for shots in (4, 1, 3):
        task = sample_episode(digits(), FixedEpisode(4, shots, 2), seed=shots, resolution=32)
        here = Situation(backbone, task, place(**limit), Recipe())
        importance = here.score("fisher", inspected_layers(here.graph))
        found = here.problem(importance, with_bias=with_bias)
        target = here.place.target
        alone = Problem(
            here.graph, here.step, importance, here.budget, with_bias=with_bias, timer=target,
            compute_w=target.power.compute.value,
        )  # fmt: skip
        assert (found.step, found.budget) == (alone.step, alone.budget)
        assert found.table.orders == alone.table.orders
        for solver in (Greedy(), Exact()):
            one, other = (solve_uninterrupted(p, solver) for p in (found, alone))
            assert one.plan == other.plan
            assert (one.objective, one.bound, one.cost) == (
                other.objective,
                other.bound,
                other.cost,
            )
            assert found.plan_usage(one.plan) == alone.plan_usage(one.plan)
    posed = [key for key in backbone._derived if isinstance(key, tuple)]
    assert len(posed) == (1 if not limit else 3)


def test_steps_that_share_no_table_are_refused(situation: Situation) -> None:
    importance = situation.score("l2_norm", inspected_layers(situation.graph, 3))
    problem = situation.problem(importance)
    few = TrainingStep(batch=2, micro_batch=1, optimizer="adam")
    assert problem.of_step(few, Budget()).step == few
    with pytest.raises(InputError, match="more than their number of passes"):
        problem.of_step(replace(few, optimizer="sgd"), Budget())
    with pytest.raises(InputError, match="several passes"):
        problem.of_step(TrainingStep(batch=1, micro_batch=1, optimizer="adam"), Budget())


def test_static_channels_are_the_same_for_every_task() -> None:
    first, second = network_situation(seed=0), network_situation(seed=1)
    importance = static_importance([network_situation(seed=9)])
    static = TinyTrain(importance=importance)
    assert static.name == "TinyTrain (static)"
    assert plan_of(first, static) == plan_of(second, static)
    assert plan_of(first, TinyTrain()) != plan_of(second, TinyTrain())
    assert static.choose(first).scored == ()  # nothing is scored on the device
    named = make_method("TinyTrain (static)")
    assert named.needs_source
    with pytest.raises(InputError, match="needs scores of tasks of another domain"):
        named.choose(first)
    informed = named.informed([network_situation(seed=9)])
    assert isinstance(informed, TinyTrain)
    assert (informed.needs_source, informed.importance) == (False, importance)
    assert plan_of(first, informed) == plan_of(first, static)


def test_source_tasks_are_drawn_by_the_rule_whatever_the_users_seed(situation: Situation) -> None:
    rule = FixedEpisode(3, 2, 1)
    given = (situation.backbone, digits(), rule, place())
    found = list(source_situations(*given, Recipe(seed=1), tasks=3))
    again = list(source_situations(*given, Recipe(seed=2), tasks=2))
    assert [one.task.paths for one in again] == [one.task.paths for one in found[:2]]
    assert len({one.task.paths for one in found}) == 3
    assert all(one.task.shots_by_class == (2, 2, 2) for one in found)
    with pytest.raises(InputError, match="source tasks: 0; at least 1"):
        next(source_situations(*given, Recipe(), tasks=0))


def test_names_say_what_is_not_as_in_the_paper() -> None:
    assert TinyTrain().name == "TinyTrain"
    method = TinyTrain(solver=Exact(), criterion="l2_norm", with_bias=True)
    assert method.name == "TinyTrain (exact, l2_norm, with bias)"
    scores = Importance("given", (ChannelScores("conv", "bias", (1.0,)),))
    assert TinyTrain(importance=scores).name == "TinyTrain (static, biases)"


def test_scores_from_a_cut_on_are_those_of_the_whole() -> None:
    """What comes before the inspected layers is not computed twice, and changes no score."""
    from costsim.run.criteria import CRITERIA
    from costsim.run.criteria.loss import PrototypeLoss

    situation = small_situation()
    layers = inspected_layers(situation.graph, 3)
    for criterion in ("fisher", "first_order", "step_gain"):
        found = situation.score(criterion, layers)
        whole = CRITERIA[criterion].score(
            situation.backbone.graph(1),
            situation.backbone.tensors,
            situation.images,
            situation.labels,
            layers=layers,
            loss=PrototypeLoss(situation.recipe.temperature),
        )
        for layer in layers:
            np.testing.assert_allclose(found.scores(layer), whole.scores(layer), rtol=1e-9)


# Which criterion predicts what.


def test_random_plans_fill_the_budgets_and_differ(situation: Situation) -> None:
    trials = random_trials(situation, 6, seed=3, inspect=12)
    assert [t.plan for t in trials] == [
        t.plan for t in random_trials(situation, 6, seed=3, inspect=12)
    ]
    assert len({t.plan for t in trials}) == 6
    for trial in trials:
        cost = method_cost(situation, FixedPlan(trial.plan).choose(situation)).step
        memory, macs = situation.budget.memory_bytes, situation.budget.macs
        assert cost.memory.peak_bytes <= memory
        assert cost.macs.backward <= macs


@pytest.mark.slow
def test_every_other_three_random_plans_may_have_biases(situation: Situation) -> None:
    trials = random_trials(situation, 7, seed=3, inspect=12, biases=True)
    assert [t.label.endswith("+biases") for t in trials] == [False] * 3 + [True] * 3 + [False]
    plain = random_trials(situation, 7, seed=3, inspect=12)
    for trial, other in zip(trials, plain, strict=True):
        if trial.label.endswith("+biases"):
            assert trial.plan.biases
        else:
            assert trial == other
        cost = method_cost(situation, FixedPlan(trial.plan).choose(situation)).step
        assert cost.memory.peak_bytes <= situation.budget.memory_bytes
        assert cost.macs.backward <= situation.budget.macs


def test_plans_with_biases_are_tried_beside_those_without(situation: Situation) -> None:
    from costsim.run.criteria.fisher import Fisher

    axes: tuple[UpdateKind, ...] = ("output", "bias")
    with_biases = importances_of(situation, {"a": Fisher()}, inspect=12, axes=axes)
    plain = importances_of(situation, {"a": Fisher()}, inspect=12)
    (alone,) = designed_trials(situation, plain)
    without, both = designed_trials(situation, with_biases)
    assert without == alone
    assert (both.label, bool(both.plan.biases)) == ("a +biases", True)
    gains = [predicted_gain(with_biases["a"], t.plan) for t in (without, both)]
    assert gains[1] >= gains[0] == pytest.approx(predicted_gain(plain["a"], alone.plan))


@pytest.mark.parametrize("axes", [("output",), ("output", "bias")])
def test_the_best_plan_by_a_criterion_has_its_greatest_gain(situation: Situation, axes) -> None:
    from costsim.run.criteria.first_order import FirstOrder
    from costsim.run.criteria.fisher import Fisher

    importances = importances_of(
        situation, {"a": Fisher(), "b": FirstOrder()}, inspect=12, axes=axes
    )
    plans = {trial.label: trial.plan for trial in designed_trials(situation, importances)}
    for name, importance in importances.items():
        gains = {label: predicted_gain(importance, plan) for label, plan in plans.items()}
        best = name if axes == ("output",) else f"{name} +biases"
        assert gains[best] == max(gains.values())


def test_a_criterion_is_priced_by_the_passes_it_takes(situation: Situation) -> None:
    def selection_s(criterion: str) -> float:
        choice = TinyTrain(criterion=criterion).choose(situation)
        priced = method_cost(situation, choice).adaptation
        assert priced is not None
        return priced.cost.seconds(Phase.SCORING).value

    fisher, gradient = selection_s("fisher"), selection_s("gradient_norm")
    assert selection_s("l2_norm") == 0 < fisher < gradient
    assert selection_s("first_order_adam") == gradient
    weights = gradient - fisher  # the gradients of the inspected layers' weights, once
    assert selection_s("step_gain") > 2 * fisher + weights  # and these layers once more


def test_names_tell_what_differs() -> None:
    assert GainTrain(with_bias=True, solver=Greedy()).name == "GainTrain (greedy, with bias)"
    assert TinyTrain(with_bias=True, solver=Exact()).name == "TinyTrain (exact, with bias)"


def test_a_predicted_gain_has_a_part_for_each_layer_and_axis(situation: Situation) -> None:
    from costsim.run.criteria.first_order import FirstOrder

    axes: tuple[UpdateKind, ...] = ("output", "bias")
    scores = importances_of(situation, {"a": FirstOrder()}, inspect=4, axes=axes)["a"]
    first, second = inspected_layers(situation.graph, 4)[:2]
    (unscored,) = set(inspected_layers(situation.graph, 5)) - set(
        inspected_layers(situation.graph, 4)
    )
    plan = UpdatePlan(
        (
            ChannelSubset(first, "output", (0, 2)),
            ChannelSubset(second, "output", (1,)),
            ChannelSubset(unscored, "output", (0,)),
        ),
        frozenset({second}),
    )
    parts = gain_by_target(scores, plan)
    by_hand = {(one.layer, one.axis): one.scores for one in scores.channels}
    assert parts == {
        f"{first} output": pytest.approx(by_hand[first, "output"][0] + by_hand[first, "output"][2]),
        f"{second} output": pytest.approx(by_hand[second, "output"][1]),
        f"{second} bias": pytest.approx(sum(by_hand[second, "bias"])),
    }
    assert sum(parts.values()) == pytest.approx(predicted_gain(scores, plan))
    assert predicted_gain(scores, plan) > 0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3)), min_size=3, max_size=20),
)
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[int, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_the_step_of_the_device_is_one_image_at_a_time(situation: Situation) -> None:
    assert situation.step == TrainingStep(batch=8, micro_batch=1, optimizer="adam")
    assert re.fullmatch("mcunet-5fps", situation.backbone.name)

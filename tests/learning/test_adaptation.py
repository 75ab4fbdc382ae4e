"""Adapting to a task: against a plain PyTorch loop, and what must not change the outcome."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from adapting import (
    SIDE,
    network_situation,
    place,
    small_backbone,
    small_module,
    small_situation,
    small_task,
)
from by_default import by_default
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.data import FixedEpisode, MetaDatasetEpisode, digits, open_images, sample_episode
from costsim.ir.cuts import between, cuts, last_frozen_cut
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program import compile_program
from costsim.ir.program.adaptation import Phase
from costsim.ir.recipe import Recipe
from costsim.learning.adaptation.cost import method_cost
from costsim.learning.adaptation.guard import make_guard
from costsim.learning.adaptation.guard.base import NoGuard
from costsim.learning.adaptation.guard.cross_validation import CrossValidation, divide
from costsim.learning.adaptation.guard.leave_one_out import LeaveOneOut, leave_one_out_similarity
from costsim.learning.adaptation.guard.likelihood import Judged, log_likelihoods
from costsim.learning.adaptation.guard.shrinkage import Shrinkage
from costsim.learning.adaptation.loop import train
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.one_task import adapt
from costsim.learning.adaptation.situation import Situation
from costsim.learning.methods import make_method
from costsim.learning.training import apply_patch, read_patch, remove_patch
from costsim.learning.training import backbone as backbone_module
from costsim.learning.training.backbone import load_backbone
from costsim.learning.training.showings import showings
from costsim.models.networks.graph import architecture_graph
from costsim.pricing.cost import price
from costsim.run.execution.forward import evaluate
from costsim.solving.planfile import read_plan

PLAN = UpdatePlan(
    (
        ChannelSubset("3.expand", "output", (0, 3, 7, 11)),
        ChannelSubset("3.project", "input", (2, 5)),
        ChannelSubset("4", "output", tuple(range(12))),
    ),
    frozenset({"3.depthwise", "4"}),
)
"""Of the small network: the last residual block and what follows it."""


class Fixed(Method):
    """A plan that was given."""

    learning_rate = 0.002

    def __init__(self, plan: UpdatePlan = PLAN) -> None:
        self.plan = plan

    @property
    def name(self) -> str:
        return "fixed"

    def choose(self, situation: Situation) -> Choice:
        return Choice(self.plan)


def bits(tensors) -> dict[str, bytes]:
    return {name: t.detach().numpy().tobytes() for name, t in tensors.items()}


# What an iteration shows.


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 9), st.integers(1, 20),
)  # fmt: skip
def test_every_image_is_shown_once_in_its_interval_and_classes_evenly(labels, interval, iterations):
    known = torch.tensor(labels)
    recipe = Recipe(iterations=iterations, image_interval=interval)
    shown = showings(known, recipe)
    assert len(shown) == iterations
    every = min(interval, len(labels))
    for iteration, places in enumerate(shown):
        assert len(labels) // every <= len(places) <= recipe.images_a_step(len(labels))
        assert places.tolist() == sorted(set(places.tolist()))
        for label in set(labels):
            number, found = labels.count(label), int((known[places] == label).sum())
            assert number // every <= found <= -(-number // every)
        if (iteration + 1) % every == 0:
            cycle = torch.cat(shown[iteration + 1 - every : iteration + 1])
            assert sorted(cycle.tolist()) == list(range(len(labels)))


def test_which_images_come_together_changes_and_follows_from_the_seed():
    labels = torch.arange(4).repeat_interleave(5)
    recipe = Recipe(iterations=8, image_interval=2)
    shown = [tuple(places.tolist()) for places in showings(labels, recipe)]
    assert len(set(shown)) > 4
    assert shown == [tuple(places.tolist()) for places in showings(labels, recipe)]
    other = showings(labels, replace(recipe, seed=1))
    assert shown != [tuple(places.tolist()) for places in other]


# The loop.


def by_hand(situation: Situation, plan: UpdatePlan, rate: float, transductive: bool = False):
    """The same training by autograd and torch.optim, gradients masked to the plan."""
    module, settings = copy.deepcopy(situation.backbone.module), situation.recipe
    optimizer = torch.optim.Adam(module.parameters(), rate)
    losses = []
    for iteration, chosen in enumerate(showings(situation.labels, settings)):
        if iteration % settings.means_interval == 0:
            with torch.no_grad():
                features = module(situation.images)
                means = torch.stack(
                    [features[situation.labels == c].mean(0) for c in range(situation.task.ways)]
                )

        def logits(images, means=means):
            normal = functional.normalize
            return settings.temperature * normal(module(images)) @ normal(means).T

        shown = situation.copies_of(situation.picks[iteration][chosen], chosen)
        loss = functional.cross_entropy(logits(shown), situation.labels[chosen])
        if transductive:
            predicted = logits(situation.query_images).softmax(1)
            loss = loss - (predicted * predicted.log()).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in module.named_parameters():
            layer, _, kind = name.rpartition(".")
            mask = torch.zeros_like(parameter)
            subset = plan.by_layer.get(layer)
            if kind == "bias" and layer in plan.biases:
                mask.fill_(1)
            elif kind == "weight" and subset is not None:
                index = list(subset.channels)
                mask[index if subset.axis == "output" else (slice(None), index)] = 1
            parameter.grad.mul_(mask)
        optimizer.step()
        losses.append(loss.item())
    return dict(module.named_parameters()), losses


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("plan", [PLAN, None])
@pytest.mark.parametrize("size", [64, 5])  # all in one pass, and several with a part of one
@pytest.mark.parametrize("recipe", [{}, {"image_interval": 2, "means_interval": 3}])
def test_training_is_what_a_plain_loop_does(monkeypatch, transductive, plan, size, recipe):
    monkeypatch.setattr(backbone_module, "PASS", size)
    monkeypatch.setattr(backbone_module, "SIZE_STEP", 1)
    situation = small_situation(small_task(queries=3), **recipe)
    plan = plan or UpdatePlan.full(situation.graph)
    wanted, losses = by_hand(situation, plan, 0.01, transductive)
    before = {k: t.clone() for k, t in situation.backbone.tensors.items()}
    trained = train(situation, plan, 0.01, transductive=transductive)
    assert trained.losses == pytest.approx(losses, rel=1e-9)
    moved = 0
    for name, tensor in situation.backbone.tensors.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-7, atol=1e-9)
        moved += int((tensor != before[name]).sum())
    assert 0 < moved <= sum(part.numel() for part in trained.update.base.values())
    trained.update.restore()
    assert bits(situation.backbone.tensors) == bits(before)


@pytest.mark.parametrize("settings", [{}, {"augment": False}, {"copies": 0}])
def test_what_is_cached_changes_nothing(settings):
    found = []
    for cache in (0, 2**30):
        situation = small_situation(cache_bytes=cache, **settings)
        trained = train(situation, PLAN, 0.01)
        found.append((trained.losses, trained.update.read()))
        trained.update.restore()
        cut = last_frozen_cut(situation.backbone.graph(1), PLAN.by_layer)
        assert cut not in ("", situation.backbone.graph(1).input)
        pays = bool(cache) and settings.get("copies", 3) and settings.get("augment", True)
        assert (situation.values_at(cut)[1] is not None) >= bool(pays)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    for atom, part in found[0][1].items():
        torch.testing.assert_close(part, found[1][1][atom], rtol=1e-8, atol=1e-10)


def test_copies_are_shown_as_drawn():
    settings = Recipe(iterations=50, copies=4)
    situation = Situation(small_backbone(), small_task(), place(), settings)
    assert situation.picks.shape == (50, 12)
    assert set(situation.picks.unique().tolist()) == {0, 1, 2, 3}
    assert situation.amounts.shape == (4, 12, 5)
    fresh = Situation(small_backbone(), small_task(), place(), replace(settings, copies=0))
    assert fresh.amounts.shape[0] == 50
    assert torch.equal(fresh.picks[:, 0], torch.arange(50))  # each iteration new ones
    other = Situation(small_backbone(), small_task(), place(), replace(settings, seed=1))
    assert not torch.equal(other.amounts, situation.amounts)


def test_values_of_a_later_cut_come_from_an_earlier_one():
    first, second = small_situation(), small_situation()
    order = cuts(first.backbone.graph(1))
    first.values_at(order[2])
    for cut in order[3:6]:
        for one, other in zip(first.values_at(cut), second.values_at(cut), strict=True):
            torch.testing.assert_close(one, other)


# Cutting.


def graphs():
    yield "small", small_backbone().graph(2)
    for name in ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3"):
        yield name, architecture_graph(name, batch=2, resolution=64)


@pytest.mark.parametrize("graph", [pytest.param(graph, id=name) for name, graph in graphs()])
def test_cuts_are_the_dominators_of_the_output(graph):
    parents = nx.immediate_dominators(graph.digraph, graph.input)
    chain, at = [], graph.output
    while True:
        chain.append(at)
        if at == graph.input:
            break
        at = parents[at]
    assert list(cuts(graph)) == chain[::-1]


def test_two_parts_compute_what_the_whole_does():
    backbone = small_backbone()
    graph, x = backbone.graph(2), torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    whole, _ = evaluate(graph, backbone.tensors, x)
    for cut in cuts(graph):
        value, _ = evaluate(between(graph, graph.input, cut), backbone.tensors, x)
        rest = between(graph, cut)
        assert len(rest) == len([c for c in graph.calls if c.name == cut]) + len(
            nx.descendants(graph.digraph, cut)
        )
        output, _ = evaluate(rest, backbone.tensors, value)
        assert torch.equal(output, whole)


def test_the_frozen_part_ends_before_what_is_updated():
    graph = architecture_graph("mcunet-5fps", resolution=64)
    places = {call.name: index for index, call in enumerate(graph.calls)}
    order = cuts(graph)
    for layer in graph.layers:
        cut = last_frozen_cut(graph, [layer])
        first = places[graph.layers[layer].calls[0]]
        assert places[cut] < first or cut == graph.input
        assert all(places[later] >= first for later in order[order.index(cut) + 1 :])
    assert last_frozen_cut(graph, ["blocks.13.depthwise", "stem"]) == graph.input


# The whole.


def test_an_adaptation_is_repeatable_and_leaves_the_base_as_it_was():
    situation = small_situation()
    before = bits(situation.backbone.tensors)
    first, second = adapt(situation, Fixed()), adapt(small_situation(), Fixed())
    assert bits(situation.backbone.tensors) == before
    assert first.losses == second.losses
    assert first.predictions == second.predictions
    assert first.accuracy_before == situation.accuracy()
    assert len(first.predictions) == len(situation.task.query_labels)
    right = np.array(first.predictions) == situation.task.query_labels
    assert first.accuracy_after == pytest.approx(right.mean())
    assert (first.kept, first.diverged, first.guard) == (1.0, False, "none")
    longer = adapt(small_situation(iterations=30, augment=False), Fixed())
    assert longer.losses[-1] < longer.losses[0] / 2


def test_it_learns(shared: Path):
    """Far domains, real weights: up by points on the mean of a few tasks, each of few images."""
    weights = shared / "weights" / "mcunet-5fps.int8.pkl"
    backbone = load_backbone("mcunet-5fps", weights=weights, resolution=64)
    source = open_images(shared / "data" / "omniglot.tar.gz")
    gains = []
    for seed in range(2):
        task = sample_episode(source, FixedEpisode(10, 5, 10), seed=seed, resolution=64)
        situation = Situation(backbone, task, place(), Recipe(iterations=25))
        adapted = adapt(situation, make_method("tinytrain (exact)"))
        gains.append(adapted.accuracy_after - adapted.accuracy_before)
        assert adapted.cost.step.memory.peak_bytes <= situation.budget.memory_bytes
        assert adapted.cost.step.macs.backward <= situation.budget.macs
    assert np.mean(gains) > 0.02


def test_progress_is_told():
    told = []
    situation = small_situation()
    situation.progress = lambda *args: told.append(args)
    adapted = adapt(situation, Fixed())
    wanted = [(f"training: loss {x:.3f}", n, 5) for n, x in enumerate(adapted.losses, start=1)]
    assert told == wanted


def test_a_task_of_varying_shots():
    task = sample_episode(digits(), MetaDatasetEpisode(most_support=60), seed=0, resolution=SIDE)
    adapted = adapt(small_situation(task), Fixed())
    assert len(adapted.predictions) == len(task.query_labels) > 0


def test_a_training_that_diverges_is_undone():
    situation = small_situation(dtype=torch.float32)
    adapted = adapt(situation, Fixed(), learning_rate=1e30)
    assert adapted.diverged
    assert adapted.kept == 0
    assert adapted.accuracy_after == adapted.accuracy_before == situation.accuracy()
    assert len(adapted.losses) < 5


def test_an_empty_plan_trains_nothing():
    adapted = adapt(small_situation(), make_method("none"))
    assert adapted.losses == ()
    assert adapted.accuracy_after == adapted.accuracy_before
    assert adapted.cost.step.macs.backward == 0
    assert adapted.cost.adaptation is None


# What it costs.


def test_an_iteration_costs_what_its_program_says():
    situation = network_situation(side=32)
    plan = UpdatePlan(
        (ChannelSubset("blocks.12.expand", "output", (1, 2, 3)),), frozenset({"blocks.13.project"})
    )
    cost, n = method_cost(situation, Choice(plan)), situation.samples
    graph, step = situation.backbone.graph(1), situation.recipe.step(n)
    assert (step.batch, step.samples_a_pass, step.optimizer) == (n, 1, "adam")
    assert cost.step == price(compile_program(graph, plan, step), situation.place.device)
    alone = price(compile_program(graph, plan, situation.recipe.step(1)))
    assert cost.step.macs.backward == n * alone.macs.backward
    assert cost.backward_macs_a_sample == alone.macs.backward
    assert cost.step.memory.paper_bytes == alone.memory.paper_bytes
    latency = cost.step.on_device.latency_s
    whole = cost.adaptation.uncached
    assert whole.of(Phase.TRAINING).compute_s.value == pytest.approx(2 * latency.value)
    assert whole.of(Phase.SCORING) is None
    scored = method_cost(situation, Choice(plan, scored=("blocks.12.expand",)))
    assert scored.adaptation.cost.seconds(Phase.SCORING).value > 0
    doubled = method_cost(situation, Choice(plan), extra_training=1.0).adaptation.uncached
    training = whole.seconds(Phase.TRAINING).value
    assert doubled.seconds(Phase.TRAINING).value == pytest.approx(2 * training)
    times = {one.phase: one.times for one in doubled.phases}
    assert times[Phase.MEANS] == (2 * 2 + 1) * n
    assert cost.adaptation.recipe.cut is not None
    assert cost.adaptation.cost.latency_s.value < whole.latency_s.value


# Patches.


def test_the_outcome_as_a_patch(tmp_path):
    from costsim.learning.training import write_patch

    situation = network_situation()
    adapted = adapt(situation, make_method("lastlayer"), with_patch=True)
    write_patch(tmp_path / "patch", adapted.patch)
    patch = read_patch(tmp_path / "patch")
    base = bits(situation.backbone.tensors)
    apply_patch(patch, situation.backbone.tensors)
    assert bits(situation.backbone.tensors) != base
    assert tuple(situation.answers().predictions.tolist()) == adapted.predictions
    remove_patch(patch, situation.backbone.tensors)
    assert bits(situation.backbone.tensors) == base


def test_no_patch_without_an_origin():
    with pytest.raises(InputError, match="a patch is for a network that can be loaded again"):
        adapt(small_situation(), Fixed(), with_patch=True)


# Guards.


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(2, 5), st.integers(0, 99))
def test_folds_leave_something_to_learn_from(counts, folds, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    held = divide(labels, folds, seed)
    everyone = np.concatenate([*held, np.empty(0, int)])
    assert len(set(everyone.tolist())) == len(everyone)
    singles = {i for i, label in enumerate(labels) if counts[label] == 1}
    assert set(everyone.tolist()) == set(range(len(labels))) - singles
    for fold in held:
        assert set(labels[np.setdiff1d(np.arange(len(labels)), fold)]) == set(labels)


def test_leaving_one_out_by_hand():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    found = leave_one_out_similarity(features, labels)
    for i in range(9):
        for c in range(4):
            members = [j for j in range(9) if labels[j] == c and (j != i or c == 3)]
            mean = features[members].mean(0)
            wanted = functional.cosine_similarity(features[i], mean, dim=0)
            assert float(found[i, c]) == pytest.approx(float(wanted))


GUARDS = [
    LeaveOneOut(),
    CrossValidation(),
    CrossValidation(folds=3),
    CrossValidation(rate_factors=(1.0, 4.0)),
]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_cannot_see_the_queries(guard, monkeypatch):
    """Other query images and labels: the same share, the same weights."""
    task = small_task()
    rng = np.random.default_rng(0)
    strange = replace(
        task,
        query_images=rng.normal(size=task.query_images.shape).astype(np.float32),
        query_labels=rng.permutation(task.query_labels),
    )
    found = []
    for one in (task, strange):
        situation = small_situation(one)
        weights: list[bytes] = []
        answers = situation.answers

        def watched(situation=situation, weights=weights, answers=answers):
            weights.append(bits(situation.backbone.tensors))
            return answers()

        monkeypatch.setattr(situation, "answers", watched)
        found.append((adapt(situation, Fixed(), guard=guard).kept, weights))
    assert found[0] == found[1]
    assert len(found[0][1]) == 2  # before and after


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_what_a_guard_keeps_is_a_share_of_the_change(guard):
    """With shares of 0 alone nothing changes, with 1 alone all does, and between is between."""
    base = small_situation()
    whole = adapt(base, Fixed())
    for share in (0.0, 1.0):
        adapted = adapt(small_situation(), Fixed(), guard=replace(guard, shares=(share,)))
        assert adapted.kept == share
        trained = whole
        if adapted.learning_rate != whole.learning_rate:
            trained = adapt(small_situation(), Fixed(), learning_rate=adapted.learning_rate)
        assert adapted.losses == trained.losses
        wanted = trained.accuracy_after if share else whole.accuracy_before
        assert adapted.accuracy_after == wanted


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_shrinkage_leaves_that_share_of_the_change(share, monkeypatch):
    """Weights lie on the line from the base to the trained ones, without more training."""
    after = []
    for guard in (NoGuard(), Shrinkage(share)):
        situation = small_situation()
        asked: list[dict[str, torch.Tensor]] = []

        def answers(situation=situation, asked=asked):
            asked.append({name: t.clone() for name, t in situation.backbone.tensors.items()})
            return Situation.answers(situation)

        monkeypatch.setattr(situation, "answers", answers)
        after.append((adapt(situation, Fixed(), guard=guard), asked[-1]))
    (whole, trained), (shrunk, found) = after
    assert shrunk.losses == whole.losses
    assert (shrunk.kept, Shrinkage(share).extra_training) == (share, 0.0)
    moved = 0
    for name, start in small_situation().backbone.tensors.items():
        wanted = trained[name] if share == 1 else torch.lerp(start, trained[name], share)
        assert torch.equal(found[name], wanted)
        moved += int((trained[name] != start).sum())
    assert moved > 0


def test_cross_validation_turns_harm_away():
    """A rate at which training ruins what a random network can tell: held-out images say so."""
    harmed = adapt(small_situation(iterations=15), Fixed(), learning_rate=3.0)
    guarded = adapt(
        small_situation(iterations=15), Fixed(), learning_rate=3.0, guard=CrossValidation()
    )
    assert harmed.accuracy_after < harmed.accuracy_before
    assert guarded.kept < 1
    assert guarded.accuracy_after >= harmed.accuracy_after


def test_a_guard_turns_to_the_rate_at_which_held_out_images_do_best():
    """Of a rate that ruins and one that does nothing to speak of, the harmless one."""
    guard = CrossValidation(shares=(1.0,), rate_factors=(1.0, 3e6))
    found = adapt(small_situation(iterations=15), Fixed(), learning_rate=1e-6, guard=guard)
    assert found.learning_rate == 1e-6
    assert guard.extra_training == 2.0


def test_a_guard_does_not_mind_how_sharp_similarities_are():
    """Halved similarities, and no temperature to make up for it, would look like harm."""
    similarity = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    labels = torch.arange(40) % 5
    plain, halved = (log_likelihoods(part, labels) for part in (similarity, similarity / 2))
    assert plain[:-1] == pytest.approx(halved[1:])
    scores = Judged.of((0.0, 1.0), np.array([plain, halved]), 40).log_likelihoods
    assert scores[0] == pytest.approx(max(plain) / 40)


def test_a_guard_of_one_image_a_class_has_nothing_to_say():
    situation = small_situation(small_task(shots=1))
    for guard in GUARDS:
        assert adapt(situation, Fixed(), guard=guard).kept == 1


def test_guards_by_name():
    assert isinstance(make_guard("none"), NoGuard)
    assert make_guard("5-fold") == CrossValidation(folds=5)
    assert make_guard("shrink") == Shrinkage(0.75)
    with pytest.raises(
        InputError, match=r"guard 'luck' is unknown; known are none; shrink; leave-one-out"
    ):
        make_guard("luck")
    with pytest.raises(InputError, match="share is 0; allowed is above 0"):
        Shrinkage(0.0)
    with pytest.raises(InputError, match="folds is 1; at least 2"):
        CrossValidation(folds=1)
    with pytest.raises(InputError, match="rate factors are"):
        CrossValidation(rate_factors=(0.0,))


# What cannot be used.


def test_a_task_that_does_not_fit():
    with pytest.raises(InputError, match=r"images are \(3, 16, 16\); small takes \(3, 8, 8\)"):
        Situation(
            backbone_module.Backbone(small_module(), (3, 8, 8), name="small"),
            small_task(),
            place(),
        )
    with pytest.raises(InputError, match="at least 2 classes"):
        small_situation(small_task(ways=1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iterations": 0}, "iterations is 0; at least 1"),
        ({"copies": -1}, "copies is -1; at least 0"),
        ({"iterations": 10**14}, "iterations is 100000000000000; at most 1000000"),
        ({"copies": 10**9}, "copies is 1000000000; at most 10000"),
        ({"temperature": 0.0}, "temperature is 0; allowed is above 0"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"momentum": math.nan}, "momentum is nan; allowed is 0 to below 1"),
        ({"optimizer": "lion"}, "optimizer 'lion'; allowed are sgd, momentum, adam"),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(InputError, match=message):
        Recipe(**given)


def test_devices_of_torch_that_are_not_there():
    with pytest.raises(InputError, match="torch device 'meta-verse' cannot be used"):
        load_backbone("mcunet-5fps", resolution=32, device="meta-verse")


# The command.

STATIC = "SparseUpdate (search)"
SMALL = ["adapt", "--device", "jetson-nano", "--resolution", "32", "--iterations", "2"]
TASK = ["--ways", "3", "--shots", "2", "--queries", "3", "--copies", "2"]


def test_the_command_prints_a_table_and_writes_a_patch_and_a_plan(tmp_path, capsys):
    out, plan = tmp_path / "patch", tmp_path / "plan.json"
    given = [*SMALL, *TASK, "--out", str(out), "--plan-out", str(plan), "--guard", "2-fold"]
    assert main(given) == 0
    printed = capsys.readouterr()
    for text in (
        "TinyTrain",
        "accuracy before",
        "of 9 query images",
        "memory (paper)",
        "on jetson-nano",
        "guard (2-fold)",
    ):
        assert text in printed.out
    file = read_plan(plan)
    patch = read_patch(out)
    assert {change.layer for change in patch.changes} == set(file.plan.by_layer)
    assert (file.step.batch, file.step.samples_a_pass) == (6, 1)


def test_without_training_there_is_no_patch_and_a_note_says_so(tmp_path, capsys):
    out = tmp_path / "patch"
    assert main([*SMALL, *TASK, "--method", "none", "--out", str(out)]) == 0
    assert "None trains nothing: no patch to write to --out" in capsys.readouterr().err
    assert not out.exists()


def test_a_network_that_does_not_fit_on_the_device_is_told(capsys):
    assert main([*SMALL, *TASK, "--device", "stm32f746", "--method", "fulltrain"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "on stm32f746" in line)
    assert "does not fit: " in line


def test_an_untrained_network_is_called_that(capsys):
    given = ["--model", "mbv2-w0.35", "--method", "none"]
    assert main([*SMALL, *TASK, *given]) == 0
    assert "mbv2-w0.35 is initialised from seed 0 (no pretrained" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method", by_default(["sparseupdate (search)", "TinyTrain (static)"], ["TinyTrain (static)"])
)
def test_a_choice_by_tasks_of_other_images(method, capsys):
    """It does not hang on the task."""
    source = ["--method", method, "--source", "digits", "--source-tasks", "2", "--json"]
    plans = []
    for task in (TASK, [*TASK, "--seed", "1"]):
        assert main([*SMALL, *task, *source]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["method"].lower() == method.lower()
        plans.append(found["layers"])
    assert plans[0] == plans[1] != []


def test_digits_by_name_are_those_without_data(capsys):
    found = []
    for data in ([], ["--data", "digits"]):
        assert main([*SMALL, *TASK, *data, "--method", "none", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["task"])
    assert found[0] == found[1]


def test_json_of_a_meta_dataset_episode(capsys):
    episode = ["--episode", "meta-dataset", "--method", "lastlayer", "--queries", "2"]
    assert main([*SMALL, *episode, "--seed", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "costsim.adaptation/1"
    assert document["method"] == "LastLayer"
    assert len(set(document["task"]["shots"])) > 1
    assert set(document["task"]["queries"]) == {2}
    assert len(document["losses"]) == 2
    assert [layer["name"] for layer in document["layers"]] == ["blocks.13.project"]
    memory = document["predicted"]["step"]["memory"]
    assert {"peak_bytes", "paper_bytes", "tiny_training_bytes"} <= set(memory)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--method", "magic"], "method 'magic' is unknown; known are None; FullTrain"),
        (["--guard", "dog"], "guard 'dog' is unknown"),
        (["--data", "nowhere"], "nowhere: cannot be read"),
        (["--data", ""], "'' names no images; a path, or hub:NAME, is needed"),
        (["--data", "hub:"], "'hub:' names no images"),
        (["--split", "train"], "--split names a part of --data, which is missing"),
        (["--ways", "11"], "10 of its 10 classes have the 5 images that 2 shots and 3 queries"),
        (["--episode", "meta-dataset"], "--ways is drawn in a meta-dataset episode"),
        (["--model", "nothing"], "model 'nothing' is unknown"),
        (["--torch-device", "abacus"], "torch device 'abacus' cannot be used"),
        (["--learning-rate", "-1"], "learning rate is -1; allowed is 0 to 1e37"),
        (["--device", "toaster"], "toaster"),
        (["--target", "abacus"], "abacus"),
        (["--out", "no/where"], "the folder no does not exist"),
        (["--out", "/proc/1/patch"], "--out: no permission to write in /proc/1"),
        (["--out", "x", "--plan-out", "x"], "--plan-out: x is --out too"),
        (
            ["--method", "AdapterDrop-75%", "--out", "x"],
            "adds modules to the network, which no pat",
        ),
        (["--model", "torch.nn:Identity"], "Identity: has no weights, so that there is nothing"),
        (["--method", "transductive", "--guard", "2-fold"], "Transductive learns from the queries"),
        (["--method", "TinyTrain (static)"], "chooses by tasks of other images; give them as --so"),
        (["--source", "digits"], "--source is for methods that choose the same for all tasks"),
        (["--source-tasks", "2"], "--source-tasks is for methods that choose the same"),
        (["--method", STATIC, "--source", "nowhere"], "nowhere: cannot be read"),
        (["--method", STATIC, "--source", "digits", "--source-tasks", "0"], "--source-tasks is 0"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *TASK, *given]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_weights_of_another_architecture(shared, capsys):
    weights = shared / "weights" / "proxyless-w0.3.int8.pkl"
    assert main([*SMALL, *TASK, "--weights", str(weights)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "proxyless-w0.3.int8.pkl" in line


def test_a_damaged_archive(tmp_path, capsys):
    import tarfile

    path = tmp_path / "signs.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, "class/a.png")
    path.write_bytes(path.read_bytes()[:-20])
    assert main([*SMALL, *TASK, "--data", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: damaged or truncated" in line


def test_nothing_fits_is_a_no(capsys):
    assert main([*SMALL, *TASK, "--memory", "1KiB"]) == 1
    assert "no channel of any inspected layer fits" in capsys.readouterr().err


def test_divergence_is_a_no(capsys):
    assert main([*SMALL, *TASK, "--learning-rate", "1e30", "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["diverged"] is True
    assert "diverged at a learning rate of 1e+30" in printed.err


def test_plan_and_train_are_adapt(tmp_path, monkeypatch):
    """The same choice, the same iterations, the same bits: two commands or one."""
    monkeypatch.chdir(tmp_path)
    common = ["--device", "jetson-nano", "--resolution", "48", "--ways", "3", "--shots", "4"]
    common += ["--iterations", "3", "--inspect", "18"]
    assert main(["plan", *common, "--out", "plan.json"]) == 0
    assert main(["train", "plan.json", "--out", "trained"]) == 0
    del common[-2:]
    assert main(["adapt", *common, "--out", "adapted", "--plan-out", "adapt.json"]) == 0
    planned, adapted = read_plan(Path("plan.json")), read_plan(Path("adapt.json"))
    assert planned.plan == adapted.plan
    assert planned.step == adapted.step
    assert planned.recipe == replace(adapted.recipe, learning_rate=None)
    ours, theirs = read_patch(Path("trained")), read_patch(Path("adapted"))
    assert [change.parameter for change in ours.changes] == [c.parameter for c in theirs.changes]
    for one, other in zip(ours.changes, theirs.changes, strict=True):
        assert torch.equal(one.new, other.new)


def test_a_budget_of_the_whole_is_kept_as_plan_keeps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--device", "pi-zero-2", "--resolution", "48", "--ways", "3", "--shots", "4"]
    assert main(["plan", *common, "--out", "free.json"]) == 0
    free = read_plan(Path("free.json"))
    assert free.predicted.adaptation is not None
    half = ["--task-time", f"{free.predicted.adaptation.latency_s.value / 2}s"]
    assert main(["plan", *common, *half, "--out", "plan.json"]) == 0
    assert main(["adapt", *common, *half, "--plan-out", "adapt.json"]) == 0
    planned, adapted = read_plan(Path("plan.json")), read_plan(Path("adapt.json"))
    assert planned.plan == adapted.plan
    assert planned.recipe.image_interval == 2
    assert planned.recipe == replace(adapted.recipe, learning_rate=None)
    assert planned.step == adapted.step
    assert planned.task_budget == adapted.task_budget
    capsys.readouterr()
    assert main(["adapt", *common, *half, "--method", "FullTrain"]) == 2
    assert "looks at no budget of the whole" in capsys.readouterr().err
    assert main(["adapt", *common, "--task-time", "1s"]) == 1
    assert "time of the task 1 s is too little" in capsys.readouterr().err

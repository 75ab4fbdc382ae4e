"""Fine-tuning: what ordinary PyTorch would do, stopped and gone on at any step, and refused."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from signed import altered
from torch.nn import functional as F  # noqa: N812
from training import bits, small_plan, write_network

from costsim.base.errors import InputError
from costsim.ir.cuts import between
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.learning.training import (
    Diverged,
    Support,
    Trainer,
    TrainRequest,
    load_planned,
    load_subject,
    prepare,
    read_checkpoint,
    write_checkpoint,
)
from costsim.learning.training.augment import AMOUNTS, augment
from costsim.learning.training.copies import Copies
from costsim.learning.training.frozen_values import FrozenValues
from costsim.learning.training.network import forward_by_torch
from costsim.run.native import Backend
from costsim.solving.planfile import PlanFile, data_found_again

RUN = {"learning rate": 0.01}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("network")
    write_network(path)
    return path


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def plan(folder) -> PlanFile:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return small_plan()


def request(plan: PlanFile, **given) -> TrainRequest:
    asked = {"ways": 3, "shots": 4, "queries": 5, "iterations": 3, "learning_rate": 0.01}
    return TrainRequest(plan, "plan.json", **{**asked, **given})


def go(run, stop_after: int | None = None):
    """Train, perhaps only so many steps; the tensors' bits."""
    left = [stop_after]

    def stop() -> bool:
        if left[0] is not None:
            left[0] -= 1
        return left[0] == 0

    run.train(stop, lambda _run, _loss: None)
    return bits(run.subject.tensors)


@cache
def traced(batch: int):
    return load_subject("small_net_of_tests:make", weights=None, resolution=16, seed=0, batch=batch)


class Copied:
    """A copy of the small network, of another type, in passes of so many samples."""

    backend: Backend = "torch"

    def __init__(self, dtype, passed):
        self.tensors = {n: t.detach().to(dtype, copy=True) for n, t in traced(1).tensors.items()}
        self.passed = passed

    def graph(self, batch):
        return traced(batch).graph

    def pass_size(self, samples):
        return min(samples, self.passed)

    def forward(self, batch, start, end):
        return forward_by_torch(between(self.graph(batch), start, end), self.tensors)


def trainer_for(
    batch: int | None,
    plan: UpdatePlan | None = None,
    dtype: torch.dtype = torch.float32,
    passed: int = 64,
    **given,
) -> Trainer:
    """A trainer of a copy of the small network on random images, by default of everything."""
    network = Copied(dtype, passed)
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(7, 3, 16, 16, generator=generator) * 2 - 1).to(dtype)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    recipe = Recipe(**{"iterations": 9, "optimizer": "sgd", "batch": batch, **given})
    support = Support(Copies(images, recipe), labels, FrozenValues(network, 2**20))
    return Trainer(network, plan or UpdatePlan.full(traced(1).graph), support, 0.01)


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_full_training_is_ordinary_training(optimizer):
    """In float64: where rounding decides on which side of a bound a value is, paths part."""
    trainer = trainer_for(3, dtype=torch.float64, augment=False, optimizer=optimizer)
    images, labels = trainer.support.copies.images, trainer.labels
    from small_net_of_tests import make  # type: ignore[import-not-found]

    module = make().double()
    module.load_state_dict({name: t.clone() for name, t in trainer.executor.tensors.items()})
    ordinary = OPTIMIZERS[optimizer](module.parameters())
    for _ in range(4):
        means = torch.stack([module(images[labels == c]).detach().mean(0) for c in range(3)])
        for _ in range(trainer.batches()):
            chosen = torch.from_numpy(trainer.samples())
            loss = trainer.step()
            features = module(images[chosen])
            similar = F.cosine_similarity(features[:, None], means[None], dim=2)
            expected = F.cross_entropy(10 * similar, labels[chosen])
            assert loss == pytest.approx(float(expected.detach()), rel=1e-9)
            ordinary.zero_grad()
            expected.backward()
            ordinary.step()
    for name, parameter in module.named_parameters():
        assert torch.allclose(trainer.executor.tensors[name], parameter, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 20])
def test_an_iteration_takes_every_sample_and_whole_batches(batch):
    trainer = trainer_for(batch)
    assert trainer.batches() == math.ceil(7 / batch)
    seen = []
    for _ in range(trainer.batches()):
        seen += trainer.samples().tolist()
        trainer.step()
    assert len(seen) == math.ceil(7 / batch) * batch
    assert sorted(seen[:7]) == list(range(7))
    assert seen[7:] == (seen[:7] * 3)[: len(seen) - 7]
    assert (trainer.iteration, trainer.batch) == (1, 0)


def test_orders_differ_from_iteration_to_iteration_and_from_seed_to_seed():
    orders = set()
    for seed in (0, 1):
        trainer = trainer_for(7, seed=seed)
        for _ in range(3):
            orders.add(tuple(trainer.samples()))
            trainer.step()
    assert len(orders) == 6


SOME = UpdatePlan(
    (ChannelSubset("6", "input", (1, 5)), ChannelSubset("4", "output", (0, 2, 3))),
    frozenset({"2"}),
)


@settings(max_examples=15)
@given(st.data())
def test_gone_on_from_any_step_it_ends_bit_for_bit_the_same(folder, data):
    optimizer = data.draw(st.sampled_from(sorted(OPTIMIZERS)))
    given = {
        "batch": data.draw(st.sampled_from([None, 1, 2, 4])),
        "passed": data.draw(st.sampled_from([1, 64])),
        "optimizer": optimizer,
        "image_interval": data.draw(st.integers(1, 3)),
        "means_interval": data.draw(st.integers(1, 3)),
        "copies": data.draw(st.sampled_from([0, 2])),
    }
    plan = data.draw(st.sampled_from([SOME, None]))
    whole = trainer_for(plan=plan, **given)
    steps = sum(map(whole.batches, range(3)))
    for _ in range(steps):
        whole.step()
    stopped = data.draw(st.integers(0, steps))
    first = trainer_for(plan=plan, **given)
    for _ in range(stopped):
        first.step()
    write_checkpoint(folder / "drawn", first.state(), RUN)
    second = trainer_for(plan=plan, **given)
    second.restore(read_checkpoint(folder / "drawn", RUN), "drawn")
    for _ in range(steps - stopped):
        second.step()
    assert bits(second.executor.tensors) == bits(whole.executor.tensors)
    assert second.losses == whole.losses
    for atom, states in whole.executor.optimizer_state.items():
        assert torch.equal(second.executor.optimizer_state[atom], states)


def test_augmenting_by_nothing_changes_nothing():
    images = torch.rand(3, 3, 8, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    same = augment(images, torch.zeros(3, AMOUNTS))
    assert torch.allclose(same, images, atol=1e-5)
    amounts = torch.rand(3, AMOUNTS, generator=torch.Generator().manual_seed(1)) * 2 - 1
    changed = augment(images, amounts)
    assert changed.shape == images.shape
    assert changed.abs().max() <= 1
    assert not torch.allclose(changed, images, atol=0.05)
    assert torch.allclose(augment(images[1:2], amounts[1:2])[0], changed[1], atol=1e-6)


def test_a_run_changes_the_selection_alone_and_learns(plan):
    run = prepare(request(plan, iterations=15, augment=False))
    before = {name: tensor.clone() for name, tensor in run.subject.tensors.items()}
    go(run)
    trained = run.finish()  # raises if anything but the selection has changed
    assert trained.losses[-1] < trained.losses[0]
    changed = {name for name, t in before.items() if not torch.equal(t, run.subject.tensors[name])}
    assert changed == {change.parameter for change in trained.patch.changes}
    assert trained.steps == 15 * math.ceil(12 / 2)


def test_predictions_do_not_depend_on_who_is_beside(plan):
    subject, _ = load_planned(plan)
    images = torch.rand(21, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together = subject.predict(images)
    assert torch.equal(together[18:19], subject.predict(images[18:19]))
    assert torch.allclose(together, subject.module(images), atol=1e-6)


def test_without_queries_there_is_no_accuracy(plan):
    run = prepare(request(plan, queries=0, iterations=1))
    go(run)
    trained = run.finish()
    assert (trained.accuracy_before, trained.accuracy_after) == (None, None)


def test_an_empty_plan_trains_nothing():
    from costsim.solvers import make_solver

    empty = small_plan(solver=make_solver("none"))
    run = prepare(request(empty, iterations=2))
    before = bits(run.subject.tensors)
    assert go(run) == before
    assert run.finish().patch.changes == ()


def test_cross_entropy_needs_a_classifier_wide_enough(plan):
    run = prepare(request(plan, loss="cross_entropy", iterations=2))
    go(run)
    assert run.finish().accuracy_after is not None


def test_the_task_is_the_one_the_plan_was_made_for(plan):
    run = prepare(request(plan))
    assert run.task.description == plan.importance.source
    other = prepare(request(plan, seed=plan.seed + 1))
    assert other.task.paths != run.task.paths


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(plan, tmp_path):
    path = tmp_path / "checkpoint"
    good = prepare(request(plan, checkpoint=path, iterations=1))
    go(good)
    kept = path.read_bytes()
    bad = prepare(request(plan, checkpoint=path, resume=True, iterations=9))
    with torch.no_grad():  # as a weight update that ran off would
        for atom in bad.trainer.executor.selections:
            bad.trainer.executor.parameter(atom).fill_(math.inf)
    with pytest.raises(Diverged) as caught:
        go(bad)
    text = str(caught.value)
    assert "the loss is nan at step 7, in iteration 2, batch 1 of 6, samples " in text
    assert all(bad.task.paths[index] in text for index in bad.trainer.samples())
    assert f"the last good checkpoint is {path}" in text
    assert "\n" not in text
    assert path.read_bytes() == kept


def test_weights_that_are_not_finite_are_never_kept(plan, tmp_path):
    path = tmp_path / "checkpoint"
    run = prepare(request(plan, checkpoint=path, iterations=1))
    with torch.no_grad():
        run.trainer.executor.parameter(next(iter(run.trainer.executor.selections))).fill_(math.nan)
    with pytest.raises(Diverged, match="are not finite"):
        run.save()
    assert not path.exists()


def edited(plan: PlanFile, **model) -> PlanFile:
    return replace(plan, model=plan.model.model_copy(update=model))


def with_subset(plan: PlanFile, *channels: int) -> PlanFile:
    subset = replace(plan.plan.subsets[0], channels=channels)
    return replace(plan, plan=replace(plan.plan, subsets=(subset, *plan.plan.subsets[1:])))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda p: edited(p, spec="mcunet-5fps", resolution=32),
            "is not in the model",
        ),
        (lambda p: edited(p, resolution=24), "is for another model or input size"),
        (lambda p: edited(p, spec="mcunet-6fps"), "model 'mcunet-6fps' is unknown"),
        (lambda p: edited(p, parameters_sha256="0" * 64), "parameters_sha256 is 000000000000..."),
        (
            lambda p: edited(p, weights="gone.safetensors"),
            "model.weights is 'gone.safetensors', which is neither there nor",
        ),
        (lambda p: replace(p, seed=p.seed + 1), "parameters_sha256"),
        (lambda p: with_subset(p, 0, 99), "the plan asks for 0 to 99"),
        (lambda p: replace(p, step=TrainingStep(batch=3)), "predicted.macs.forward is"),
        (lambda p: replace(p, predicted=None), "holds no plan"),
    ],
)
def test_a_plan_for_something_else_is_refused(plan, change, told):
    with pytest.raises(InputError) as caught:
        load_planned(change(plan), "plan.json")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(plan, folder):
    subject, _ = load_planned(plan)
    state = {name: t.clone() for name, t in subject.module.state_dict().items()}
    state["4.weight"] = torch.zeros(17, 8, 1, 1)
    path = folder / "wide.safetensors"
    path.write_bytes(save(state))
    with pytest.raises(InputError, match=r"wide.safetensors: '4.weight' has shape \(17, 8, 1, 1\)"):
        load_planned(plan, "plan.json", path)


def test_the_same_weights_from_elsewhere_will_do(plan, folder):
    subject, _ = load_planned(plan)
    path = folder / "same.safetensors"
    path.write_bytes(save({name: t.clone() for name, t in subject.module.state_dict().items()}))
    again, _ = load_planned(plan, "plan.json", path)
    assert again.digest() == plan.model.parameters_sha256


def test_channels_that_are_repeated_are_refused(plan):
    document = plan.to_json()
    document["layers"][0] |= {"axis": "output", "channels": [1, 1]}
    with pytest.raises(InputError, match=r"plan.json: layers: layer .* a channel is listed twice"):
        PlanFile.from_json(document, "plan.json")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"checkpoint_every": 0}, "checkpoint every is 0"),
        ({"evaluate_every": -1}, "evaluate every is -1"),
        ({"learning_rate": -1.0}, "learning rate is -1"),
        ({"learning_rate": math.nan}, "learning rate is nan"),
        ({"learning_rate": 1e38}, "learning rate is 1e+38; allowed is 0 to 1e37"),
        ({"momentum": 1.0}, "momentum is 1"),
        ({"loss": "hinge"}, "loss 'hinge'; allowed are prototype, cross_entropy"),
        ({"ways": 1}, "at least 2 classes"),
        ({"ways": 11}, "11 ways need as many classes"),
        ({"data": Path("nowhere")}, "nowhere"),
        ({"resume": True}, "nothing to resume from"),
    ],
)
def test_numbers_that_make_no_run_are_refused(plan, given, told):
    with pytest.raises(InputError) as caught:
        go(prepare(request(plan, **given)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def kept(plan, tmp_path) -> Path:
    """The checkpoint of a run that stopped within its first iteration."""
    path = tmp_path / "checkpoint"
    go(prepare(request(plan, checkpoint=path)), stop_after=2)
    return path


def without(data: bytes, start: str) -> bytes:
    return altered(data, lambda tensors: {k: t for k, t in tensors.items() if k[:7] != start[:7]})


def shifted(data: bytes) -> bytes:
    return altered(data, lambda tensors: {f"x{k}": t for k, t in tensors.items()})


def cut(data: bytes) -> bytes:
    def change(tensors):
        return {k: t[..., :1].contiguous() if k[:7] == "weights" else t for k, t in tensors.items()}

    return altered(data, change)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda d: d[:-3], "is cut short, damaged"),
        pytest.param(lambda d: d[:100], "is cut short, damaged", marks=pytest.mark.slow),
        pytest.param(lambda _d: b"", "is cut short, damaged", marks=pytest.mark.slow),
        (lambda _d: save({"a": torch.zeros(2)}), "has no header of this program"),
        (lambda d: d.replace(b"checkpoint/1", b"checkpoint/2"), "schema 'costsim.checkpoint/2'"),
        (lambda d: without(d, "weights"), "is missing"),
        pytest.param(lambda d: without(d, "optimizer"), "is missing", marks=pytest.mark.slow),
        (lambda d: without(d, "class_means"), "class means are needed within"),
        (shifted, "does not belong there"),
        (cut, "is needed"),
        (lambda d: d.replace(b'batch\\": 2', b'batch\\": 9'), "is damaged: what it holds"),
        (lambda d: altered(d, header=lambda h: h.update(batch=9)), "do not fit together"),
        pytest.param(
            lambda d: altered(d, header=lambda h: h.update(batch=-2)),
            "batch: ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_bad_checkpoint_is_refused_and_left_alone(plan, kept, damage, told):
    damaged = damage(kept.read_bytes())
    kept.write_bytes(damaged)
    with pytest.raises(InputError) as caught:
        prepare(request(plan, checkpoint=kept, resume=True))
    assert told in str(caught.value)
    assert str(kept) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept.read_bytes() == damaged


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"learning_rate": 0.02}, "learning rate is 0.01 there and 0.02 here"),
        ({"seed": 5}, "samples is"),
        ({"augment": False}, "augment is True there and False here"),
        ({"shots": 3}, "samples is"),
        ({"backend": "native"}, "backend is None there and 'native' here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(plan, kept, given, told):
    with pytest.raises(InputError, match="belongs to another run: ") as caught:
        prepare(request(plan, checkpoint=kept, resume=True, **given))
    assert told in str(caught.value)


def test_a_checkpoint_is_not_written_over_unasked(plan, kept):
    before = kept.read_bytes()
    with pytest.raises(InputError, match="--resume goes on from it"):
        prepare(request(plan, checkpoint=kept))
    assert kept.read_bytes() == before


def test_a_checkpoint_past_the_end_is_refused(plan, tmp_path):
    path = tmp_path / "checkpoint"
    go(prepare(request(plan, checkpoint=path)))
    with pytest.raises(InputError, match="is at iteration 3, past the 2 asked"):
        prepare(request(plan, checkpoint=path, iterations=2, resume=True))


def test_a_finished_run_goes_on_to_more_iterations(plan, tmp_path):
    path = tmp_path / "checkpoint"
    go(prepare(request(plan, checkpoint=path)))
    longer = go(prepare(request(plan, checkpoint=path, iterations=5, resume=True)))
    assert longer == go(prepare(request(plan, iterations=5)))


def test_there_may_be_no_checkpoint_yet(plan, tmp_path):
    run = prepare(request(plan, checkpoint=tmp_path / "new", resume=True))
    assert run.resumed_at is None


# The task is the plan's.


def test_what_is_not_asked_is_the_plans(plan):
    run = prepare(TrainRequest(plan, "plan.json", queries=2, learning_rate=0.01))
    assert run.task.digest == plan.task.images_sha256
    assert (run.task.ways, run.task.shots) == (plan.task.ways, plan.task.shots)
    assert run.recipe.iterations == plan.recipe.iterations
    shorter = replace(plan, recipe=replace(plan.recipe, iterations=7))
    assert TrainRequest(shorter).recipe.iterations == 7
    assert TrainRequest(shorter, iterations=2).recipe.iterations == 2


def test_images_that_changed_since_the_plan_are_refused(plan):
    changed = replace(plan, task=plan.task.model_copy(update={"images_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"plan\.json: was made for .* say which to take"):
        prepare(TrainRequest(changed, "plan.json", queries=2))
    given = TrainRequest(changed, "plan.json", queries=2, seed=1)  # asked for: another task
    assert prepare(given).task.seed == 1


def test_data_of_a_plan_is_found_beside_it(tmp_path, monkeypatch):
    inside = tmp_path / "there"
    inside.mkdir()
    (inside / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data_found_again("images", "there/plan.json") == Path("there/images")
    assert data_found_again("images::train", "there/plan.json") == Path("there/images::train")
    assert data_found_again("/old/home/images", "there/plan.json") == Path("there/images")
    assert data_found_again("hub:mnist", "there/plan.json") == Path("hub:mnist")
    monkeypatch.chdir(inside)
    assert data_found_again("images", "plan.json") == Path("images")
    with pytest.raises(InputError, match="is 'gone', which is neither there nor"):
        data_found_again("gone", "plan.json")

"""One method on one task: chosen, priced, trained, and tested on the query images."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from costsim import __version__
from costsim.base.code import others_code
from costsim.base.errors import InputError, OthersFault, shown
from costsim.base.files import file_sha256
from costsim.ir.plan import UpdatePlan
from costsim.learning.adaptation.cost import MethodCost, method_cost
from costsim.learning.adaptation.guard.base import Guard, NoGuard
from costsim.learning.adaptation.loop import Trained, train
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.base_model import load_unfolded
from costsim.learning.training.patch import Patch, make_patch, plan_digest, unfolded_patch
from costsim.planning import parameters_digest
from costsim.problem.importance import Importance
from costsim.problem.solution import Solution, Status
from costsim.run.criteria.caveats import (
    loss_caveat,
    output_caveat,
    score_caveat,
    weights_caveat,
)
from costsim.solving.planfile import ModelRecord, PlanFile, TaskRecord, plan_file

SCHEMA = "costsim.adaptation/1"


@dataclass(frozen=True, eq=False)
class Adapted:
    """The outcome. Accuracies are shares of the query images; seconds are of this machine.

    `predictions` `[M]` are the classes of the query images after it, for paired comparisons, and
    `log_likelihood` the mean of their right ones.
    `kept` is the share of the change that was kept: 1 without a guard, 0 where the training
    `diverged` and the base was put back; `transductive`, whether query images were learnt from.
    `plan` is a plan file of what was trained; `patch`, where
    it was asked for, what was changed.
    """

    method: str
    guard: str
    situation: Situation
    choice: Choice
    cost: MethodCost
    accuracy_before: float
    accuracy_after: float
    log_likelihood: float
    predictions: tuple[int, ...]
    losses: tuple[float, ...]
    learning_rate: float
    selection_s: float
    training_s: float
    diverged: bool
    kept: float
    transductive: bool = False
    patch: Patch | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before believing it; see `costsim.run.criteria.caveats`."""
        scores, folded = self.choice.importance, self.situation.backbone.folded
        found = (
            None if folded is None else folded.sentence,
            output_caveat(
                self.situation.graph, "prototype", self.situation.task.ways, choice=False
            ),
            weights_caveat(self.situation.backbone.name, self.situation.backbone.provenance),
            None if scores is None else score_caveat(scores),
            loss_caveat(self.losses),
            self.cost.unkept,
        )
        return tuple(told for told in found if told is not None)

    @property
    def plan(self) -> PlanFile:
        """What was trained, as a plan file; raises `InputError` for a network of unknown origin."""
        if self.situation.planned is not None:
            return self.situation.planned
        return _plan_file(self.situation, self.method, self.choice, self.cost, self.learning_rate)

    @property
    def beside_the_plan(self) -> str | None:
        """What was done that no plan file says, so that training by it does not."""
        if self.transductive:
            return "says nothing of the query images learnt from: costsim train does without them"
        if self.guard != "none":
            return f"says nothing of the guard {self.guard}: costsim train trains without it"
        return None

    def to_json(self) -> dict[str, Any]:
        """The outcome as one JSON document, schema `costsim.adaptation/1`."""
        task, recipe, place = self.situation.task, self.situation.recipe, self.situation.place
        graph = self.situation.graph
        return {
            "schema": SCHEMA,
            "model": self.situation.backbone.name,
            "provenance": self.situation.backbone.provenance,
            "device": place.device.name,
            "method": self.method,
            "task": {
                "source": task.source,
                "seed": task.seed,
                "classes": list(task.class_names),
                "shots": list(task.shots_by_class),
                "queries": list(task.queries_by_class),
            },
            "recipe": {
                "iterations": recipe.iterations,
                "optimizer": recipe.optimizer,
                "learning_rate": self.learning_rate,
                "temperature": recipe.temperature,
                "augment": recipe.augment,
                "copies": recipe.drawn_copies,
                "micro_batch": recipe.step(self.situation.samples).samples_a_pass,
                "seed": recipe.seed,
            },
            "accuracy": {
                "before": _number(self.accuracy_before),
                "after": _number(self.accuracy_after),
            },
            "log_likelihood": _number(self.log_likelihood),
            "guard": self.guard,
            "kept": self.kept,
            "diverged": self.diverged,
            "losses": [_number(loss) for loss in self.losses],
            "layers": self.choice.plan.to_json(graph.layers),
            "predicted": self.cost.to_json(self.situation.budget.accounting),
            "notes": list(self.notes),
            "seconds": {"selection": self.selection_s, "training": self.training_s},
            "versions": {"costsim": __version__, "torch": torch.__version__},
        }


def adapt(
    situation: Situation,
    method: Method,
    *,
    learning_rate: float | None = None,
    guard: Guard | None = None,
    with_patch: bool = False,
) -> Adapted:
    """Let `method` choose what to train for the situation's task, train it, and test it.

    The base is put back afterwards, to the bit. `learning_rate` and `guard` None are the method's
    own. A training whose loss or weights stop being numbers is undone: it counts as the base.

    Raises `InputError` where the method has no plan for the network or the budgets, for a guard
    with a method that looks at the queries, and for a patch of a network of unknown origin.
    """
    own = situation.backbone
    called = f"method {method.name}"
    with others_code(called):
        situation = situation.on(method.backbone(own))
    rate = method.learning_rate if learning_rate is None else learning_rate
    guard = guard or method.guard or NoGuard()
    _check(situation, method, rate, guard, patched=with_patch, is_own=situation.backbone is own)
    situation.make_ready(transductive=method.transductive)
    before = situation.base_accuracy
    hidden = situation if method.transductive else situation.without_queries()
    with others_code(called):
        method.prepare(hidden)

    started, prefix = time.perf_counter(), hidden.prefix_s
    with others_code(called):
        choice = method.choose(hidden)
    if not isinstance(choice, Choice):
        raise OthersFault(f"{called} chooses {shown(choice)}; a Choice is needed")
    _wait(situation)
    shared = hidden.prefix_s - prefix  # the frozen part, which training needs anyway
    selection = time.perf_counter() - started - shared
    if choice.recipe is not None:
        situation, hidden = situation.by(choice.recipe), hidden.by(choice.recipe)
        situation.make_ready()
    cost = method_cost(
        situation,
        choice,
        transductive=method.transductive,
        extra_training=guard.extra_training,
    )
    base = None
    if with_patch:
        base = {name: t.detach().clone() for name, t in situation.backbone.tensors.items()}

    fit = _Fitting(hidden, choice.plan, rate, method.transductive)
    started, kept, diverged, patch = time.perf_counter(), 1.0, False, None
    losses: tuple[float, ...] = ()
    try:
        if choice.plan.subsets or choice.plan.biases:
            outcome, kept = guard.run(hidden, fit)
            losses, diverged, rate = outcome.losses, outcome.diverged, outcome.learning_rate
            kept = 0.0 if diverged else kept
            outcome.update.keep(kept)
            if base is not None:
                patch = _patch(situation, base, outcome)
        _wait(situation)
        training = time.perf_counter() - started + shared
        answers = situation.answers()
    finally:
        fit.restore()
    if patch is not None:  # the plan's parameters are those of the base, which is back
        file = situation.planned or _plan_file(situation, method.name, choice, cost, rate)
        patch = replace(patch, plan_sha256=plan_digest(file))
        if (folded := situation.backbone.folded) is not None:
            weights = file.model.weights and Path(file.model.weights)
            whole = load_unfolded(file, method.name, weights or None)
            patch = unfolded_patch(patch, folded, whole.graph, whole.tensors)
    return Adapted(
        method=method.name,
        guard=guard.name,
        situation=situation,
        choice=choice,
        cost=cost,
        accuracy_before=before,
        accuracy_after=answers.accuracy,
        log_likelihood=answers.log_likelihood,
        predictions=tuple(answers.predictions.tolist()),
        losses=losses,
        learning_rate=rate,
        selection_s=selection,
        training_s=training,
        diverged=diverged,
        kept=kept,
        transductive=method.transductive,
        patch=patch,
    )


def _check(
    situation: Situation, method: Method, rate: float, guard: Guard, *, patched: bool, is_own: bool
) -> None:
    """Raise `InputError` for what cannot go together."""
    if not isinstance(rate, int | float) or not 0 <= rate <= 1e37:
        told = f"{rate:g}" if isinstance(rate, float) else shown(rate)
        raise InputError(f"learning rate is {told}; allowed is 0 to 1e37")
    if situation.place.task_budget and not method.plans_jointly:
        raise InputError(
            f"{method.name}: looks at no budget of the whole; leave --task-time, --task-energy, "
            "--task-macs and --storage out, or take a method that chooses channels"
        )
    if situation.place.task_budget and guard.extra_training:
        raise InputError(
            f"guard {guard.name}: trains besides, which a budget of the whole does not know of; "
            "leave one of the two out"
        )
    if method.transductive and not isinstance(guard, NoGuard):
        raise InputError(f"{method.name} learns from the queries; no guard can hold them back")
    if patched and not is_own:
        raise InputError(f"{method.name}: adds modules to the network, which no patch can hold")
    if patched and situation.backbone.origin is None:
        raise InputError(f"{method.name}: a patch is for a network that can be loaded again")


class _Fitting:
    """Trains for a guard (`Fit`), each time from the base."""

    def __init__(
        self, situation: Situation, plan: UpdatePlan, rate: float, transductive: bool
    ) -> None:
        self.situation, self.plan = situation, plan
        self.rate, self.transductive = rate, transductive
        self.last: Trained | None = None

    def __call__(self, samples: Tensor | None, rate_factor: float = 1.0) -> Trained:
        """See `Fit`."""
        self.restore()
        self.last = train(
            self.situation,
            self.plan,
            self.rate * rate_factor,
            transductive=self.transductive,
            samples=samples,
        )
        return self.last

    def restore(self) -> None:
        """The base again, to the bit."""
        if self.last is not None:
            self.last.update.restore()


def _wait(situation: Situation) -> None:
    """For a GPU: what was asked of it is done."""
    if situation.images.is_cuda:
        torch.cuda.synchronize()


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _patch(situation: Situation, base: dict[str, Tensor], trained: Trained) -> Patch:
    """What the training changed; of which plan is to be said when the base is back."""
    backbone = situation.backbone
    assert backbone.origin is not None
    return make_patch(
        trained.update.selections,
        situation.graph,
        base,
        backbone.tensors,
        origin=backbone.origin,
        plan_sha256="",
    )


def _plan_file(
    situation: Situation, method: str, choice: Choice, cost: MethodCost, learning_rate: float
) -> PlanFile:
    backbone, place, task = situation.backbone, situation.place, situation.task
    priced, drawn = cost.adaptation, situation.drawn
    if backbone.origin is None:
        raise InputError(f"{backbone.name}: nothing says how to load it again")
    weights = backbone.origin.weights
    solution = choice.solution or Solution(
        method, choice.plan, None, Status.FEASIBLE, None, None, 0.0
    )
    return plan_file(
        model=ModelRecord(
            name=backbone.name,
            spec=backbone.origin.spec,
            weights=weights,
            weights_sha256=None if weights is None else file_sha256(Path(weights)),
            resolution=backbone.origin.resolution,
            provenance=backbone.provenance,
            parameters_sha256=parameters_digest(backbone.tensors),
            batch_norm=None if backbone.folded is None else "folded",
        ),
        graph=situation.graph,
        step=situation.step,
        budget=situation.budget,
        solution=replace(solution, cost=cost.step),
        importance=choice.importance or Importance(method, ()),
        seed=situation.recipe.seed,
        loss="prototype",
        device=place.device,
        target=place.target_name,
        task=TaskRecord.of(task, drawn.drawing, drawn.data, drawn.split),
        recipe=replace(
            situation.recipe if priced is None else priced.recipe,
            micro_batch=situation.step.samples_a_pass,
            learning_rate=learning_rate,
        ),
        adaptation=None if priced is None else priced.cost,
        uncached=None if priced is None else priced.uncached,
        task_budget=place.task_budget,
    )


__all__ = ["Adapted", "adapt"]

"""One method on one task: chosen, priced, trained, and tested on the query images."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from costsim.adaptation.cost import MethodCost, method_cost
from costsim.adaptation.loop import Update, train
from costsim.adaptation.method import Choice, Method
from costsim.adaptation.situation import Situation


@dataclass(frozen=True, eq=False)
class Adapted:
    """The outcome. Accuracies are shares of the query images; seconds are of this machine.

    `predictions` `[M]` are the classes of the query images after it, for paired comparisons.
    `kept` is the share of the change that was kept: 1 without a guard, 0 where the training
    diverged and the base was put back.
    """

    method: str
    choice: Choice
    cost: MethodCost
    accuracy_before: float
    accuracy_after: float
    predictions: tuple[int, ...]
    losses: tuple[float, ...]
    learning_rate: float
    selection_s: float
    training_s: float
    diverged: bool
    kept: float


def adapt(situation: Situation, method: Method, *, learning_rate: float | None = None) -> Adapted:
    """Let `method` choose what to train for the situation's task, train it, and test it.

    The base is put back afterwards, to the bit. `learning_rate` None is the method's own. Raises
    `InputError` where the method has no plan for the network or the budgets.
    """
    situation = situation.on(method.backbone(situation.backbone))
    rate = method.learning_rate if learning_rate is None else learning_rate
    before = situation.base_accuracy
    prefix, started = situation.prefix_s, time.perf_counter()
    choice = method.choose(situation)
    _wait(situation)
    selection = time.perf_counter() - started
    shared = situation.prefix_s - prefix  # the frozen part, which training needs anyway
    cost = method_cost(situation, choice, transductive=method.transductive)
    started = time.perf_counter()
    losses: tuple[float, ...] = ()
    diverged, kept, update = False, 1.0, None
    try:
        if choice.plan.subsets or choice.plan.biases:
            trained = train(situation, choice.plan, rate, transductive=method.transductive)
            update, losses, diverged = trained.update, trained.losses, trained.diverged
            if diverged:
                update.restore()
                kept = 0.0
        _wait(situation)
        training = time.perf_counter() - started
        predictions = situation.predict()
        after = _share(predictions, situation)
    finally:
        if update is not None:
            update.restore()
    return Adapted(
        method=method.name,
        choice=choice,
        cost=cost,
        accuracy_before=before,
        accuracy_after=after,
        predictions=tuple(predictions.tolist()),
        losses=losses,
        learning_rate=rate,
        selection_s=selection - shared,
        training_s=training + shared,
        diverged=diverged,
        kept=kept,
    )


def _share(predictions: Tensor, situation: Situation) -> float:
    labels = torch.tensor(situation.task.query_labels)
    return float((predictions.cpu() == labels).double().mean()) if len(labels) else float("nan")


def _wait(situation: Situation) -> None:
    """For a GPU: what was asked of it is done."""
    if situation.images.is_cuda:
        torch.cuda.synchronize()


__all__ = ["Adapted", "Update", "adapt"]

"""Everything `costsim train` does: a plan and a user's samples in, a patch out."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from costsim import __version__
from costsim.base.errors import InputError, note
from costsim.base.progress import Progress, silent
from costsim.data import Task
from costsim.ir.recipe import Recipe
from costsim.learning.training.base_model import Subject, load_planned, load_unfolded
from costsim.learning.training.checkpoint import RunKey, read_checkpoint, write_checkpoint
from costsim.learning.training.copies import Copies
from costsim.learning.training.frozen_values import CACHE_BYTES, FrozenValues
from costsim.learning.training.patch import (
    Origin,
    Patch,
    make_patch,
    plan_digest,
    unfolded_patch,
    write_patch,
)
from costsim.learning.training.planned_task import draw_planned_task
from costsim.learning.training.train_request import TrainRequest
from costsim.learning.training.trainer import Diverged, Support, Trainer
from costsim.run.criteria.loss import prototypes

SCHEMA = "costsim.training/1"

Watcher = Callable[["Run", float], None]
"""Called after each step with the run and the loss of the step."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's outcome. Accuracies are shares of the query images, None without any.

    `accuracies` are those measured on the way, by iterations done.
    """

    patch: Patch
    losses: tuple[float, ...]
    steps: int
    seconds: float
    accuracy_before: float | None
    accuracy_after: float | None
    accuracies: Mapping[int, float] = field(default_factory=dict)


class Run:
    """A fine-tuning run that is ready to start, or to go on; made by `prepare`."""

    def __init__(
        self, request: TrainRequest, subject: Subject, trainer: Trainer, task: Task, key: RunKey
    ) -> None:
        self.request, self.subject, self.trainer = request, subject, trainer
        self.task, self.key, self.recipe = task, key, trainer.recipe
        self.resumed_at: tuple[int, int] | None = None
        self.accuracies: dict[int, float] = {}
        self.steps, self.seconds = 0, 0.0
        self._base = {name: t.detach().clone() for name, t in subject.tensors.items()}
        self.accuracy_before = self.accuracy()

    def train(
        self,
        stop: Callable[[], bool] = lambda: False,
        watch: Watcher = lambda _run, _loss: None,
    ) -> bool:
        """Train until done, or until `stop` says so after a step; whether it is done.

        Writes checkpoints where the request names a file, the last one for where it ends. Raises
        `Diverged`, naming the samples; the checkpoint written before is kept.
        """
        trainer = self.trainer
        started = time.perf_counter()
        while trainer.iteration < self.recipe.iterations:
            indices = trainer.samples()
            try:
                loss = trainer.step()
                self.steps += 1
                self.seconds += time.perf_counter() - started
                if trainer.batch == 0:
                    self._end_iteration()
            except Diverged as error:
                names = ", ".join(self.task.paths[index] for index in indices)
                raise Diverged(f"{error} ({names}); {self._kept()}") from error
            watch(self, loss)
            if stop():
                break
            started = time.perf_counter()
        try:
            self.save()
        except Diverged as error:
            raise Diverged(f"{error}; {self._kept()}") from error
        return trainer.iteration >= self.recipe.iterations

    def _end_iteration(self) -> None:
        """Measure, where it is time to, and then save: a checkpoint knows what was measured."""
        request, done = self.request, self.trainer.iteration
        if request.evaluate_every and done % request.evaluate_every == 0:
            accuracy = self.accuracy()
            if accuracy is not None:
                self.accuracies[done] = accuracy
        if done % request.checkpoint_every == 0:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, if there is to be one. Raises `Diverged` for what is not finite."""
        state = replace(self.trainer.state(), accuracies=self.accuracies)
        if self.request.checkpoint is not None:
            write_checkpoint(self.request.checkpoint, state, self.key)

    def _kept(self) -> str:
        path = self.request.checkpoint
        if path is None or not path.exists():
            return "no checkpoint was written"
        return f"the last good checkpoint is {path}"

    def finish(self) -> Trained:
        """The outcome, once `train` is done."""
        file, weights = self.request.plan, self.subject.weights
        patch = make_patch(
            self.trainer.selections,
            self.subject.graph,
            self._base,
            self.subject.tensors,
            origin=Origin(
                name=file.model.name,
                spec=file.model.spec,
                weights=None if weights is None else str(weights),
                resolution=file.model.resolution,
                seed=file.seed,
            ),
            plan_sha256=plan_digest(file),
        )
        if self.subject.folded is not None:
            whole = load_unfolded(file, self.request.source, weights)
            patch = unfolded_patch(patch, self.subject.folded, whole.graph, whole.tensors)
        return Trained(
            patch=patch,
            losses=tuple(self.trainer.losses),
            steps=self.steps,
            seconds=self.seconds,
            accuracy_before=self.accuracy_before,
            accuracy_after=self.accuracy(),
            accuracies=self.accuracies,
        )

    def accuracy(self) -> float | None:
        """Share of the query images classified rightly by the model as it is now."""
        if not len(self.task.query_labels):
            return None
        return float(np.mean(self.answers() == self.task.query_labels, dtype=np.float64))

    def answers(self) -> NDArray[np.int64]:
        """The class of each query image by the model as it is now.

        That of the most similar class mean of the support images (cosine), or of the largest logit.
        """
        task, predict = self.task, self.subject.predict
        outputs = predict(_tensor(task.query_images)).flatten(1)
        if self.recipe.loss == "prototype":
            support = predict(_tensor(task.images))
            means = prototypes(support, self.trainer.labels)
            outputs = (
                torch.nn.functional.normalize(outputs) @ torch.nn.functional.normalize(means).T
            )
        found: NDArray[np.int64] = outputs.argmax(1).numpy()
        return found


def prepare(request: TrainRequest, progress: Progress | None = None) -> Run:
    """Load the model and the samples, and the checkpoint if there is one to go on from.

    Raises `InputError` for a plan, weights, samples or a checkpoint that cannot be used.
    """
    report = progress or silent
    _check(request)
    path, file = request.checkpoint, request.plan
    going_on = request.resume and path is not None and path.exists()
    if path is not None and path.exists() and not request.resume:
        raise InputError(
            f"{path}: a checkpoint is there already; --resume goes on from it, or delete it"
        )
    report("loading the model", 0, 0)
    subject, _ = load_planned(file, request.source, request.weights)
    recipe = request.recipe
    task = draw_planned_task(request, subject, progress)
    if recipe.augment and not task.are_images:
        note(f"{task.source}: no images, of which no changed copies are made (--no-augment)")
        recipe = replace(recipe, augment=False)
    report("computing what frozen layers make of the images", 0, 0)
    network = subject.trainable(request.backend)
    copies = Copies(_tensor(task.images), recipe)
    support = Support(
        copies, torch.from_numpy(task.labels.copy()), FrozenValues(network, CACHE_BYTES)
    )
    trainer = Trainer(network, file.plan, support, recipe.rate)
    key = _key(request, subject, task, recipe)
    report("measuring the accuracy before", 0, 0)
    run = Run(request, subject, trainer, task, key)
    if going_on and path is not None:
        state = read_checkpoint(path, key)
        trainer.restore(state, str(path))
        run.accuracies.update(state.accuracies)
        if trainer.iteration > recipe.iterations:
            raise InputError(
                f"{path}: is at iteration {trainer.iteration}, past the {recipe.iterations} asked"
            )
        run.resumed_at = (trainer.iteration, trainer.batch)
    return run


def _check(request: TrainRequest) -> None:
    for name, value, least in (
        ("checkpoint_every", request.checkpoint_every, 1),
        ("evaluate_every", request.evaluate_every, 0),
    ):
        if value < least:
            raise InputError(f"{name.replace('_', ' ')} is {value}; at least {least} is needed")
    if request.resume and request.checkpoint is None:
        raise InputError("nothing to resume from: name the checkpoint, or the patch beside it")


def _key(request: TrainRequest, subject: Subject, task: Task, recipe: Recipe) -> RunKey:
    samples = hashlib.sha256(task.images.tobytes() + task.labels.tobytes()).hexdigest()
    return {
        "plan": plan_digest(request.plan),
        "parameters": subject.digest(),
        "samples": samples,
        "learning rate": recipe.rate,
        "momentum": recipe.momentum,
        "loss": recipe.loss,
        "temperature": recipe.temperature,
        "augment": recipe.augment,
        "seed": recipe.seed,
        # Not of a run by torch: checkpoints of before there was another are of such ones.
        **({"backend": request.backend} if request.backend != "torch" else {}),
    }


def _tensor(images: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(images.copy())  # a copy: what comes in is read-only


def outcome_json(run: Run, trained: Trained, patch_file: Path | None) -> dict[str, Any]:
    """The outcome as one JSON document, schema `costsim.training/1`."""
    request, task, recipe = run.request, run.task, run.recipe
    before, after = trained.accuracy_before, trained.accuracy_after
    return {
        "schema": SCHEMA,
        "model": {
            "name": request.plan.model.name,
            "parameters_sha256": trained.patch.base_sha256,
            "patched_sha256": trained.patch.patched_sha256,
        },
        "plan_sha256": trained.patch.plan_sha256,
        "task": {
            "source": task.source,
            "ways": task.ways,
            "shots": task.shots,
            "queries": len(task.query_labels) // task.ways,
            "classes": list(task.class_names),
            "seed": task.seed,
        },
        "recipe": {**recipe.to_json(), "learning_rate": recipe.rate},
        "iterations": len(trained.losses),
        "losses": list(trained.losses),
        "accuracy": {
            "before": before,
            "after": after,
            "on_the_way": {str(done): value for done, value in trained.accuracies.items()},
        },
        "resumed_at": None if run.resumed_at is None else list(run.resumed_at),
        "steps": trained.steps,
        "seconds": trained.seconds,
        "patch": {
            "file": None if patch_file is None else str(patch_file),
            "parameters": len(trained.patch.changes),
            "channels": trained.patch.channels,
            "bytes": patch_file.stat().st_size if patch_file is not None else None,
        },
        "versions": {"costsim": __version__, "torch": torch.__version__},
    }


__all__ = [
    "Run",
    "TrainRequest",
    "Trained",
    "outcome_json",
    "prepare",
    "write_patch",
]

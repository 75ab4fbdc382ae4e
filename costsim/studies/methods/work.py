"""The work of one process: a task read, a method let loose on it, a row written."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.base.errors import CostsimError, InputError
from costsim.data import digits, open_source, sample_episode
from costsim.device import load_device
from costsim.studies.engine import CellStore
from costsim.studies.methods.cells import Cell, ModelChoice
from costsim.studies.methods.store import open_store

if TYPE_CHECKING:
    from costsim.data import ImageSource
    from costsim.learning.adaptation import Adapted, Backbone, Method, Situation

MakeMethod = Callable[[str], "Method"]
"""`costsim.learning.methods.make_method`."""


class Workshop:
    """What cells share, made when it is first needed: models, sources of images, the last task."""

    def __init__(self) -> None:
        self._backbones: dict[ModelChoice, Backbone] = {}
        self._sources: dict[tuple[Path | None, str | None], ImageSource] = {}
        self._informed: dict[str, Method] = {}
        self._situation: tuple[str, Situation] | None = None

    def row(self, cell: Cell, make_method: MakeMethod) -> dict[str, Any]:
        """The row of a cell; an error of the cell is a row too."""
        try:
            situation = self.situation(cell)
        except Exception as error:
            return failed(cell, error)
        task = {
            "ways": situation.task.ways,
            "support": situation.samples,
            "queries": len(situation.task.query_labels),
            "weights": situation.backbone.provenance,
        }
        from costsim.learning.adaptation import adapt, make_guard

        rate = cell.method.learning_rate
        try:
            method = self.method(cell, make_method)
        except Exception as error:
            return {**failed(cell, error), **task}
        try:
            found = adapt(
                situation,
                method,
                learning_rate=rate,
                guard=None if cell.method.guard is None else make_guard(cell.method.guard),
            )
        except InputError as error:  # the method says no; that is an answer
            reason = " ".join(str(error).split())
            return {**head(cell), **task, "status": "refused", "reason": reason}
        except Exception as error:
            self._situation = None  # who knows in which state it is
            self._backbones.clear()
            return {**failed(cell, error), **task}
        # The rate that was asked for: a guard may train at another.
        asked = {"learning_rate": method.learning_rate if rate is None else rate}
        return {**head(cell), **task, "status": "done", **_answer(found, situation), **asked}

    def method(self, cell: Cell, make_method: MakeMethod) -> "Method":
        """The cell's method, which has seen the tasks of the source if it needs them.

        They are looked at once for a model, and what came of it is kept. Raises `InputError` for
        a source that no task can be drawn from.
        """
        if cell.source is None:
            return make_method(cell.method.method)
        if cell.source_key not in self._informed:
            from costsim.learning.adaptation import Place, source_situations

            tasks = source_situations(
                self._backbone(cell.model),
                self._source(cell.source.data, cell.source.split),
                cell.episode,
                Place(load_device(cell.device), budget=cell.budget),
                cell.settings,
                tasks=cell.source.tasks,
            )
            self._informed[cell.source_key] = make_method(cell.method.method).informed(tasks)
        return self._informed[cell.source_key]

    def situation(self, cell: Cell) -> "Situation":
        """The cell's task on its model and device; raises `InputError` where there is none."""
        if self._situation is None or self._situation[0] != cell.situation_key:
            self._situation = None  # its memory before that of the next
            self._situation = (cell.situation_key, self._made(cell))
        return self._situation[1]

    def _made(self, cell: Cell) -> "Situation":
        from costsim.learning.adaptation import Place, Situation

        backbone = self._backbone(cell.model)
        channels, height, width = backbone.input_shape
        task = sample_episode(
            self._source(cell.domain.data, cell.domain.split),
            cell.episode,
            seed=cell.seed,
            resolution=(height, width),
            channels=channels,
        )
        place = Place(load_device(cell.device), budget=cell.budget)
        return Situation(backbone, task, place, cell.settings)

    def _backbone(self, model: ModelChoice) -> "Backbone":
        if model not in self._backbones:
            from costsim.learning.adaptation import load_backbone

            self._backbones.clear()
            self._backbones[model] = load_backbone(
                model.model, weights=model.weights, resolution=model.resolution
            )
        return self._backbones[model]

    def _source(self, data: Path | None, split: str | None) -> "ImageSource":
        if (data, split) not in self._sources:
            self._sources[data, split] = digits() if data is None else open_source(data, split)
        return self._sources[data, split]


def failed(cell: Cell, error: BaseException) -> dict[str, Any]:
    """The row of a cell that broke."""
    told = " ".join(str(error).split())
    reason = told if isinstance(error, CostsimError) else f"{type(error).__name__}: {told}"
    return {**head(cell), "status": "failed", "reason": reason}


def head(cell: Cell) -> dict[str, Any]:
    """What a row says of its cell."""
    return {
        "key": cell.key,
        "model": cell.model.label,
        "method": cell.method.label,
        "domain": cell.domain.label,
        "seed": cell.seed,
        "device": cell.device,
        "task": cell.task_key,
        "episode": cell.episode.description,
    }


def _answer(found: "Adapted", situation: "Situation") -> dict[str, Any]:
    cost, plan = found.cost, found.choice.plan
    step, task = cost.step, cost.task
    latency = energy = None
    if task is not None:
        means = cost.class_means_s
        latency = task.latency_s if means is None else task.latency_s + means
        energy = task.energy_j
    layers = {subset.layer for subset in plan.subsets} | set(plan.biases)
    return {
        "accuracy_before": found.accuracy_before,
        "accuracy": found.accuracy_after,
        "kept_share": found.kept,
        "diverged": int(found.diverged),
        "layers": len(layers),
        "channels": sum(len(subset.channels) for subset in plan.subsets),
        "peak_bytes": step.memory.peak_bytes,
        "arena_bytes": step.memory.arena_bytes,
        "paper_bytes": step.memory.paper_bytes,
        "tiny_training_bytes": step.memory.tiny_training_bytes,
        "autograd_bytes": cost.autograd_bytes,
        "forward_macs": round(step.macs.forward / cost.samples),
        "backward_macs": round(cost.backward_macs_a_sample),
        "exceeds": " ".join(cost.exceeds),
        "fits": None if step.on_device is None else int(step.on_device.fits),
        "task_s": None if latency is None else latency.value,
        "task_low_s": None if latency is None else latency.low,
        "task_high_s": None if latency is None else latency.high,
        "task_j": None if energy is None else energy.value,
        "task_low_j": None if energy is None else energy.low,
        "task_high_j": None if energy is None else energy.high,
        "selection_here_s": found.selection_s,
        "training_here_s": found.training_s,
        "predictions": json.dumps(list(found.predictions)),
        "note": "\n".join(found.notes) or None,
        "plan": json.dumps(plan.to_json(situation.backbone.graph(1).layers), allow_nan=False),
    }


@dataclass(frozen=True)
class Compute:
    """Computes a cell and keeps its row; travels to the process that does."""

    store: Path
    make_method: MakeMethod

    def __call__(self, cell: Cell) -> None:
        """Raises `InputError` where the row cannot be kept, and for nothing else."""
        row = workshop().row(cell, self.make_method)
        _store(self.store).write(row)


def workshop() -> Workshop:
    """That of this thread: adapting changes a model in place, so that none is shared."""
    return _workshop(threading.get_ident())


@cache
def _workshop(thread: int) -> Workshop:
    return Workshop()


@cache
def _store(path: Path) -> CellStore:
    return open_store(path)

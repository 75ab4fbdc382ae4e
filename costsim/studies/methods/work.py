"""The work of one process: a task is drawn, a method adapts to it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.base.code import others_code
from costsim.base.errors import InputError
from costsim.data import digits, open_source, resolution_and_channels, sample_episode
from costsim.run.native import Backend
from costsim.studies.engine import Computed, ModelChoice, Workshop, failed, unchanged_device
from costsim.studies.methods.cells import MethodCell

if TYPE_CHECKING:
    from costsim.data import ImageSource
    from costsim.learning.adaptation.method import Method
    from costsim.learning.adaptation.one_task import Adapted
    from costsim.learning.adaptation.situation import Situation
    from costsim.learning.training.backbone import Backbone

MakeMethod = Callable[[str], "Method"]
"""`costsim.learning.methods.make_method`."""


class MethodWorkshop(Workshop[MethodCell]):
    """Keeps what cells share: models, sources of images, the last task."""

    def __init__(self, make_method: MakeMethod, broken: str) -> None:
        super().__init__(broken)
        self._make_method = make_method
        self._backbones: dict[tuple[ModelChoice, Backend], Backbone] = {}
        self._sources: dict[tuple[Path | None, str | None], ImageSource] = {}
        self._informed: dict[str, Method] = {}
        self._situation: tuple[str, Situation] | None = None

    def answer(self, cell: MethodCell, shared: str | None) -> Computed:
        """What the method made of the task; that it refuses the task is an answer too."""
        situation = self.situation(cell)
        task = {
            "ways": situation.task.ways,
            "support": situation.samples,
            "queries": len(situation.task.query_labels),
            "weights": situation.backbone.provenance,
        }
        try:
            return Computed({**cell.head, **task, **self._adapted(cell, situation)})
        except Exception as error:
            self._situation = None  # who knows in which state it is
            self._backbones.clear()
            return Computed({**failed(cell, error, self.broken), **task})

    def _adapted(self, cell: MethodCell, situation: "Situation") -> dict[str, Any]:
        from costsim.learning.adaptation.guard import make_guard
        from costsim.learning.adaptation.one_task import adapt

        rate, guard = cell.method.learning_rate, cell.method.guard
        method = self.method(cell)
        try:
            found = adapt(
                situation,
                method,
                learning_rate=rate,
                guard=None if guard is None else make_guard(guard),
            )
        except InputError as error:  # the method says no; that is an answer
            return {"status": "refused", "reason": " ".join(str(error).split())}
        # The rate that was asked for: a guard may train at another.
        asked = {"learning_rate": method.learning_rate if rate is None else rate}
        return {"status": "done", **_answer(found, situation), **asked}

    def method(self, cell: MethodCell) -> "Method":
        """The cell's method, which has seen the tasks of the source if it needs them.

        They are looked at once for a model, and what came of it is kept. Raises `InputError` for
        a source that no task can be drawn from.
        """
        if cell.source is None:
            return self._make_method(cell.method.method)
        if cell.source_key not in self._informed:
            from costsim.learning.adaptation.place import Place
            from costsim.learning.adaptation.source import source_situations

            tasks = source_situations(
                self._backbone(cell),
                self._source(cell.source.data, cell.source.split),
                cell.episode,
                Place(unchanged_device(cell.device, cell.device_digest), budget=cell.budget),
                cell.recipe,
                tasks=cell.source.tasks,
            )
            method = self._make_method(cell.method.method)
            with others_code(f"method {method.name}"):
                self._informed[cell.source_key] = method.informed(tasks)
        return self._informed[cell.source_key]

    def situation(self, cell: MethodCell) -> "Situation":
        """The cell's task on its model and device; raises `InputError` where there is none."""
        if self._situation is None or self._situation[0] != cell.group:
            self._situation = None  # its memory before that of the next
            self._situation = (cell.group, self._made(cell))
        return self._situation[1]

    def _made(self, cell: MethodCell) -> "Situation":
        from costsim.learning.adaptation.place import Place
        from costsim.learning.adaptation.situation import Situation

        backbone = self._backbone(cell)
        resolution, channels = resolution_and_channels(backbone.input_shape)
        task = sample_episode(
            self._source(cell.domain.data, cell.domain.split),
            cell.episode,
            seed=cell.seed,
            resolution=resolution,
            channels=channels,
        )
        place = Place(unchanged_device(cell.device, cell.device_digest), budget=cell.budget)
        return Situation(backbone, task, place, cell.recipe)

    def _backbone(self, cell: MethodCell) -> "Backbone":
        model, backend = cell.model, cell.backend
        if (model, backend) not in self._backbones:
            from costsim.learning.training.backbone import load_backbone

            self._backbones.clear()
            self._backbones[model, backend] = load_backbone(
                model.model, weights=model.weights, resolution=model.resolution, backend=backend
            )
        return self._backbones[model, backend]

    def _source(self, data: Path | None, split: str | None) -> "ImageSource":
        if (data, split) not in self._sources:
            self._sources[data, split] = digits() if data is None else open_source(data, split)
        return self._sources[data, split]


def _answer(found: "Adapted", situation: "Situation") -> dict[str, Any]:
    cost, plan = found.cost, found.choice.plan
    step, priced = cost.step, cost.adaptation
    latency = energy = None
    if priced is not None:
        latency, energy = priced.cost.latency_s, priced.cost.energy_j
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

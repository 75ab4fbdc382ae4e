"""An adaptation by a plan file: its network, task, recipe, device and channels, chosen before."""

from dataclasses import dataclass
from pathlib import Path

import torch

from costsim.base.errors import InputError
from costsim.base.progress import Progress, silent
from costsim.base.trust import check_named
from costsim.data import Drawing
from costsim.ir.operators import UpdateKind
from costsim.ir.recipe import CACHES
from costsim.learning.adaptation.drawn import Drawn
from costsim.learning.adaptation.method import Choice, Method
from costsim.learning.adaptation.place import Place
from costsim.learning.adaptation.situation import Situation
from costsim.learning.training.backbone import Backbone, on_torch_device
from costsim.learning.training.base_model import Subject, load_planned
from costsim.learning.training.patch import Origin
from costsim.learning.training.planned_task import draw_planned_task
from costsim.learning.training.train_request import TrainRequest
from costsim.run.criteria import make_criterion
from costsim.run.native import Backend
from costsim.solving.planfile import PlanFile


@dataclass(frozen=True)
class Planned(Method):
    """The channels of a plan file; `source` names it in errors."""

    plans_jointly = True
    plan: PlanFile
    source: str
    learning_rate: float

    @property
    def name(self) -> str:
        """By whom they were chosen."""
        return f"plan by {self.plan.solver.name}"

    def choose(self, _situation: Situation) -> Choice:
        """See `Method.choose`: it is done already. What the device scores for it is the plan's."""
        record = self.plan.importance
        if not (record.samples and record.layers):
            return Choice(self.plan.plan)
        criterion = make_criterion(check_named(record.criterion, self.source, "--criterion"))
        axes: tuple[UpdateKind, ...] = tuple(dict.fromkeys(one.axis for one in record.layers))
        return Choice(
            self.plan.plan,
            scored=tuple(dict.fromkeys(one.name for one in record.layers)),
            scored_axes=axes,
            scoring=criterion.work,
        )


def planned_situation(
    plan: PlanFile,
    source: str,
    *,
    weights: Path | None = None,
    queries: int | None = None,
    torch_device: str = "cpu",
    backend: Backend = "torch",
    progress: Progress | None = None,
) -> Situation:
    """The task, network and device of a plan; `weights` says where those of the plan are now.

    Raises `InputError`, naming `source`, for a plan without an answer or a device, one that is for
    logits, and where network or images are not the plan's any more.
    """
    if plan.device is None or plan.device_spec is None:
        raise InputError(f"{source}: device is null; a plan for a device is needed")
    if plan.recipe.loss != "prototype":
        raise InputError(
            f"{source}: recipe.loss is {plan.recipe.loss}, and costsim adapt answers by class "
            "means; costsim train trains by any loss"
        )
    report = progress or silent
    report("loading the model", 0, 0)
    subject, _ = load_planned(plan, source, weights)
    if subject.fixed_batch:
        raise InputError(
            f"{source}: model.spec is {plan.model.spec}, an exported program, which takes batches "
            "of one size, and adapting needs several; costsim train trains it"
        )
    request = TrainRequest(plan, source, queries=queries)
    task = draw_planned_task(request, subject, progress)
    drawn = plan.task
    return Situation(
        _backbone(plan, subject, torch_device, backend),
        task,
        Place(
            plan.device_spec,
            plan.device.target,
            caches=tuple(one for one in CACHES if one in ("nothing", plan.recipe.cache_in)),
            task_budget=plan.task_budget,
        ),
        request.recipe,
        progress,
        drawn=Drawn(
            drawn.data,
            drawn.split,
            Drawing(drawn.ways, drawn.shots, drawn.queries, drawn.episode, drawn.tracks),
        ),
        planned=plan,
    )


def _backbone(
    plan: PlanFile, subject: Subject, torch_device: str | torch.device, backend: Backend
) -> Backbone:
    return Backbone(
        on_torch_device(subject.module, torch_device),
        subject.input_shape,
        name=subject.name,
        origin=Origin(
            name=plan.model.name,
            spec=plan.model.spec,
            weights=None if subject.weights is None else str(subject.weights),
            resolution=plan.model.resolution,
            seed=plan.seed,
        ),
        provenance=plan.model.provenance,
        backend=backend,
        folded=subject.folded,
    )

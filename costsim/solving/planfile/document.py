"""A plan file as a value, as JSON and on disk. Schema `costsim.plan/2`."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import ValidationError, model_validator

from costsim.base.errors import InputError, shown
from costsim.base.files import read_json, write_json
from costsim.device import DeviceSpec
from costsim.device.base import Named, Part, first_mistake, refuse
from costsim.ir.plan import UpdatePlan
from costsim.ir.recipe import Recipe
from costsim.ir.step import TrainingStep
from costsim.problem.budget import Budget
from costsim.problem.task_budget import TaskBudget
from costsim.solving.planfile.questions import CandidatesRecord, ExplanationRecord, SoughtRecord
from costsim.solving.planfile.records import (
    BudgetRecord,
    DeviceRecord,
    FleetRecord,
    ImportanceRecord,
    LayerRecord,
    LossName,
    ModelRecord,
    Prediction,
    Seed,
    SolverRecord,
    TaskRecord,
    WayRecord,
)
from costsim.solving.planfile.values import ByFields, Listed, Record

SCHEMA = "costsim.plan/2"
OLDER = ("costsim.plan/1",)
"""Without the task and the recipe: too little to adapt by."""

T = TypeVar("T")


class _Document(Record):
    model: ModelRecord
    device: DeviceRecord | None
    step: Annotated[TrainingStep, ByFields()]
    task: TaskRecord
    recipe: Annotated[Recipe, ByFields()]
    budgets: BudgetRecord
    layers: Annotated[tuple[LayerRecord, ...], Listed]
    predicted: Prediction | None
    solver: SolverRecord
    importance: ImportanceRecord
    loss: LossName | None = None
    candidates: CandidatesRecord | None = None
    explanation: ExplanationRecord | None = None
    sought: SoughtRecord | None = None
    fleet: Annotated[tuple[FleetRecord, ...], Listed] = ()
    ways: Annotated[tuple[WayRecord, ...], Listed] = ()
    seed: Seed
    versions: Named[str]
    device_spec: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        times = Counter(layer.name for layer in self.layers)
        if twice := [name for name, count in times.items() if count > 1]:
            raise refuse(f"{shown(twice[0])} is listed twice", "layers")
        if self.loss not in (None, self.recipe.loss):
            raise refuse(f"is {self.loss}, but that of the recipe {self.recipe.loss}", "loss")
        if (self.device is None) != (self.device_spec is None):
            raise refuse("comes with device: both, or neither", "device_spec")
        status = self.solver.status
        if status not in ("infeasible", "time_limit") and self.predicted is None:
            raise refuse(f"is null, but the solver's status is {status}", "predicted")
        if status == "infeasible" and self.predicted is not None:
            raise refuse("must be null where the solver's status is infeasible", "predicted")
        if self.predicted is None and self.layers:
            raise refuse("must be empty where predicted is null", "layers")
        return self


@dataclass(frozen=True)
class PlanFile:
    """One plan with everything around it. `order` names the chosen layers in the model's order.

    A value: two plan files with the same content are equal. `plan` is empty and `predicted` None
    where the solver found nothing within the budgets. `fleet`: the devices that it is for besides
    `device`. `loss` is what the plan was chosen for; None where an older file does not say.
    `candidates`: None where every layer was one. `budget` is of a step, `task_budget` of the whole
    adaptation. `ways`: the training of a step that swaps, and the same training in others; none
    where nothing swaps. `device_spec` is all that is known of `device`, as it was then.
    """

    model: ModelRecord
    device: DeviceRecord | None
    step: TrainingStep
    task: TaskRecord
    recipe: Recipe
    budget: Budget
    plan: UpdatePlan
    order: tuple[str, ...]
    predicted: Prediction | None
    solver: SolverRecord
    importance: ImportanceRecord
    seed: int
    versions: Mapping[str, str]
    loss: str | None = None
    explanation: ExplanationRecord | None = None
    sought: SoughtRecord | None = None
    fleet: tuple[FleetRecord, ...] = ()
    candidates: CandidatesRecord | None = None
    task_budget: TaskBudget = field(default_factory=TaskBudget)
    ways: tuple[WayRecord, ...] = ()
    device_spec: DeviceSpec | None = None

    def to_json(self) -> dict[str, Any]:
        """The plan file as one JSON document, layers in the model's order."""
        asked = {
            "loss": self.loss,
            "candidates": _dump(self.candidates),
            "explanation": _dump(self.explanation),
            "sought": _dump(self.sought),
            "fleet": [_dump(one) for one in self.fleet] or None,
            "ways": [_dump(one) for one in self.ways] or None,
        }
        return {
            "schema": SCHEMA,
            "model": self.model.to_json(),
            "device": _dump(self.device),
            "step": self.step.to_json(),
            "task": _dump(self.task),
            "recipe": self.recipe.to_json(),
            "budgets": {
                **self.budget.to_json(),
                **({"task": self.task_budget.to_json()} if self.task_budget else {}),
            },
            "layers": self.plan.to_json(self.order),
            "predicted": _dump(self.predicted),
            "solver": _dump(self.solver),
            "importance": _dump(self.importance),
            **{key: value for key, value in asked.items() if value is not None},
            "seed": self.seed,
            "versions": dict(self.versions),
            "device_spec": None if self.device_spec is None else self.device_spec.to_json(),
        }

    @classmethod
    def from_json(cls, document: object, source: str = "plan") -> "PlanFile":
        """The plan file that `to_json` wrote; `source` names it in errors.

        Raises `InputError` for an unknown schema, a key that is missing, unknown or of the wrong
        kind, and for content that contradicts itself: one line with the source and the key.
        """
        if not isinstance(document, Mapping):
            kind = "empty" if document is None else f"a {type(document).__name__}"
            raise InputError(f"{source}: is {kind}; a mapping with the keys of a plan is needed")
        if (schema := document.get("schema")) != SCHEMA:
            if schema in OLDER:
                raise InputError(
                    f"{source}: schema: {schema} has no task and no recipe in it; make the plan "
                    f"anew with costsim plan (now {SCHEMA})"
                )
            told = "is missing" if schema is None else f"{shown(schema)} is unknown"
            raise InputError(f"{source}: schema: {told}; allowed is {SCHEMA}")
        try:
            read = _Document.model_validate({k: v for k, v in document.items() if k != "schema"})
        except ValidationError as error:
            raise InputError(f"{source}: {first_mistake(error, 'plan')}") from error
        layers = [_dump(layer) for layer in read.layers]
        _check_recipe(read.recipe, read.step, source)
        return cls(
            model=read.model,
            device=read.device,
            step=read.step,
            task=read.task,
            recipe=read.recipe,
            budget=_made(f"{source}: budgets", lambda: Budget(**read.budgets.of_a_step)),
            task_budget=read.budgets.of_the_task,
            plan=_made(f"{source}: layers", lambda: UpdatePlan.from_json(layers)),
            order=tuple(layer.name for layer in read.layers),
            predicted=read.predicted,
            solver=read.solver,
            importance=read.importance,
            seed=read.seed,
            versions=read.versions,
            loss=read.loss,
            candidates=read.candidates,
            explanation=read.explanation,
            sought=read.sought,
            fleet=tuple(read.fleet),
            ways=tuple(read.ways),
            device_spec=_device_of(read, f"{source}: device_spec"),
        )


def read_plan(path: Path) -> PlanFile:
    """The plan file at `path`; raises `InputError` naming the file and the key."""
    return PlanFile.from_json(read_json(path), str(path))


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write `plan` to `path`, whole or not at all."""
    write_json(path, plan.to_json())


def _check_recipe(recipe: Recipe, step: TrainingStep, source: str) -> None:
    """Raise `InputError` where a recipe does not say what the step says."""
    told = ""
    if step.batch % recipe.micro_batch:
        told = f"micro_batch: {recipe.micro_batch} does not divide step.batch {step.batch}"
    elif recipe.batch not in (None, step.batch):
        told = f"batch: is {recipe.batch}, but step.batch {step.batch}"
    elif recipe.optimizer != step.optimizer:
        told = f"optimizer: is {recipe.optimizer}, but step.optimizer {step.optimizer}"
    if told:
        raise InputError(f"{source}: recipe.{told}")


def _device_of(read: _Document, where: str) -> DeviceSpec | None:
    """The device as it was; raises `InputError` for a damaged one and for another device."""
    if read.device is None or read.device_spec is None:
        return None
    spec = DeviceSpec.from_json(read.device_spec, where)
    if spec.name != read.device.name:
        raise InputError(f"{where}.name: is {spec.name}, but device.name is {read.device.name}")
    _made(f"{where}.targets", lambda: spec.target(read.device.target if read.device else None))
    return spec


def _dump(record: Part | None) -> Any:
    return None if record is None else record.model_dump(mode="json")


def _made(where: str, make: Callable[[], T]) -> T:
    """What `make` returns; its `InputError` says where in the document the mistake is."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error

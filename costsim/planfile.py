"""The plan file: what was asked, what was chosen, what it will cost. Schema `costsim.plan/1`.

The document is everything a later command needs to train, check or show the plan with the same
model and device again. Numbers in it are in base units; `predicted` is null where no plan is
within the budgets.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from costsim import __version__
from costsim.accounting.autograd import autograd_memory
from costsim.cost import full_backward_macs
from costsim.device import DeviceSpec, TaskEstimate
from costsim.device.base import Named, Part, refuse
from costsim.errors import InputError
from costsim.explain import Explanation
from costsim.files import read_json, write_json
from costsim.graph import LayerGraph
from costsim.importance import Importance
from costsim.operators import UpdateKind
from costsim.plan import UpdatePlan
from costsim.problem import Budget
from costsim.program import plan_atoms
from costsim.solution import Solution
from costsim.step import TrainingStep

SCHEMA = "costsim.plan/1"

T = TypeVar("T")

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Number = Count | Amount
"""Whole where the unit is: bytes and MACs."""
Name = Annotated[str, Field(min_length=1)]
_Listed = BeforeValidator(lambda given: tuple(given) if isinstance(given, list) else given)


class _Record(Part):
    """A mapping of a plan file: known keys only, no coercion, finite numbers."""

    model_config = ConfigDict(allow_inf_nan=False)


class ModelRecord(_Record):
    """The model planned for: how a person named it, and where its weights come from.

    `spec` and `weights` are what was typed; `provenance` says in words what the weights are.
    """

    name: Name
    spec: Name
    weights: str | None = None
    resolution: Annotated[int, Field(ge=1)]
    provenance: Name
    parameters_sha256: str | None = None


class DeviceRecord(_Record):
    """The device and compute target planned for, and the memory it has for a step."""

    name: Name
    target: Name
    title: Name
    target_title: Name
    frozen_weights: Literal["ram", "flash"]
    room_bytes: Count


class Range(_Record):
    """A predicted number and the range it is believed to lie in."""

    value: Amount
    low: Amount
    high: Amount

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.value, self.high)
        return self


class StepLatency(_Record):
    """Seconds of one step: the believed value and its range."""

    step: Amount
    low: Amount
    high: Amount

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.step, self.high)
        return self


def _check_order(low: float, value: float, high: float) -> None:
    if not low <= value <= high:
        raise refuse(f"low {low:g}, value {value:g}, high {high:g}: not in order")


class MemoryRecord(_Record):
    """Bytes of one step in every accounting; see `costsim.cost.MemoryCost`.

    `autograd_kept_bytes` is what stock PyTorch would keep for the backward pass of the same step.
    """

    accounting: Literal["peak", "arena", "paper", "tiny-training"]
    peak_bytes: Count
    arena_bytes: Count
    paper_bytes: Count
    tiny_training_bytes: Count
    kept_bytes: Count
    gradient_bytes: Count
    optimizer_bytes: Count
    updated_weight_bytes: Count
    frozen_weight_bytes: Count
    peak_operation: str
    at_peak: Named[Count]
    autograd_kept_bytes: Count


class MacRecord(_Record):
    """MACs of one step by cause; `full_backward` is the backward pass that updates everything."""

    forward: Count
    recompute: Count
    input_gradient: Count
    weight_gradient: Count
    unpadded: Count
    full_backward: Count

    @property
    def backward(self) -> int:
        """Input gradients, weight gradients, and what is computed a second time for them."""
        return self.recompute + self.input_gradient + self.weight_gradient

    @property
    def backward_share(self) -> float:
        """The backward pass as a share of the one that updates everything."""
        return self.backward / self.full_backward if self.full_backward else 0.0


class TaskRecord(_Record):
    """Seconds and joules of the whole task: selection, then `steps` optimiser steps."""

    steps: Count
    selection_s: Range
    training_s: Range
    latency_s: Range
    energy_j: Range


class Prediction(_Record):
    """What one step, and the whole task, is predicted to cost; time and energy on the device."""

    memory: MemoryRecord
    macs: MacRecord
    moved_bytes: Count
    latency_s: StepLatency | None = None
    swap_s: Range | None = None
    energy_j: Amount | None = None
    energy_interval_j: Range | None = None
    fits: bool | None = None
    task: TaskRecord | None = None


class SolverRecord(_Record):
    """Who chose, how far the answer can be trusted (`sentence`, for a person), and how long."""

    name: Name
    status: Literal["optimal", "feasible", "infeasible", "time_limit"]
    sentence: str
    reason: str
    objective: float | None
    bound: float | None
    gap: Amount | None
    seconds: Amount


class InspectedLayer(_Record):
    """A layer scored along one axis, or its bias: the sum of all scores, and of those chosen."""

    name: Name
    axis: UpdateKind
    potential: Amount
    gain: Amount


class ImportanceRecord(_Record):
    """What the plan was chosen by: the criterion, its samples, and the layers it inspected."""

    criterion: Name
    samples: Count
    source: str
    layers: Annotated[tuple[InspectedLayer, ...], _Listed]

    def gain(self, layer: str, axis: str | None) -> float | None:
        """The sum of the scores of the channels chosen, None if the layer was not inspected."""
        found = (e.gain for e in self.layers if (e.name, e.axis) == (layer, axis))
        return next(found, None)


class LimitPriceRecord(_Record):
    """What more of one limit would bring; see `costsim.explain.LimitPrice`."""

    limit: Name
    allowed: Number
    slack: bool
    more: Number | None
    rise: Amount | None
    proven: bool
    sentence: Name


class LeftOutRecord(_Record):
    """A layer that is not updated, and why; see `costsim.explain.LeftOut`."""

    layer: Name
    why: Literal["does not fit", "no gain", "overlooked", "worth less"]
    share: Amount
    breaks: Annotated[tuple[Name, ...], _Listed]
    takes: Named[float]
    loss: Amount | None
    proven: bool
    sentence: Name


class RelaxationRecord(_Record):
    """The least of one limit that would do; see `costsim.explain.Relaxation`."""

    limit: Name
    allowed: Number
    least: Number | None
    sentence: Name


class ExplanationRecord(_Record):
    """Why the plan is what it is; see `costsim.explain.Explanation`."""

    optimum: Amount | None
    missed: Amount | None
    proven: bool
    limits: Annotated[tuple[LimitPriceRecord, ...], _Listed]
    left_out: Annotated[tuple[LeftOutRecord, ...], _Listed]
    relaxations: Annotated[tuple[RelaxationRecord, ...], _Listed]


class SoughtRecord(_Record):
    """What was planned backwards: the value found (None: none does) and the share it reaches.

    Shares are of the gain of updating every channel of every inspected layer. `value` is in bytes,
    MACs, seconds, samples or pixels, or the name of a device. `proven`: nothing less, or no more
    work, would do.
    """

    what: Literal["memory", "macs", "latency", "batch", "resolution", "device"]
    share: Amount
    value: Number | Name | None
    reached: Amount
    proven: bool
    sentence: Name


class _BitsRecord(_Record):
    weights: int
    activations: int
    gradients: int
    optimizer: int


class _StepRecord(_Record):
    batch: int
    micro_batch: int | None
    optimizer: str
    update: str
    bits: _BitsRecord
    recompute: Annotated[tuple[Name, ...], _Listed]


class _BudgetRecord(_Record):
    memory_bytes: int | None
    accounting: str
    macs: int | None
    latency_s: float | None
    energy_j: float | None
    working_bytes: int | None


class FleetRecord(_Record):
    """Another device that the plan is for as well: its budgets, and what a step takes there."""

    device: DeviceRecord
    budgets: _BudgetRecord
    predicted: Prediction | None

    @classmethod
    def of(
        cls, device: DeviceRecord, budget: Budget, predicted: Prediction | None
    ) -> "FleetRecord":
        """The record of a plan on `device`."""
        return cls(device=device, budgets=_BudgetRecord(**budget.to_json()), predicted=predicted)

    @property
    def budget(self) -> Budget:
        """The budgets as a value."""
        return Budget(**self.budgets.model_dump())


class _LayerRecord(_Record):
    name: Name
    axis: Literal["output", "input"] | None
    channels: Annotated[tuple[Count, ...], _Listed]
    bias: bool

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.axis is None) != (not self.channels):
            raise refuse("axis and channels come together: both, or null and an empty list")
        if not self.channels and not self.bias:
            raise refuse("updates neither channels nor the bias; leave the layer out")
        return self


class _Document(_Record):
    model: ModelRecord
    device: DeviceRecord | None
    step: _StepRecord
    budgets: _BudgetRecord
    layers: Annotated[tuple[_LayerRecord, ...], _Listed]
    predicted: Prediction | None
    solver: SolverRecord
    importance: ImportanceRecord
    explanation: ExplanationRecord | None = None
    sought: SoughtRecord | None = None
    fleet: Annotated[tuple[FleetRecord, ...], _Listed] = ()
    seed: int
    versions: Named[str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [layer.name for layer in self.layers]
        if twice := [name for name in names if names.count(name) > 1]:
            raise refuse(f"{twice[0]!r} is listed twice", "layers")
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
    `device`.
    """

    model: ModelRecord
    device: DeviceRecord | None
    step: TrainingStep
    budget: Budget
    plan: UpdatePlan
    order: tuple[str, ...]
    predicted: Prediction | None
    solver: SolverRecord
    importance: ImportanceRecord
    seed: int
    versions: Mapping[str, str]
    explanation: ExplanationRecord | None = None
    sought: SoughtRecord | None = None
    fleet: tuple[FleetRecord, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The plan file as one JSON document, layers in the model's order."""
        asked = {
            "explanation": _dump(self.explanation),
            "sought": _dump(self.sought),
            "fleet": [_dump(one) for one in self.fleet] or None,
        }
        return {
            "schema": SCHEMA,
            "model": _dump(self.model),
            "device": _dump(self.device),
            "step": self.step.to_json(),
            "budgets": self.budget.to_json(),
            "layers": self.plan.to_json(self.order),
            "predicted": _dump(self.predicted),
            "solver": _dump(self.solver),
            "importance": _dump(self.importance),
            **{key: value for key, value in asked.items() if value is not None},
            "seed": self.seed,
            "versions": dict(self.versions),
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
            told = "is missing" if schema is None else f"{schema!r} is unknown"
            raise InputError(f"{source}: schema: {told}; allowed is {SCHEMA}")
        try:
            read = _Document.model_validate({k: v for k, v in document.items() if k != "schema"})
        except ValidationError as error:
            raise InputError(f"{source}: {_first(error)}") from error
        step, layers = read.step.model_dump(), [_dump(layer) for layer in read.layers]
        return cls(
            model=read.model,
            device=read.device,
            step=_made(f"{source}: step", lambda: TrainingStep.from_json(step)),
            budget=_made(f"{source}: budgets", lambda: Budget(**read.budgets.model_dump())),
            plan=_made(f"{source}: layers", lambda: UpdatePlan.from_json(layers)),
            order=tuple(layer.name for layer in read.layers),
            predicted=read.predicted,
            solver=read.solver,
            importance=read.importance,
            seed=read.seed,
            versions=read.versions,
            explanation=read.explanation,
            sought=read.sought,
            fleet=tuple(read.fleet),
        )


def plan_file(
    *,
    model: ModelRecord,
    graph: LayerGraph,
    step: TrainingStep,
    budget: Budget,
    solution: Solution,
    importance: Importance,
    seed: int,
    device: DeviceSpec | None = None,
    target: str | None = None,
    task: TaskEstimate | None = None,
    explanation: Explanation | None = None,
) -> PlanFile:
    """The plan file of a solution. `target` None is the default one of `device`."""
    plan = solution.plan or UpdatePlan()
    predicted = None
    if solution.plan is not None and solution.cost is not None:
        costs = solution.cost.to_json(budget.accounting)
        costs["memory"]["autograd_kept_bytes"] = autograd_memory(graph, plan).kept_bytes
        costs["macs"]["full_backward"] = full_backward_macs(graph, step)
        costs["task"] = None if task is None else task.to_json()
        predicted = Prediction.model_validate(costs)
    named = plan.by_layer.keys() | plan.biases
    return PlanFile(
        model=model,
        device=None if device is None else _device_record(device, target),
        step=step,
        budget=budget,
        plan=plan,
        order=tuple(name for name in graph.layers if name in named),
        predicted=predicted,
        solver=SolverRecord(
            **solution.to_json(), sentence=solution.status.sentence, reason=solution.reason
        ),
        importance=_importance_record(importance, plan),
        seed=seed,
        versions=_versions(),
        explanation=(
            None if explanation is None else ExplanationRecord.model_validate(explanation.to_json())
        ),
    )


def read_plan(path: Path) -> PlanFile:
    """The plan file at `path`; raises `InputError` naming the file and the key."""
    return PlanFile.from_json(read_json(path), str(path))


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write `plan` to `path`, whole or not at all."""
    write_json(path, plan.to_json())


def _device_record(device: DeviceSpec, target: str | None) -> DeviceRecord:
    return DeviceRecord(
        name=device.name,
        target=target or device.default_target,
        title=device.title,
        target_title=device.target(target).title,
        frozen_weights=device.placement.frozen_weights,
        room_bytes=device.largest_block_bytes,
    )


def _importance_record(importance: Importance, plan: UpdatePlan) -> ImportanceRecord:
    layers, updated = [], plan_atoms(plan)
    for entry in importance.channels:
        chosen = updated.get((entry.axis, entry.layer), ())
        layers.append(
            InspectedLayer(
                name=entry.layer,
                axis=entry.axis,
                potential=float(sum(entry.scores)),
                gain=float(sum(entry.scores[channel] for channel in chosen)),
            )
        )
    return ImportanceRecord(
        criterion=importance.criterion,
        samples=importance.samples,
        source=importance.source,
        layers=tuple(layers),
    )


def _versions() -> dict[str, str]:
    return {
        "costsim": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }


def _dump(record: Part | None) -> Any:
    return None if record is None else record.model_dump(mode="json")


def _made(where: str, make: Callable[[], T]) -> T:
    """What `make` returns; its `InputError` says where in the document the mistake is."""
    try:
        return make()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _first(error: ValidationError) -> str:
    """The first mistake as `dotted.key: what is wrong`, and how many more there are."""
    errors = error.errors(include_url=False)
    # An unknown key is usually the misspelt cause of a missing one.
    first = min(errors, key=lambda item: item["type"] != "device")
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    if key := first.get("ctx", {}).get("key"):
        parts.append(key)
    given, message = first["input"], first["msg"]
    if first["type"] == "missing":
        message = "missing"
    elif first["type"] != "device":
        told = repr(given) if isinstance(given, str | bool | int | float) else type(given).__name__
        message = f"{told}: {message[0].lower()}{message[1:]}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{'.'.join(parts) or 'plan'}: {message}{more}"

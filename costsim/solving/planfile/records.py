"""The parts of a plan file: what is in each, and which values it takes."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from costsim.data import Drawing, EpisodeName, Task
from costsim.device.base import Named, refuse
from costsim.ir.operators import UpdateKind
from costsim.ir.recipe import LARGEST_SEED
from costsim.ir.step import MOST_SAMPLES
from costsim.problem.budget import Budget
from costsim.problem.task_budget import TaskBudget
from costsim.solving.planfile.values import ByFields, Listed, Record

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Number = Count | Amount
"""Whole where the unit is: bytes and MACs."""
LARGEST_COUNT = MOST_SAMPLES
"""Of samples in a step, and of pixels a side: beyond what any device or machine has."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Name = Annotated[str, Field(min_length=1)]
LossName = Literal["prototype", "cross_entropy"]
"""What a plan is chosen for: likeness to class means, or logits."""
PhaseName = Literal["scoring", "caching", "class means", "training", "answering"]
"""See `costsim.ir.program.adaptation.Phase`."""


class ModelRecord(Record):
    """The model planned for: how a person named it, and where its weights come from.

    `spec` and `weights` are what was typed, `weights_sha256` is of the bytes of that file and
    `parameters_sha256` of what was read from it; `provenance` says in words what the weights are.
    `batch_norm` says that batch norms were folded into the weights before them, absent where the
    model is as it came.
    """

    name: Name
    spec: Name
    weights: str | None = None
    weights_sha256: str | None = None
    resolution: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    provenance: Name
    parameters_sha256: str | None = None
    batch_norm: Literal["folded"] | None = None

    @property
    def folds_batch_norm(self) -> bool:
        """Whether the model is to be loaded with its batch norms folded."""
        return self.batch_norm == "folded"

    def to_json(self) -> dict[str, Any]:
        """Its keys; nothing is said of batch norm where nothing was done to it."""
        left_out = {"batch_norm"} if self.batch_norm is None else set()
        return self.model_dump(mode="json", exclude=left_out)


class DeviceRecord(Record):
    """The device and compute target planned for, and the memory it has for a step."""

    name: Name
    target: Name
    title: Name
    target_title: Name
    frozen_weights: Literal["ram", "flash"]
    room_bytes: Count


class Range(Record):
    """A predicted number and the range it is believed to lie in."""

    value: Amount
    low: Amount
    high: Amount

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.value, self.high)
        return self

    def plus(self, other: "Range") -> "Range":
        """Of two amounts that come together, errors taken as shared."""
        return Range(
            value=self.value + other.value, low=self.low + other.low, high=self.high + other.high
        )


class StepLatency(Record):
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


class MemoryRecord(Record):
    """Bytes of one step in every accounting; see `costsim.pricing.cost.MemoryCost`.

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


class MacRecord(Record):
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


class PhaseMacs(Record):
    """MACs of all runs of a phase, by cause."""

    forward: Count
    recompute: Count
    input_gradient: Count
    weight_gradient: Count
    unpadded: Count


class PhaseRecord(Record):
    """What all runs of one phase cost; see `costsim.pricing.adaptation.PhaseCost`."""

    phase: PhaseName
    times: Count
    peak_bytes: Count
    macs: PhaseMacs
    compute_s: Range
    storage_s: Range
    swap_s: Range | None


class AlternativeRecord(Record):
    """What the whole would take if one part of the recipe had another value."""

    part: Literal[
        "image_interval", "means_interval", "copies", "cache_in", "micro_batch", "recompute"
    ]
    value: Count | Name
    latency_s: Range | None
    energy_j: Range | None


class AdaptationRecord(Record):
    """What the whole adaptation costs; see `costsim.pricing.adaptation.AdaptationCost`.

    `uncached_s`: what it would take if nothing of the frozen part were kept. `alternatives`: to
    what the planner chose of the recipe, one at a time.
    """

    peak_bytes: Count
    peak_phase: Name
    stored_bytes: Named[Count]
    macs: Count
    latency_s: Range | None
    energy_j: Range | None
    uncached_s: Range | None = None
    phases: Annotated[tuple[PhaseRecord, ...], Listed]
    alternatives: Annotated[tuple[AlternativeRecord, ...], Listed] = ()

    @property
    def usage(self) -> dict[str, float | None]:
        """What it takes of each limit of a budget of the whole; None where it does not fit."""
        return {
            "latency_s": None if self.latency_s is None else self.latency_s.value,
            "energy_j": None if self.energy_j is None else self.energy_j.value,
            "macs": self.macs,
            "storage_bytes": self.stored_bytes.get("storage", 0),
        }

    def of(self, phase: str) -> PhaseRecord | None:
        """What a phase costs; None if there is none."""
        return next((one for one in self.phases if one.phase == phase), None)


class TaskRecord(Record):
    """The task planned for: where its images come from, and how they were drawn.

    `data` and `split` are what was typed, None for the images that ship; `images_sha256` is of the
    support images and their labels. What was drawn hangs on `episode`, `queries` and `tracks` too;
    see `costsim.data.Drawing`.
    """

    source: str
    data: str | None
    split: str | None
    ways: Count
    shots: Count
    samples: Count
    seed: Seed
    episode: EpisodeName = "fixed"
    queries: Count = 0
    tracks: bool = False
    images_sha256: str

    @classmethod
    def of(cls, task: Task, drawing: Drawing, data: str | None, split: str | None) -> "TaskRecord":
        """The record of a task that a settled `drawing` drew, and of what was typed of the data."""
        assert drawing.queries is not None
        return cls(
            source=task.description,
            data=data,
            split=split,
            ways=task.ways,
            shots=max(task.shots_by_class),
            samples=len(task.labels),
            seed=task.seed,
            episode=drawing.episode,
            queries=drawing.queries,
            tracks=drawing.tracks,
            images_sha256=task.digest,
        )


class Prediction(Record):
    """What a step and the whole adaptation are predicted to cost, with time on the device."""

    memory: MemoryRecord
    macs: MacRecord
    moved_bytes: Count
    latency_s: StepLatency | None = None
    swap_s: Range | None = None
    energy_j: Amount | None = None
    energy_interval_j: Range | None = None
    fits: bool | None = None
    adaptation: AdaptationRecord | None = None


class WayRecord(Record):
    """The same training in one way, swapping included; see `costsim.pricing.ways.Way`."""

    name: Name
    samples_a_pass: Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
    held_bytes: Count
    excess_bytes: Count
    swap_s: Range | None
    latency_s: Range | None
    energy_j: Range | None


class SolverRecord(Record):
    """Who chose, how far the answer can be trusted (`sentence`, for a person), and how long.

    `share` is that of the objective in the gain of updating everything that was inspected.
    """

    name: Name
    status: Literal["optimal", "feasible", "infeasible", "time_limit"]
    sentence: str
    reason: str
    objective: float | None
    share: Amount | None = None
    bound: float | None
    gap: Amount | None
    seconds: Amount


class InspectedLayer(Record):
    """A layer scored along one axis, or its bias: the sum of all scores, and of those chosen."""

    name: Name
    axis: UpdateKind
    potential: Amount
    gain: Amount


class ImportanceRecord(Record):
    """What the plan was chosen by: the criterion, its samples, and the layers it inspected."""

    criterion: Name
    samples: Count
    source: str
    layers: Annotated[tuple[InspectedLayer, ...], Listed]

    @property
    def full_gain(self) -> float:
        """The gain of updating everything inspected; see `problem.importance.Importance`."""
        gains: dict[str, float] = {}
        biases: dict[str, float] = {}
        for entry in self.layers:
            found = biases if entry.axis == "bias" else gains
            found[entry.name] = max(entry.potential, found.get(entry.name, 0.0))
        return math.fsum([*gains.values(), *biases.values()])

    def gain(self, layer: str, axis: str | None) -> float | None:
        """The sum of the scores of the channels chosen, None if the layer was not inspected."""
        found = (e.gain for e in self.layers if (e.name, e.axis) == (layer, axis))
        return next(found, None)


class BudgetRecord(Record):
    """The budgets of a step, and of the whole `task` where that has some."""

    memory_bytes: int | None
    accounting: str
    macs: int | None
    latency_s: float | None
    energy_j: float | None
    working_bytes: int | None
    task: Annotated[TaskBudget, ByFields()] | None = None

    @property
    def of_a_step(self) -> dict[str, Any]:
        """Those of a step, by name; see `costsim.problem.budget.Budget`."""
        return self.model_dump(exclude={"task"})

    @property
    def of_the_task(self) -> TaskBudget:
        """Those of the whole."""
        return TaskBudget() if self.task is None else self.task


class FleetRecord(Record):
    """Another device that the plan is for as well: its budgets, and what a step takes there."""

    device: DeviceRecord
    budgets: BudgetRecord
    predicted: Prediction | None

    @classmethod
    def of(
        cls, device: DeviceRecord, budget: Budget, predicted: Prediction | None
    ) -> "FleetRecord":
        """The record of a plan on `device`."""
        return cls(device=device, budgets=BudgetRecord(**budget.to_json()), predicted=predicted)

    @property
    def budget(self) -> Budget:
        """The budgets as a value."""
        return Budget(**self.budgets.of_a_step)


class LayerRecord(Record):
    """What is updated of one layer."""

    name: Name
    axis: Literal["output", "input"] | None
    channels: Annotated[tuple[Count, ...], Listed]
    bias: bool

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.axis is None) != (not self.channels):
            raise refuse("axis and channels come together: both, or null and an empty list")
        if not self.channels and not self.bias:
            raise refuse("updates neither channels nor the bias; leave the layer out")
        return self

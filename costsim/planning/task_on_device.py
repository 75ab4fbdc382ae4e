"""What is to be done for a task and where: all that a choice of recipe goes by."""

from dataclasses import dataclass, field, replace

from costsim.device import DeviceSpec
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.adaptation import (
    AdaptationProgram,
    Phase,
    Scored,
    Task,
    compile_adaptation,
)
from costsim.ir.recipe import CacheIn, Recipe
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting import OF_LIVE_BYTES
from costsim.pricing.adaptation import AdaptationCost, Parts, Readings, price_adaptation
from costsim.problem.budget import Budget
from costsim.problem.task_budget import TaskBudget

_WITH_CACHE = frozenset({Phase.CACHING, Phase.MEANS, Phase.TRAINING})


@dataclass(frozen=True)
class Asked:
    """What is to be done for a task and where: all that a choice of recipe goes by.

    `plan` is of `graph`, traced at the samples of a pass of `step`; `scored` is what the device
    scores before it chooses. `budget` is of a step, `task_budget` of the whole.
    """

    graph: LayerGraph
    plan: UpdatePlan
    task: Task
    step: TrainingStep | None
    device: DeviceSpec
    target: str | None = None
    scored: Scored | None = None
    budget: Budget = field(default_factory=Budget)
    task_budget: TaskBudget = field(default_factory=TaskBudget)
    readings: Readings = field(default_factory=Readings, repr=False, compare=False)

    def cost(self, recipe: Recipe) -> AdaptationCost:
        """The price by a recipe."""
        program = self._program(recipe)
        return price_adaptation(program, self.device, self.target, self.readings)

    def forward_cost(self, recipe: Recipe) -> AdaptationCost:
        """The price of all but what the plan's updates add to each step."""
        program = self._program(recipe, forward_only=True)
        return price_adaptation(program, self.device, self.target, self.readings)

    def forward_parts(self, recipe: Recipe) -> Parts:
        """At least what a forward pass takes before and behind each cut."""
        program = self._program(replace(recipe, cut=None, cache_in="nothing"), forward_only=True)
        whole = program[Phase.ANSWERING].program
        return self.readings.parts(whole, self.device.target(self.target))

    def _program(self, recipe: Recipe, *, forward_only: bool = False) -> AdaptationProgram:
        return compile_adaptation(
            self.graph,
            self.plan,
            recipe,
            self.task,
            scored=self.scored,
            images_in=self.device.placement.support_images,
            step=self.step,
            forward_only=forward_only,
        )

    def lasting_bytes(self, recipe: Recipe) -> int:
        """Bytes of RAM that lie beside the steps while training, in no program's own buffers."""
        return self._program(recipe, forward_only=True).lasting_bytes(Phase.TRAINING)

    def exceeded(self, cost: AdaptationCost) -> dict[str, tuple[float, float]]:
        """The budgets of the whole that are broken: what it takes, and what is allowed."""
        return self.task_budget.exceeded(cost.usage)

    @property
    def room_bytes(self) -> int:
        """Of RAM, for what is live at once: the device's, and the budget's where it counts that."""
        limits = [self.device.largest_block_bytes]
        if self.budget.accounting in OF_LIVE_BYTES and self.budget.memory_bytes is not None:
            limits.append(self.budget.memory_bytes)
        return min(limits)

    def has_place(self, cache_in: CacheIn) -> bool:
        """Whether the device has such a place at all, and says how fast it is."""
        if cache_in != "storage":
            return True
        region = self.device.region("storage")
        return region is not None and None not in (region.read_bandwidth, region.write_bandwidth)

    def has_room(self, cost: AdaptationCost, cache_in: CacheIn) -> bool:
        """Whether what is kept in a place fits there; in RAM beside all else while it is there."""
        if cache_in == "nothing":
            return True
        if cache_in == "storage":
            return cost.stored_bytes.get("storage", 0) <= self.device.storage_bytes
        held = max((p.peak_bytes for p in cost.phases if p.phase in _WITH_CACHE), default=0)
        return held <= self.room_bytes

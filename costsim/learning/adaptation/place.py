"""Where a network is adapted: the device that is priced, and what it may spend."""

from dataclasses import dataclass, field

from costsim.device import ComputeTarget, DeviceSpec
from costsim.ir.recipe import CACHES, CacheIn
from costsim.ir.step import BitWidths
from costsim.planning import BudgetRequest
from costsim.problem.task_budget import TaskBudget


@dataclass(frozen=True)
class Place:
    """The device that is priced: its compute target, and the budgets asked for.

    `caches`: where it may keep what the frozen part of a network computes. `task_budget` limits the
    whole adaptation; for it a recipe is made sparing, but for its fields in `pinned`.
    """

    device: DeviceSpec
    target_name: str | None = None
    budget: BudgetRequest = field(default_factory=BudgetRequest)
    caches: tuple[CacheIn, ...] = CACHES
    task_budget: TaskBudget = field(default_factory=TaskBudget)
    pinned: frozenset[str] = frozenset()

    @property
    def bits(self) -> BitWidths:
        """Bits an element of its steps: those usual on the device."""
        return self.device.bits.usual

    @property
    def target(self) -> ComputeTarget:
        """The compute target."""
        return self.device.target(self.target_name)

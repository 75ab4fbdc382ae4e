"""What a method costs on a device, by the programs that it would run there."""

from dataclasses import dataclass, replace
from typing import Any

from costsim.ir.operators import UpdateKind
from costsim.ir.program import compile_program
from costsim.ir.program.adaptation import Scored, Task
from costsim.ir.step import OPTIMIZER_STATES
from costsim.learning.adaptation.method import Choice
from costsim.learning.adaptation.situation import Situation
from costsim.planning.recipes import PricedRecipe, choose_cache, unkept
from costsim.planning.task_on_device import Asked
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.cost import Cost, price
from costsim.problem.budget import Budget
from costsim.problem.problem import ROUNDING


@dataclass(frozen=True)
class MethodCost:
    """The price of one iteration and of the whole adaptation.

    `step` is an iteration over all `samples` samples, `micro_batch` at a time: its memory in every
    accounting, its MACs, its seconds and joules. `autograd_bytes` is what stock PyTorch keeps for
    as many samples as one pass has, in fp32, for comparison. `adaptation` is the whole of it, from
    scoring to an answer, cut where it takes least; None where nothing is trained. `exceeds` names
    the limits of the budget that a step of a method that trains anything breaks: some methods ask
    for none. `unkept` says why nothing is kept where that was asked for.
    """

    samples: int
    micro_batch: int
    step: Cost
    autograd_bytes: int
    adaptation: PricedRecipe | None
    exceeds: tuple[str, ...] = ()
    unkept: str | None = None

    @property
    def backward_macs_a_sample(self) -> float:
        """Backward MACs of a step by sample, as published tables have them."""
        return self.step.macs.backward / self.samples

    def to_json(self, accounting: str = "peak") -> dict[str, Any]:
        """As one JSON object; the `step` is that of a plan file's predicted costs."""
        return {
            "samples": self.samples,
            "micro_batch": self.micro_batch,
            "step": self.step.to_json(accounting),
            "autograd_bytes": self.autograd_bytes,
            "backward_macs_a_sample": self.backward_macs_a_sample,
            "adaptation": None if self.adaptation is None else self.adaptation.to_json(),
            "exceeds": list(self.exceeds),
        }


def method_cost(
    situation: Situation,
    choice: Choice,
    *,
    transductive: bool = False,
    extra_training: float = 0.0,
) -> MethodCost:
    """Price what `choice` trains of the situation's network for its task, on its device.

    `extra_training`: what a guard trains besides, as a share of the iterations.
    """
    recipe, place = situation.recipe, situation.place
    samples = situation.samples + (len(situation.task.query_labels) if transductive else 0)
    step = situation.step_over(samples)
    graph = situation.backbone.graph(step.samples_a_pass)
    plan = choice.plan
    trains = bool(plan.subsets or plan.biases)
    cost = price(compile_program(graph, plan, step), place.device, place.target_name)
    priced, told = None, None
    if trains:
        axes: tuple[UpdateKind, ...] = choice.scored_axes or ("output",)
        if choice.importance is not None:
            axes = tuple(dict.fromkeys(entry.axis for entry in choice.importance.channels))
        asked = Asked(
            graph,
            plan,
            Task(samples, situation.task.ways),
            step,
            place.device,
            place.target_name,
            Scored(choice.scored, axes, choice.scoring) if choice.scored else None,
            situation.budget,
            place.task_budget,
        )
        iterations = round(recipe.iterations * (1 + extra_training))
        priced = choose_cache(asked, replace(recipe, iterations=iterations), place.caches)
        told = unkept(asked, priced, place.caches)
    return MethodCost(
        samples,
        step.samples_a_pass,
        cost,
        autograd_memory(
            graph, plan, optimizer_states=OPTIMIZER_STATES[recipe.optimizer]
        ).total_bytes,
        priced,
        _exceeds(situation.budget, cost) if trains else (),
        told,
    )


def _exceeds(budget: Budget, cost: Cost) -> tuple[str, ...]:
    """The limits of `budget` that a step at this `cost` breaks, by more than rounding."""
    on = cost.on_device
    used: dict[str, float] = {
        "memory_bytes": cost.memory.in_accounting(budget.accounting),
        "working_bytes": cost.memory.peak_bytes,
        "macs": cost.macs.backward,
        "latency_s": 0.0 if on is None else on.latency_s.value,
        "energy_j": 0.0 if on is None else on.energy_j.value,
    }
    limits = {name: getattr(budget, name) for name in used}
    return tuple(
        name
        for name, limit in limits.items()
        if limit is not None and used[name] > limit * (1 + ROUNDING)
    )

"""The same training in other ways: images at a time, or as stock PyTorch does it.

What is trained, and on which images, is the same in each, and so is the result but for rounding.
What differs is how many images are in memory at once, what is kept of them, and so what swaps.
"""

from dataclasses import dataclass
from typing import Any

from costsim.device import DeviceSpec, Interval
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.pricing.accounting.autograd import autograd_memory
from costsim.pricing.cost import resident_bytes, step_seconds
from costsim.pricing.micro_batch import GraphAt, largest_micro_batch, program_at
from costsim.pricing.swap import swapping

STOCK = "as stock PyTorch does it"
PLANNED = "as planned"
FITTING = "as many images a pass as RAM takes"
SINGLE = "image by image"


@dataclass(frozen=True, slots=True)
class Way:
    """What all steps of a training cost in one way.

    `held_bytes` are live at once, with the weights that are in RAM; `excess_bytes` of them are
    over RAM, and swap in each pass. The times and joules are of training alone, swapping included;
    None where it fits nowhere.
    """

    name: str
    samples_a_pass: int
    held_bytes: int
    excess_bytes: int
    swap_s: Interval | None
    latency_s: Interval | None
    energy_j: Interval | None

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        found: dict[str, Any] = {
            "name": self.name,
            "samples_a_pass": self.samples_a_pass,
            "held_bytes": self.held_bytes,
            "excess_bytes": self.excess_bytes,
        }
        for key in ("swap_s", "latency_s", "energy_j"):
            amount: Interval | None = getattr(self, key)
            found[key] = None if amount is None else amount.to_json()
        return found


@dataclass(frozen=True)
class Training:
    """So many steps of one plan, and the device that does them."""

    plan: UpdatePlan
    step: TrainingStep
    steps: int
    device: DeviceSpec
    target: str | None = None

    def way(self, name: str, program: TrainingProgram, held_bytes: int | None = None) -> Way:
        """What all steps cost by `program`, or where they hold other bytes than it says."""
        target = self.device.target(self.target)
        held = resident_bytes(program, self.device)[1] if held_bytes is None else held_bytes
        computing = step_seconds(program, target) * self.steps
        added = swapping(self.device, held, self.target, program.step.passes)
        if added is None:
            excess = held - self.device.largest_block_bytes
            return Way(name, program.step.samples_a_pass, held, excess, None, None, None)
        waiting = added.latency_s * self.steps
        return Way(
            name,
            program.step.samples_a_pass,
            held,
            added.excess_bytes,
            waiting,
            computing + waiting,
            target.joules(computing, waiting),
        )

    def at(self, name: str, graph_at: GraphAt, samples: int) -> Way:
        """With so many samples a pass, by the program that a plan is priced by."""
        return self.way(name, program_at(graph_at, self.plan, self.step, samples))

    def fitting(self, graph_at: GraphAt) -> Way | None:
        """With as many samples a pass as RAM takes; None where it takes none."""
        samples = largest_micro_batch(graph_at, self.plan, self.step, self.device)
        return None if samples is None else self.at(FITTING, graph_at, samples)

    def stock(self, graph: LayerGraph) -> Way:
        """As stock PyTorch does it: by the kernels of `graph`, holding what autograd keeps.

        `graph` has the whole batch in one pass, and batch norm apart where the network has any.
        """
        step = TrainingStep(self.step.batch, optimizer=self.step.optimizer)
        program = compile_program(graph, self.plan, step)
        states = self.step.optimizer_states
        memory = autograd_memory(graph, self.plan, optimizer_states=states)
        return self.way(STOCK, program, memory.total_bytes)

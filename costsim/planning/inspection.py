"""A network priced as it stands: no images, no scores, no choice.

What a person asks first of any network: what does it cost to run on that board, and what to train
all of it, or its last layer. All three are the same program read by the same prices as a plan, so
that a plan's figures lie between them.
"""

from dataclasses import dataclass

from costsim.base.errors import InputError
from costsim.device import DeviceSpec
from costsim.ir.graph import LayerGraph
from costsim.ir.plan import UpdatePlan
from costsim.ir.program import TrainingProgram, compile_program
from costsim.ir.step import TrainingStep
from costsim.pricing.cost import Cost, price
from costsim.solvers.baselines import last_layer_plan


@dataclass(frozen=True)
class Case:
    """One way to use the network: what it is called, its program of one step, and its price."""

    name: str
    words: str
    program: TrainingProgram
    cost: Cost

    @property
    def trains(self) -> bool:
        """Whether anything is updated in it."""
        return bool(self.program.plan.subsets or self.program.plan.biases)


@dataclass(frozen=True)
class Inspection:
    """A network's cases, the cheapest first; what cannot be updated at all has the first alone."""

    model: str
    graph: LayerGraph
    step: TrainingStep
    device: DeviceSpec | None
    target: str | None
    cases: tuple[Case, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of what one pass is given, the samples first."""
        return self.graph[self.graph.input].shape

    @property
    def parameters(self) -> int:
        """Elements of all weights and biases, each once."""
        return sum(parameter.size for parameter in self.graph.parameters)

    @property
    def fits(self) -> bool:
        """Whether at least inference does, where a device was named."""
        on_device = self.cases[0].cost.on_device
        return on_device is None or on_device.fits


def inspect_graph(
    model: str,
    graph: LayerGraph,
    step: TrainingStep,
    device: DeviceSpec | None = None,
    target: str | None = None,
) -> Inspection:
    """The price of one step of `graph` without training, of the last layer, and of everything.

    Raises `InputError` for a target that the device lacks.
    """
    if device is not None:
        device.target(target)
    elif target is not None:
        raise InputError("--target is of a device; give --device too")
    plans = [("forward", "inference, nothing is trained", UpdatePlan())]
    last = last_layer_plan(graph)
    if last is not None:
        plans.append(("last layer", f"trains {last.subsets[0].layer}", last))
    full = UpdatePlan.full(graph)
    if full.subsets or full.biases:
        plans.append(("full", "trains every weight and bias", full))
    cases = []
    for name, words, plan in plans:
        program = compile_program(graph, plan, step)
        cases.append(Case(name, words, program, price(program, device, target)))
    return Inspection(model, graph, step, device, target, tuple(cases))

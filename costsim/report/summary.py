"""What a plan comes to, layer by layer and in words: what the table and the page both show.

Numbers of the whole step are those of the plan file; what a single layer costs is read from the
training program, and sums to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costsim.base.units import counted, format_bytes, format_macs, format_percent, format_seconds
from costsim.ir.graph import LayerGraph
from costsim.ir.program import Schedule, TrainingProgram, compile_program
from costsim.report.amounts import interval, seconds
from costsim.report.budgets import BudgetUse, budget_uses, flash_use, task_budget_uses
from costsim.report.layers import LayerMacs, kept_bytes, layer_kind, layer_macs, live_bytes
from costsim.report.recipe import recipe_line
from costsim.solving.planfile import PlanFile, SolverRecord


@dataclass(frozen=True, slots=True)
class ChosenLayer:
    """A layer with something to update, and what that takes.

    `channels` of `size` along `axis` (None: the bias alone). `gain_share` is of the gain of
    updating everything inspected, None where the layer was not scored. A tensor that several layers
    need kept is counted for the first of them.
    """

    name: str
    kind: str
    axis: str | None
    channels: tuple[int, ...]
    size: int
    bias: bool
    gain_share: float | None
    weight_gradient_macs: int
    kept_bytes: int


def no_plan(solver: SolverRecord) -> str:
    """Why there is no plan, in one sentence without its full stop."""
    if solver.status == "time_limit":
        return f"No plan was found in the time allowed: {solver.reason or solver.sentence}"
    return f"No plan is within the budgets: {solver.reason or 'none was found'}"


class Summary:
    """A plan file read together with the graph it is a plan for.

    A `schedule` of the graph and the step may be given to save building it. Raises `InputError` if
    the plan does not fit `graph`, or `graph` the batch of the step.
    """

    def __init__(self, file: PlanFile, graph: LayerGraph, schedule: Schedule | None = None) -> None:
        self.file, self.graph = file, graph
        self.program: TrainingProgram = compile_program(graph, file.plan, file.step, schedule)

    @property
    def model_line(self) -> str:
        """The model and where its weights come from."""
        return f"{self.file.model.name}, {self.file.model.provenance}"

    @property
    def device_line(self) -> str:
        """The device and the compute target."""
        device = self.file.device
        return "no device" if device is None else f"{device.title}: {device.target_title}"

    @property
    def task_line(self) -> str:
        """What the channels were scored by, and on what."""
        scored = self.file.importance
        on = f" on {scored.samples} samples" if scored.samples else ""
        source = f" ({scored.source})" if scored.source else ""
        layers = len({entry.name for entry in scored.layers})
        return f"{scored.criterion}{on}{source}, {layers} layers inspected"

    @property
    def headline(self) -> tuple[tuple[str, str], ...]:
        """What was asked and who answered, labelled."""
        sought = self.file.sought
        return (
            *((("sought", sought.sentence),) if sought is not None else ()),
            ("model", self.model_line),
            ("device", self.device_line),
            ("step", self.step_line),
            ("recipe", self.recipe_line),
            ("chosen by", self.task_line),
            ("solver", self.solver_line),
        )

    @property
    def unchosen(self) -> int:
        """How many layers of the model have nothing to update."""
        return len(self.graph.layers) - len(self.file.order)

    @property
    def step_line(self) -> str:
        """How a step is done."""
        step = self.file.step
        batch = f"batch {step.batch}"
        if step.passes > 1:
            batch += f" in {step.passes} passes of {step.samples_a_pass}"
        bits = sorted({step.bits.weights, step.bits.activations, step.bits.gradients})
        return f"{batch}, {step.optimizer}, {'/'.join(map(str, bits))}-bit"

    @property
    def recipe_line(self) -> str:
        """How the task is adapted to."""
        return recipe_line(self.file.recipe, self.file.task.samples)

    @property
    def solver_line(self) -> str:
        """Solver, status in words, gap and seconds."""
        solver = self.file.solver
        gap = ""
        if solver.gap is not None:
            within = f"within {format_percent(solver.gap)} of the best possible"
            gap = f"; {within if solver.gap else 'gap 0'}"
        # without a plan the reason is the answer, and is said there
        reason = f" ({solver.reason})" if solver.reason and self.file.predicted else ""
        return f"{solver.name}, {format_seconds(solver.seconds)}: {solver.sentence}{reason}{gap}"

    @property
    def answer(self) -> str:
        """The whole plan in one sentence."""
        predicted = self.file.predicted
        if predicted is None:
            return f"{no_plan(self.file.solver)}."
        memory, macs = predicted.memory, predicted.macs
        if not self.file.plan.subsets and not self.file.plan.biases:
            what = "Update nothing"
        else:
            chosen = sum(len(subset.channels) for subset in self.file.plan.subsets)
            layers = f"{len(self.file.order)} of {counted(len(self.graph.layers), 'layer')}"
            biases = len(self.file.plan.biases)
            also = f" and {counted(biases, 'bias', 'biases')}" if biases else ""
            what = f"Update {counted(chosen, 'channel')}{also} in {layers}"
            if not chosen:
                what = f"Update {'the bias' if biases == 1 else 'the biases'} of {layers}"
            if self.file.solver.share is not None:
                what += f" for {format_percent(self.file.solver.share)} of all gain"
        sentence = (
            f"{what}: a step peaks at {format_bytes(memory.peak_bytes)}, its backward pass does "
            f"{format_macs(macs.backward)}, {format_percent(macs.backward_share)} of updating "
            "everything"
        )
        if predicted.latency_s is not None:
            latency = predicted.latency_s
            sentence += f", and it takes {interval(latency.step, latency.low, latency.high)}"
        if predicted.fits is False:
            sentence += "; it does not fit in the device's memory"
            if predicted.swap_s is not None:
                sentence += f" and swaps for {format_seconds(predicted.swap_s.value)}"
        if predicted.adaptation is not None and predicted.adaptation.latency_s is not None:
            sentence += f". The whole adaptation takes {seconds(predicted.adaptation.latency_s)}"
        return sentence + "."

    @property
    def explanation(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Why the plan is what it is: headings with sentences; none where nobody asked."""
        explained = self.file.explanation
        if explained is None:
            return ()
        if explained.optimum is None:
            if not explained.relaxations:
                return (("Why", ("No plan was found in the time allowed.",)),)
            said = tuple(entry.sentence for entry in explained.relaxations)
            return (("What would make it possible, each alone", said),)
        if explained.missed is None or not explained.missed:
            best = "No plan within the budgets gains more."
        else:
            missed = format_percent(explained.missed)
            best = f"The best plan within the budgets has {missed} of all gain more."
        if not explained.proven:
            best = "The greatest gain was not proven in the time allowed. " + best
        sections = [("Budgets", (best, *(entry.sentence for entry in explained.limits)))]
        if explained.left_out:
            sections.append(
                ("Inspected layers left out", tuple(e.sentence for e in explained.left_out))
            )
        return tuple(sections)

    @cached_property
    def budgets(self) -> tuple[BudgetUse, ...]:
        """The limits that are set, with what the plan uses of them."""
        file = self.file
        return (
            *budget_uses(file.budget, file.predicted, file.device),
            *flash_use(file.predicted, file.device_spec),
        )

    @cached_property
    def task_budgets(self) -> tuple[BudgetUse, ...]:
        """Those of the whole adaptation."""
        return task_budget_uses(self.file.task_budget, self.file.predicted)

    @cached_property
    def fleet(self) -> tuple[tuple[str, "Summary"], ...]:
        """The other devices that the plan is for, by name, each with its own budgets."""
        return tuple(
            (
                one.device.name,
                Summary(
                    replace(
                        self.file,
                        device=one.device,
                        budget=one.budget,
                        predicted=one.predicted,
                        fleet=(),
                    ),
                    self.graph,
                ),
            )
            for one in self.file.fleet
        )

    @cached_property
    def _kept_bytes(self) -> Mapping[str | None, int]:
        return kept_bytes(self.program)

    @property
    def other_kept_bytes(self) -> int:
        """Bytes kept for no weight gradient; see `kept_bytes`."""
        return self._kept_bytes.get(None, 0)

    @cached_property
    def macs(self) -> tuple[LayerMacs, ...]:
        """MACs of one step by layer, in the model's order; those without any are left out."""
        return layer_macs(self.program)

    @cached_property
    def chosen(self) -> tuple[ChosenLayer, ...]:
        """The layers with something to update, in the model's order."""
        weight_macs = {entry.name: entry.weight_gradient for entry in self.macs}
        total = self.file.importance.full_gain
        rows = []
        for name in self.file.order:
            subset = self.file.plan.by_layer.get(name)
            bias = name in self.file.plan.biases
            kinds = ([] if subset is None else [subset.axis]) + (["bias"] if bias else [])
            gains = [self.file.importance.gain(name, kind) for kind in kinds]
            scored = [gain for gain in gains if gain is not None]
            rows.append(
                ChosenLayer(
                    name=name,
                    kind=layer_kind(self.graph, name),
                    axis=None if subset is None else subset.axis,
                    channels=() if subset is None else subset.channels,
                    size=0 if subset is None else self.graph.selectable_channels(name, subset.axis),
                    bias=bias,
                    gain_share=sum(scored) / total if scored and total else None,
                    weight_gradient_macs=weight_macs.get(name, 0),
                    kept_bytes=self._kept_bytes.get(name, 0),
                )
            )
        return tuple(rows)

    @cached_property
    def live_bytes(self) -> dict[str, NDArray[np.int64]]:
        """Live bytes of each of `GROUPS` at each operation; they sum to the memory timeline."""
        return live_bytes(self.program)

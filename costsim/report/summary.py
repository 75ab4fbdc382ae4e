"""What a plan comes to, layer by layer and in words: what the table and the page both show.

Numbers of the whole step are those of the plan file; what a single layer costs is read from the
training program, and sums to them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costsim.graph import LayerGraph
from costsim.operators import Convolution, Linear
from costsim.planfile import PlanFile, Prediction, Range, SolverRecord
from costsim.program import Buffer, Category, Direction, TrainingProgram, compile_program
from costsim.units import format_bytes, format_joules, format_macs, format_seconds

GROUPS = (
    "updated weights",
    "optimiser state",
    "kept for the backward pass",
    "weight gradients",
    "gradients in passing",
    "activations in passing",
)
"""What live bytes are for, from what lasts longest to what lasts shortest."""


GROUP_COLOURS = dict(
    zip(
        GROUPS,
        ("weights", "optimiser", "kept", "dweights", "gradient", "activation"),
        strict=True,
    )
)
"""The page's colour of each group."""

BUDGETS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "memory_bytes": ("memory", format_bytes),
    "working_bytes": ("room on the device (peak)", format_bytes),
    "macs": ("backward MACs", format_macs),
    "latency_s": ("latency", format_seconds),
    "energy_j": ("energy", format_joules),
}
"""What a person reads for each limit of a budget, and how its amounts are written."""


@dataclass(frozen=True, slots=True)
class ChosenLayer:
    """A layer with something to update, and what that takes.

    `channels` of `size` along `axis` (None: the bias alone). `gain_share` is of the whole gain,
    None where the layer was not scored. A tensor that several layers need kept is counted for
    the first of them.
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


@dataclass(frozen=True, slots=True)
class LayerMacs:
    """MACs of one step that one layer (or one call without weights) causes."""

    name: str
    forward: int
    recompute: int
    input_gradient: int
    weight_gradient: int


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """One budget: its name for a person, what is used of it and what is allowed, with units.

    `used` and `share` are None where there is no plan.
    """

    name: str
    used: str | None
    allowed: str
    share: float | None


def no_plan(solver: SolverRecord) -> str:
    """Why there is no plan, in one sentence without its full stop."""
    if solver.status == "time_limit":
        return f"No plan was found in the time allowed: {solver.reason or solver.sentence}"
    return f"No plan is within the budgets: {solver.reason or 'none was found'}"


class Summary:
    """A plan file read together with the graph it is a plan for.

    Raises `InputError` if the plan does not fit `graph`, or `graph` the batch of the step.
    """

    def __init__(self, file: PlanFile, graph: LayerGraph) -> None:
        self.file, self.graph = file, graph
        self.program: TrainingProgram = compile_program(graph, file.plan, file.step)

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
    def solver_line(self) -> str:
        """Solver, status in words, gap and seconds."""
        solver = self.file.solver
        gap = ""
        if solver.gap is not None:
            gap = (
                f"; within {percent(solver.gap)} of the best possible" if solver.gap else "; gap 0"
            )
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
            layers = f"{len(self.file.order)} of {len(self.graph.layers)} layers"
            biases = len(self.file.plan.biases)
            also = f" and {biases:,} bias{'es' * (biases > 1)}" if biases else ""
            what = f"Update {chosen:,} channels{also} in {layers}"
            if not chosen:
                what = f"Update the biases of {layers}"
        sentence = (
            f"{what}: a step peaks at {format_bytes(memory.peak_bytes)}, its backward pass does "
            f"{format_macs(macs.backward)}, {percent(macs.backward_share)} of updating everything"
        )
        if predicted.latency_s is not None:
            latency = predicted.latency_s
            sentence += f", and it takes {interval(latency.step, latency.low, latency.high)}"
        if predicted.fits is False:
            sentence += "; it does not fit in the device's memory"
            if predicted.swap_s is not None:
                sentence += f" and swaps for {format_seconds(predicted.swap_s.value)}"
        if predicted.task is not None:
            sentence += f". The whole task takes {_seconds(predicted.task.latency_s)}"
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
            best = f"The plan misses {percent(explained.missed)} of the greatest gain."
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
        budget, predicted = self.file.budget, self.file.predicted
        rows = []
        for key, (name, show) in BUDGETS.items():
            limit = getattr(budget, key)
            if limit is None:
                continue
            label = f"{name} ({budget.accounting})" if key == "memory_bytes" else name
            used = None if predicted is None else _used(predicted, key)
            rows.append(
                BudgetUse(
                    label,
                    None if used is None else show(used),
                    show(limit),
                    None if used is None else _share(used, limit),
                )
            )
        return tuple(rows)

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
    def _kept_for(self) -> dict[str, int]:
        """Bytes kept for the weight gradient of each layer; each buffer once."""
        found: dict[str, int] = {}
        for _, layer, size in self._kept_readers():
            if layer is not None:
                found[layer] = found.get(layer, 0) + size
        return found

    def _kept_readers(self) -> Iterable[tuple[Buffer, str | None, int]]:
        """Each kept buffer, the first layer whose weight gradient reads it, and its bytes."""
        program = self.program
        readers: dict[int, set[str]] = {}
        for operation in program.operations:
            if operation.direction is Direction.WEIGHT_GRADIENT and operation.call:
                layer = self.graph[operation.call].layer
                for operand in operation.reads:
                    if layer is not None:
                        readers.setdefault(operand.buffer, set()).add(layer)
        index = {buffer.name: i for i, buffer in enumerate(program.buffers)}
        for buffer in program.kept():
            layers = readers.get(index[buffer.name], set())
            first = next((name for name in self.graph.layers if name in layers), None)
            yield buffer, first, buffer.bytes

    @property
    def other_kept_bytes(self) -> int:
        """Bytes kept for no weight gradient: masks and values of non-linearities the gradient
        crosses."""
        return sum(size for _, layer, size in self._kept_readers() if layer is None)

    @cached_property
    def macs(self) -> tuple[LayerMacs, ...]:
        """MACs of one step by layer, in the model's order; those without any are left out."""
        order: dict[str, list[int]] = {}
        causes = {
            Direction.FORWARD: 0,
            Direction.RECOMPUTE: 1,
            Direction.INPUT_GRADIENT: 2,
            Direction.WEIGHT_GRADIENT: 3,
        }
        for operation in self.program.operations:
            if operation.macs and operation.call:
                name = self.graph[operation.call].layer or operation.call
                counts = order.setdefault(name, [0] * len(causes))
                macs = operation.macs * self.program.times(operation)
                counts[causes[operation.direction]] += macs
        return tuple(LayerMacs(name, *counts) for name, counts in order.items())

    @cached_property
    def chosen(self) -> tuple[ChosenLayer, ...]:
        """The layers with something to update, in the model's order."""
        weight_macs = {entry.name: entry.weight_gradient for entry in self.macs}
        total = self.file.solver.objective
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
                    kept_bytes=self._kept_for.get(name, 0),
                )
            )
        return tuple(rows)

    @cached_property
    def live_bytes(self) -> dict[str, NDArray[np.int64]]:
        """Live bytes of each of `GROUPS` at each operation; they sum to the memory timeline."""
        program = self.program
        steps = len(program.operations)
        change = {group: np.zeros(steps + 1, dtype=np.int64) for group in GROUPS}
        kept = {buffer.name for buffer in program.kept()}
        for buffer in program.buffers:
            if buffer.category is not Category.FROZEN_WEIGHTS:
                group = change[_group(buffer, buffer.name in kept)]
                group[buffer.birth] += buffer.bytes
                group[buffer.death + 1] -= buffer.bytes
        return {group: np.cumsum(delta)[:-1] for group, delta in change.items()}


def _share(used: float, limit: float) -> float:
    """`used` over `limit`; nothing used of nothing allowed is all of it."""
    return used / limit if limit else 1.0


def _group(buffer: Buffer, kept: bool) -> str:
    if kept:
        return "kept for the backward pass"
    return {
        Category.UPDATED_WEIGHTS: "updated weights",
        Category.OPTIMIZER: "optimiser state",
        Category.WEIGHT_GRADIENT: "weight gradients",
        Category.GRADIENT: "gradients in passing",
    }.get(buffer.category, "activations in passing")


def _used(predicted: Prediction, key: str) -> float | None:
    memory = predicted.memory
    match key:
        case "memory_bytes":
            return {
                "peak": memory.peak_bytes,
                "arena": memory.arena_bytes,
                "paper": memory.paper_bytes,
                "tiny-training": memory.tiny_training_bytes,
            }[memory.accounting]
        case "working_bytes":
            return memory.peak_bytes
        case "macs":
            return predicted.macs.backward
        case "latency_s":
            return None if predicted.latency_s is None else predicted.latency_s.step
        case _:
            return predicted.energy_j


Section = tuple[str, list[tuple[str, str]]]


def cost_rows(file: PlanFile) -> list[Section]:
    """Every predicted cost: sections of (what, amount), amounts with units."""
    predicted = file.predicted
    if predicted is None:
        return []
    sections = [
        ("memory of a step", _memory_rows(predicted, file)),
        ("MACs of a step", _mac_rows(predicted)),
    ]
    if timed := _time_rows(predicted):
        sections.append(("time and energy of a step", timed))
    if (task := predicted.task) is not None:
        rows = [
            ("choosing what to update", _seconds(task.selection_s)),
            ("training", _seconds(task.training_s)),
            ("together", _seconds(task.latency_s)),
            ("energy", _joules(task.energy_j)),
        ]
        sections.append((f"whole task, {task.steps:,} steps", rows))
    return sections


def _memory_rows(predicted: Prediction, file: PlanFile) -> list[tuple[str, str]]:
    memory = predicted.memory
    frozen = "frozen weights, beside all of these"
    if file.device is not None:
        where = "RAM" if file.device.frozen_weights == "ram" else "flash"
        frozen = f"frozen weights, in {where} beside all of these"
    amounts = (
        ("peak: most bytes live at once", memory.peak_bytes),
        ("arena: the same with offsets assigned", memory.arena_bytes),
        ("paper: updated weights, their state, kept", memory.paper_bytes),
        ("tiny-training: int8, as published", memory.tiny_training_bytes),
        ("kept for the backward pass", memory.kept_bytes),
        ("kept by stock PyTorch (autograd)", memory.autograd_kept_bytes),
        ("updated weights", memory.updated_weight_bytes),
        ("their gradients", memory.gradient_bytes),
        ("optimiser state", memory.optimizer_bytes),
        (frozen, memory.frozen_weight_bytes),
    )
    return [(what, format_bytes(size)) for what, size in amounts]


def _mac_rows(predicted: Prediction) -> list[tuple[str, str]]:
    macs = predicted.macs
    recompute = ("backward, computed a second time", format_macs(macs.recompute))
    return [
        ("forward", format_macs(macs.forward)),
        ("backward", format_macs(macs.backward)),
        *([recompute] if macs.recompute else []),
        ("backward, of input gradients", format_macs(macs.input_gradient)),
        ("backward, of weight gradients", format_macs(macs.weight_gradient)),
        ("backward, if everything were updated", format_macs(macs.full_backward)),
        ("backward, share of that", percent(macs.backward_share)),
        ("forward and backward, no padding taps", format_macs(macs.unpadded)),
    ]


def _time_rows(predicted: Prediction) -> list[tuple[str, str]]:
    if predicted.latency_s is None:
        return []
    latency = predicted.latency_s
    rows = [("latency", interval(latency.step, latency.low, latency.high))]
    if predicted.swap_s is None:
        rows.append(("swapping", "does not fit at all"))
    elif predicted.swap_s.value:
        rows.append(("swapping", _seconds(predicted.swap_s)))
    if predicted.energy_interval_j is not None:
        rows.append(("energy", _joules(predicted.energy_interval_j)))
    return rows


def _seconds(value: Range) -> str:
    return interval(value.value, value.low, value.high)


def _joules(value: Range) -> str:
    return (
        f"{format_joules(value.value)} ({format_joules(value.low)} to {format_joules(value.high)})"
    )


def interval(value: float, low: float, high: float) -> str:
    """Seconds with their range, for a person."""
    return f"{format_seconds(value)} ({format_seconds(low)} to {format_seconds(high)})"


def percent(share: float) -> str:
    """A share as a percentage to three digits."""
    if 0 < share < 1e-5:
        return "under 0.001 %"
    if not share:
        return "0 %"
    digits = 2 if share < 0.0995 else 1 if share < 0.9995 else 0
    return f"{share * 100:.{digits}f} %"


def layer_kind(graph: LayerGraph, name: str) -> str:
    """What a layer does, in a few characters: `pointwise 96→160`, `depthwise 5×5`."""
    call = graph[graph.layers[name].calls[0]]
    shapes = graph.shapes(call)
    operator = call.operator
    if isinstance(operator, Convolution) and shapes.weight is not None:
        kernel = "×".join(map(str, shapes.weight[2:]))
        ends = f"{shapes.inputs[0][1]}→{shapes.output[1]}"
        if operator.is_depthwise(shapes):
            return f"depthwise {kernel}"
        grouped = f"/{operator.groups}" if operator.groups > 1 else ""
        if math.prod(shapes.weight[2:]) == 1:
            return f"pointwise {ends}{grouped}"
        return f"conv {kernel} {ends}{grouped}"
    if isinstance(operator, Linear) and shapes.weight is not None:
        return f"linear {shapes.weight[1]}→{shapes.weight[0]}"
    return operator.kind.replace("_", " ")

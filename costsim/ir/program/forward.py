"""The forward half of a schedule: where values live, the first pass, and passes computed again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from costsim.ir.graph import Call, LayerGraph, Parameter
from costsim.ir.operators import Need, Shape, elements
from costsim.ir.program.guards import gradient_guards, own_atoms
from costsim.ir.program.schedule import (
    AXES,
    Access,
    Atom,
    Category,
    Direction,
    Guard,
    PartialKeep,
    Step,
    Storage,
)
from costsim.ir.program.segments import segments
from costsim.ir.step import TrainingStep

BIAS_BITS = 32
BIAS_BELOW = 16
"""Sums of 8-bit products take 32 bits, and so do the biases that they start from."""


@dataclass
class ForwardWriter:
    """Writes forward steps and remembers which storage holds which value.

    `steps` and `storages` grow as it writes; the backward pass is appended to the same lists.
    Without `updates` nothing is kept for gradients, of which there are none.
    """

    graph: LayerGraph
    step: TrainingStep
    updates: bool = True
    steps: list[Step] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    storage_of: dict[str, str] = field(default_factory=dict)
    partial_keeps: dict[str, PartialKeep] = field(default_factory=dict)
    last_reader: dict[str, str | None] = field(default_factory=dict)
    guards: Mapping[str, Guard] = field(init=False)
    segment_of: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        if self.updates:
            self.guards = gradient_guards(self.graph)
        else:
            self.guards = {call.name: frozenset() for call in self.graph.calls}
        self.segment_of = segments(self.graph, self.step.recompute)
        self.place_weights()

    @cached_property
    def last_segment(self) -> int:
        """The segment whose values are kept as they are: its backward pass comes at once."""
        return max(self.segment_of.values())

    def run_again(self, segment: int) -> None:
        """Compute the values of a segment again, before its backward pass, where it is needed."""
        calls = [c for c in self.graph.calls if self.segment_of[c.name] == segment]
        needed: dict[str, Guard] = {}
        for call in calls:
            for guard, need in self.needs(call):
                if need.source != "saved":
                    value = call.inputs[need.index] if need.source == "input" else call.name
                    needed[value] = needed.get(value, frozenset()) | guard
        guards: dict[str, Guard] = {}
        for call in reversed(calls):
            guards[call.name] = (
                guards.get(call.name, frozenset())
                | needed.get(call.name, frozenset())
                | self._saved_guard(call)
            )
            for value in call.inputs:
                guards[value] = guards.get(value, frozenset()) | guards[call.name]
        self.run([c for c in calls if c.operator.source is None], guards)

    @cached_property
    def _biases(self) -> frozenset[str]:
        """The biases that are added to products."""
        return frozenset(
            call.bias.name
            for call in self.graph.calls
            if call.bias is not None and call.operator.adds_bias
        )

    def parameter_bits(self, parameter: Parameter) -> int:
        """Bits an element of a parameter takes."""
        bits = self.step.bits.weights
        return BIAS_BITS if bits < BIAS_BELOW and parameter.name in self._biases else bits

    def place_weights(self) -> None:
        """A storage for each parameter, and which channels of it a plan may update."""
        for p in self.graph.parameters:
            width = self.parameter_bits(p)
            self.store(f"parameter:{p.name}", Category.FROZEN_WEIGHTS, p.shape, width)
        if self.updates:
            self._place_updates()

    def _place_updates(self) -> None:
        bits, states = self.step.bits, self.step.optimizer_states
        for name, layer in self.graph.layers.items():
            parts: list[tuple[Atom, int]] = []
            if layer.weight is not None:
                for axis in AXES:
                    count = self.graph.selectable_channels(name, axis)
                    if count:
                        parts.append(((axis, name), layer.weight.size // count))
            wide: set[Atom] = set()
            if layer.bias is not None and not layer.bias.frozen:
                parts.append((("bias", name), layer.bias.size))
                if self.parameter_bits(layer.bias) != bits.weights:
                    wide.add(("bias", name))
            for atom, size in parts:
                self.store(
                    f"weights:{atom[0]}:{name}",
                    Category.UPDATED_WEIGHTS,
                    (size,),
                    BIAS_BITS if atom in wide else bits.weights,
                    atom,
                )
                self.store(
                    f"dweights:{atom[0]}:{name}",
                    Category.WEIGHT_GRADIENT,
                    (size,),
                    bits.gradients,
                    atom,
                )
                if states:
                    self.store(
                        f"optimizer:{atom[0]}:{name}",
                        Category.OPTIMIZER,
                        (states, size),
                        bits.optimizer,
                        atom,
                    )

    def store(
        self,
        name: str,
        category: Category,
        shape: Shape,
        bits: int,
        channels_of: Atom | None = None,
    ) -> str:
        """Note a storage; its name. Those of `channels_of` belong to the channels of an atom."""
        self.storages[name] = Storage(name, category, shape, bits, channels_of)
        return name

    def run(self, calls: Sequence[Call], guards: Mapping[str, Guard] | None) -> None:
        """The steps of a pass over `calls`: the first pass, or with `guards` a second one.

        What is computed again later saves and keeps nothing in the first pass.
        """
        again = guards is not None
        names = {call.name for call in calls}
        for call in calls:
            self._place(call, guards)
            for value in call.inputs:
                if not call.operator.is_view:
                    self.last_reader[self.storage_of[value]] = call.name
        if not again:
            self.last_reader[self.storage_of[self.graph.output]] = None  # the loss reads it
        partial_values = {
            value: channel_bytes
            for value, channel_bytes in self._partially_kept_values(calls).items()
            if again == self._is_recomputed(value) and (not again or value in names)
        }
        kept_before: dict[str | None, list[str]] = {}
        for value in partial_values:
            reader = self.last_reader.get(self.storage_of[value])
            kept_before.setdefault(reader, []).append(value)
        for call in calls:
            if call.operator.is_view or call.operator.source is not None:
                continue
            if guards is not None and not guards[call.name]:
                continue
            for value in kept_before.get(call.name, ()):
                self._keep(value, partial_values[value])
            self._take_over(call)
            self._forward_step(call, None if guards is None else guards[call.name])
        for value, channel_bytes in partial_values.items():
            if value not in self.partial_keeps:
                self._keep(value, channel_bytes)

    def _is_recomputed(self, value: str) -> bool:
        """Whether the readers of a value, in the backward pass, find it computed a second time.

        They do if it lies inside a segment that is; the value between two segments is kept, and
        with it its views.
        """
        call, segment = self.graph[value], self.segment_of[value]
        if value == self.graph.input or segment == self.last_segment:
            return False
        readers = self.graph.readers[value]
        inside = all(self.segment_of[reader.name] == segment for reader in readers)
        if not inside or not call.operator.is_view:
            return inside
        return self._is_recomputed(call.inputs[0])

    def _place(self, call: Call, guards: Mapping[str, Guard] | None) -> None:
        """Say which storage holds the value of `call`."""
        bits = self.step.bits
        if guards is not None and not call.operator.is_view:
            if not guards[call.name]:
                return
            name = f"{call.name} again"
            self.storages[name] = Storage(
                name, Category.ACTIVATION, call.shape, bits.activations, guard=guards[call.name]
            )
            self.storage_of[call.name] = name
            return
        if call.operator.is_view:
            self.storage_of[call.name] = self.storage_of[call.inputs[0]]
            return
        if call.operator.source == "parameter":
            (parameter,) = call.buffers or (call.bias,)
            assert parameter is not None
            self.storage_of[call.name] = f"parameter:{parameter.name}"
            return
        category = Category.INPUT if call.name == self.graph.input else Category.ACTIVATION
        self.storage_of[call.name] = self.store(call.name, category, call.shape, bits.activations)

    def _partially_kept_values(self, calls: Sequence[Call]) -> dict[str, int]:
        values: dict[str, int] = {}
        for call in calls if self.updates else ():
            if call.weight is None or call.weight.frozen:
                continue
            shapes = self.graph.shapes(call)
            for axis in AXES:
                if not call.operator.selectable_channels(shapes, axis):
                    continue
                for need in call.operator.weight_gradient_needs(shapes, axis):
                    if self.keeps_channels(call, need):
                        values[call.inputs[need.index]] = self.channel_bytes(call, "input")
        return values

    def keeps_channels(self, call: Call, need: Need) -> bool:
        """Whether some channels alone of a value may be kept for a weight gradient.

        Not of a parameter, which is there anyway, and not of a value whose channels two layers
        take along different dimensions: that is kept whole.
        """
        if not need.selected_only:
            return False
        value = call.inputs[need.index]
        dimensions = {
            reader.operator.channel_axis(self.graph.shapes(reader), "input")
            for reader in self.graph.readers[value]
            if reader.weight is not None
        }
        return self.is_activation(value) and len(dimensions) == 1

    def channel_bytes(self, call: Call, source: Literal["input", "output"]) -> int:
        """Bytes of one channel of a weighted call's input, or of its output's gradient."""
        shapes = self.graph.shapes(call)
        dimension = call.operator.channel_axis(shapes, source)
        shape = shapes.inputs[0] if source == "input" else shapes.output
        bits = self.step.bits.activations if source == "input" else self.step.bits.gradients
        return elements(shape) // shape[dimension] * bits // 8

    def is_activation(self, value: str) -> bool:
        """Whether a value is computed, rather than the memory of a parameter."""
        return self.storages[self.storage_of[value]].category is not Category.FROZEN_WEIGHTS

    def _keep(self, value: str, channel_bytes: int) -> None:
        storage = self.storage_of[value]
        self.partial_keeps[value] = PartialKeep(value, storage, len(self.steps), channel_bytes)
        access = Access("kept", f"kept:{value}", channel_bytes, value, selected_only=True)
        self.steps.append(
            Step(
                f"keep {value}",
                Direction.KEEP,
                None,
                "elementwise",
                frozenset(),
                (Access("input", storage, channel_bytes, value, selected_only=True),),
                (access,),
            )
        )

    def _take_over(self, call: Call) -> None:
        """Let the output of `call` take over the storage of an input that dies here.

        Of two candidates the later one is taken: the end of a branch rather than its skip, which
        is more often kept for a weight gradient. Both must be of one pass: what a second pass
        reads of the first one, itself or through a view, has met its successor there already.
        """
        output = self.storages[self.storage_of[call.name]]
        for index in reversed(call.operator.overwritable_inputs):
            storage = self.storages[self.storage_of[call.inputs[index]]]
            if (
                storage.category is Category.ACTIVATION
                and self.last_reader[storage.name] == call.name
                and (storage.guard is None) == (output.guard is None)
                and storage.bytes == output.bytes
                and self.graph[call.inputs[index]].shape == call.shape
            ):
                self.storages[storage.name] = replace(
                    storage, in_place_at=len(self.steps), successor=output.name
                )
                return

    def _forward_step(self, call: Call, again: Guard | None) -> None:
        """The first computation of a call, or the second one for the updates in `again`."""
        shapes = self.graph.shapes(call)
        reads = [self.read(f"input {i}", value) for i, value in enumerate(call.inputs)]
        if again is not None:
            # Of another segment only what was kept is still there.
            reads = [
                replace(read, keeps=self.storages[read.storage].guard is None) for read in reads
            ]
        saves = again is not None or self.segment_of[call.name] == self.last_segment
        writes = [Access("output", self.storage_of[call.name], self._value_bytes(call.name))]
        saved = call.operator.saved(shapes)
        if saves and saved is not None and (guard := self._saved_guard(call)):
            bits = saved.bits
            if saved.name == "statistics":  # sums over many elements: never narrower than those
                bits = max(bits, self.step.bits.activations)
            name = self.store(f"{saved.name}:{call.name}", Category.SAVED, saved.shape, bits)
            writes.append(Access("saved", name, self.storages[name].bytes, guard=guard))
        self.steps.append(
            Step(
                f"{call.name} forward" if again is None else f"{call.name} recompute",
                Direction.FORWARD if again is None else Direction.RECOMPUTE,
                call.name,
                call.operator.work_kind(shapes),
                again,
                (*reads, *self.parameters_of(call)),
                tuple(writes),
                call.operator.forward_macs(shapes),
                call.operator.unpadded_share(shapes),
            )
        )

    def needs(self, call: Call) -> Iterator[tuple[Guard, Need]]:
        """What the gradients of a call need kept, each with the updates it is needed for."""
        shapes = self.graph.shapes(call)
        for index, value in enumerate(call.inputs):
            for need in call.operator.input_gradient_needs(shapes, index):
                yield self.guards[value], need
        for atom in own_atoms(self.graph, call):
            if atom[0] != "bias":
                for need in call.operator.weight_gradient_needs(shapes, atom[0]):
                    yield frozenset({atom}), need

    def _saved_guard(self, call: Call) -> Guard:
        """The updates whose gradients read what `call` saves."""
        if not self.updates:
            return frozenset()
        guards = [guard for guard, need in self.needs(call) if need.source == "saved"]
        return frozenset().union(*guards)

    def read(self, role: str, value: str) -> Access:
        """What reading a value moves."""
        return Access(role, self.storage_of[value], self._value_bytes(value), value)

    def _value_bytes(self, value: str) -> int:
        return self.storages[self.storage_of[value]].bytes

    def parameters_of(self, call: Call, *, bias: bool = True) -> list[Access]:
        """What reading the parameters of a call moves; without `bias` the weight alone."""
        parameters = [call.weight, *((call.bias, *call.buffers) if bias else ())]
        return [
            Access("parameter", f"parameter:{p.name}", p.size * self.parameter_bits(p) // 8)
            for p in parameters
            if p is not None
        ]

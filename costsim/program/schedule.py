"""Every step a training step could contain, differentiated once, before any plan is known.

The schedule of a graph lists, in execution order, the forward calls, the loss, the whole backward
pass and all updates. Each step carries a guard: the updates that make it necessary. A plan
activates the steps whose guard it meets; everything else is absent from its program. Which steps
work in place, and which values share a storage, is decided here for all plans alike, so that the
cost of a plan is a simple function of what it contains (`costsim.table`).

A guard is a set of atoms, each an update of one layer: `("output", layer)` or `("input", layer)`
for channels of its weight, `("bias", layer)`. It is met when the plan contains one of its atoms.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, TypeAlias

from costsim.graph import Call, LayerGraph
from costsim.operators import Axis, Need, Shape, elements
from costsim.program.segments import segments
from costsim.step import TrainingStep

Atom: TypeAlias = tuple[Literal["output", "input", "bias"], str]
Guard: TypeAlias = frozenset[Atom]

AXES: tuple[Axis, ...] = ("output", "input")


class Category(StrEnum):
    """What a buffer is for."""

    INPUT = "input"
    ACTIVATION = "activation"
    KEPT_CHANNELS = "kept channels"
    SAVED = "saved"
    GRADIENT = "gradient"
    WEIGHT_GRADIENT = "weight gradient"
    OPTIMIZER = "optimizer"
    UPDATED_WEIGHTS = "updated weights"
    FROZEN_WEIGHTS = "frozen weights"


class Direction(StrEnum):
    """What a step does; with the kind of work it selects a device's throughput."""

    FORWARD = "forward"
    KEEP = "keep"
    LOSS = "loss"
    RECOMPUTE = "recompute"
    INPUT_GRADIENT = "input_gradient"
    WEIGHT_GRADIENT = "weight_gradient"
    BIAS_GRADIENT = "bias_gradient"
    ACCUMULATE = "accumulate"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Storage:
    """A buffer a program may contain.

    `shape` is that of the whole, or of one channel where `channels_of` names the atom whose
    channel count it is multiplied by. `in_place_at` is the position at which the output of a call
    takes this storage over, unless a plan keeps it whole for the backward pass. `guard` is set
    for an activation that is computed a second time: the updates that make it necessary.
    """

    name: str
    category: Category
    shape: Shape
    bits: int
    channels_of: Atom | None = None
    in_place_at: int | None = None
    successor: str | None = None
    guard: Guard | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the whole, or of one channel."""
        return (elements(self.shape) * self.bits + 7) // 8


@dataclass(frozen=True, slots=True)
class Access:
    """A step's use of a storage: in which role, and of a value how many bytes pass.

    `value` names the call whose value is read where that matters (a storage may hold several
    views). `selected_only`: only the plan's channels are read, `bytes` is of one of them. `keeps`:
    a read in the backward pass for which the forward pass must keep the storage.
    """

    role: str
    storage: str
    bytes: int
    value: str | None = None
    selected_only: bool = False
    guard: Guard | None = None
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One potential operation. `macs` is of one channel where `channels_of` is set."""

    name: str
    direction: Direction
    call: str | None
    work_kind: str
    guard: Guard | None
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    macs: int = 0
    unpadded_share: tuple[int, int] = (1, 1)
    channels_of: Atom | None = None
    input_index: int = 0


@dataclass(frozen=True, slots=True)
class PartialKeep:
    """A value of which some channels alone may be kept: the step before its storage may die."""

    value: str
    storage: str
    position: int
    channel_bytes: int


@dataclass(frozen=True)
class Schedule:
    """The potential steps of one graph under one way of stepping, in execution order."""

    graph: LayerGraph
    steps: tuple[Step, ...]
    storages: Mapping[str, Storage]
    storage_of: Mapping[str, str]
    partial_keeps: Mapping[str, PartialKeep]
    gradient_guard: Mapping[str, Guard]
    loss_position: int


def gradient_guards(graph: LayerGraph) -> dict[str, Guard]:
    """For each call, the updates that make the gradient of its value necessary.

    They are those of the call itself and of everything it depends on.
    """
    guards: dict[str, Guard] = {}
    for call in graph.calls:
        guards[call.name] = frozenset(_own_atoms(graph, call)).union(
            *(guards[name] for name in call.inputs)
        )
    return guards


def _own_atoms(graph: LayerGraph, call: Call) -> list[Atom]:
    if call.layer is None:
        return []
    atoms: list[Atom] = [
        (axis, call.layer) for axis in AXES if graph.selectable_channels(call.layer, axis)
    ]
    if call.bias is not None:
        atoms.append(("bias", call.layer))
    return atoms


def build_schedule(graph: LayerGraph, step: TrainingStep) -> Schedule:
    """Differentiate `graph` for every plan at once."""
    return _Builder(graph, step).build()


@dataclass
class _Builder:
    graph: LayerGraph
    step: TrainingStep
    steps: list[Step] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    storage_of: dict[str, str] = field(default_factory=dict)
    partial_keeps: dict[str, PartialKeep] = field(default_factory=dict)
    gradient_of: dict[str, str] = field(default_factory=dict)
    pending: dict[str, set[str]] = field(default_factory=dict)
    guards: dict[str, Guard] = field(default_factory=dict)
    finished_gradients: set[str] = field(default_factory=set)
    last_reader: dict[str, str | None] = field(default_factory=dict)
    segment_of: Mapping[str, int] = field(default_factory=dict)
    recomputed: set[int] = field(default_factory=set)

    def build(self) -> Schedule:
        self.guards = gradient_guards(self.graph)
        self.segment_of = segments(self.graph, self.step.recompute)
        self._weights()
        self._forward()
        loss_position = len(self.steps)
        self._loss()
        for call in reversed(self.graph.calls):
            if call.name in self.gradient_of:
                self._recompute(self.segment_of[call.name])
                self._backward(call)
        if self.step.keeps_gradients:
            for name in reversed(list(self.graph.layers)):
                self._update(name)
        return Schedule(
            self.graph,
            tuple(self.steps),
            self.storages,
            self.storage_of,
            self.partial_keeps,
            self.guards,
            loss_position,
        )

    # Storages that live through the whole step.

    def _weights(self) -> None:
        bits, states = self.step.bits, self.step.optimizer_states
        for p in self.graph.parameters:
            self._store(f"parameter:{p.name}", Category.FROZEN_WEIGHTS, p.shape, bits.weights)
        for name, layer in self.graph.layers.items():
            parts: list[tuple[Atom, int]] = []
            if layer.weight is not None:
                for axis in AXES:
                    count = self.graph.selectable_channels(name, axis)
                    if count:
                        parts.append(((axis, name), layer.weight.size // count))
            if layer.bias is not None:
                parts.append((("bias", name), layer.bias.size))
            for atom, size in parts:
                self._store(
                    f"weights:{atom[0]}:{name}",
                    Category.UPDATED_WEIGHTS,
                    (size,),
                    bits.weights,
                    atom,
                )
                self._store(
                    f"dweights:{atom[0]}:{name}",
                    Category.WEIGHT_GRADIENT,
                    (size,),
                    bits.gradients,
                    atom,
                )
                if states:
                    self._store(
                        f"optimizer:{atom[0]}:{name}",
                        Category.OPTIMIZER,
                        (states, size),
                        bits.optimizer,
                        atom,
                    )

    def _store(
        self,
        name: str,
        category: Category,
        shape: Shape,
        bits: int,
        channels_of: Atom | None = None,
    ) -> str:
        self.storages[name] = Storage(name, category, shape, bits, channels_of)
        return name

    # Forward.

    def _forward(self) -> None:
        self._run(self.graph.calls, None)

    def _run(self, calls: Sequence[Call], guards: Mapping[str, Guard] | None) -> None:
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
        for call in calls:
            if call.operator.is_view or call.operator.kind in ("input", "constant"):
                continue
            if guards is not None and not guards[call.name]:
                continue
            for value, channel_bytes in partial_values.items():
                if self.last_reader.get(self.storage_of[value]) == call.name:
                    self._keep(value, channel_bytes)
            self._take_over(call, names)
            self._forward_step(call, None if guards is None else guards[call.name])
        for value, channel_bytes in partial_values.items():
            if value not in self.partial_keeps:
                self._keep(value, channel_bytes)

    def _is_recomputed(self, value: str) -> bool:
        """Whether the readers of a value, in the backward pass, find it computed a second time.

        They do if it lies inside a segment that is; the value between two segments is kept.
        """
        segment = self.segment_of[value]
        if self.graph[value].operator.kind == "input":
            return False
        readers = [c for c in self.graph.calls if value in c.inputs]
        inside = all(self.segment_of[reader.name] == segment for reader in readers)
        return segment < max(self.segment_of.values()) and inside

    def _recompute(self, segment: int) -> None:
        """Compute the values of a segment again, before its backward pass, where it is needed."""
        if segment == max(self.segment_of.values()) or segment in self.recomputed:
            return
        self.recomputed.add(segment)
        calls = [c for c in self.graph.calls if self.segment_of[c.name] == segment]
        needed: dict[str, Guard] = {}
        for call in calls:
            for guard, need in self._needs(call):
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
        self._run([c for c in calls if c.operator.kind not in ("input", "constant")], guards)

    def _needs(self, call: Call) -> Iterator[tuple[Guard, Need]]:
        """What the gradients of a call need kept, each with the updates it is needed for."""
        shapes = self.graph.shapes(call)
        for index, value in enumerate(call.inputs):
            for need in call.operator.input_gradient_needs(shapes, index):
                yield self.guards[value], need
        for atom in _own_atoms(self.graph, call):
            if atom[0] != "bias":
                for need in call.operator.weight_gradient_needs(shapes, atom[0]):
                    yield frozenset({atom}), need

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
        if call.operator.kind == "constant":
            (parameter,) = call.buffers or (call.bias,)
            assert parameter is not None
            self.storage_of[call.name] = f"parameter:{parameter.name}"
            return
        category = Category.INPUT if call.operator.kind == "input" else Category.ACTIVATION
        self.storage_of[call.name] = self._store(call.name, category, call.shape, bits.activations)

    def _partially_kept_values(self, calls: Sequence[Call]) -> dict[str, int]:
        values: dict[str, int] = {}
        for call in calls:
            if call.weight is None:
                continue
            shapes = self.graph.shapes(call)
            for axis in AXES:
                if not call.operator.selectable_channels(shapes, axis):
                    continue
                for need in call.operator.weight_gradient_needs(shapes, axis):
                    if need.selected_only and self._is_activation(call.inputs[need.index]):
                        values[call.inputs[need.index]] = self._channel_bytes(call, "input")
        return values

    def _channel_bytes(self, call: Call, source: Literal["input", "output"]) -> int:
        """Bytes of one channel of a weighted call's input, or of its output's gradient."""
        shapes = self.graph.shapes(call)
        dimension = call.operator.channel_axis(shapes, source)
        shape = shapes.inputs[0] if source == "input" else shapes.output
        bits = self.step.bits.activations if source == "input" else self.step.bits.gradients
        return elements(shape) // shape[dimension] * bits // 8

    def _is_activation(self, value: str) -> bool:
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

    def _take_over(self, call: Call, calls: Set[str]) -> None:
        """Let the output of `call` take over the storage of an input that dies here.

        Of two candidates the later one is taken: the end of a branch rather than its skip, which
        is more often kept for a weight gradient.
        """
        output = self.storages[self.storage_of[call.name]]
        for index in reversed(call.operator.overwritable_inputs):
            storage = self.storages[self.storage_of[call.inputs[index]]]
            if (
                storage.category is Category.ACTIVATION
                and self.last_reader[storage.name] == call.name
                and call.inputs[index] in calls
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
        reads = [self._read(f"input {i}", value) for i, value in enumerate(call.inputs)]
        if again is not None:
            # Of another segment only what was kept is still there.
            reads = [
                replace(read, keeps=self.storages[read.storage].guard is None) for read in reads
            ]
        last = max(self.segment_of.values())
        saves = again is not None or self.segment_of[call.name] == last
        writes = [Access("output", self.storage_of[call.name], self._value_bytes(call.name))]
        saved = call.operator.saved(shapes)
        if saves and saved is not None and (guard := self._saved_guard(call)):
            name = self._store(f"{saved.name}:{call.name}", Category.SAVED, saved.shape, saved.bits)
            writes.append(Access("saved", name, self.storages[name].bytes, guard=guard))
        self.steps.append(
            Step(
                f"{call.name} forward" if again is None else f"{call.name} recompute",
                Direction.FORWARD if again is None else Direction.RECOMPUTE,
                call.name,
                call.operator.work_kind(shapes),
                again,
                (*reads, *self._parameters_of(call)),
                tuple(writes),
                call.operator.forward_macs(shapes),
                call.operator.unpadded_share(shapes),
            )
        )

    def _saved_guard(self, call: Call) -> Guard:
        """The updates whose gradients read what `call` saves."""
        guards = [guard for guard, need in self._needs(call) if need.source == "saved"]
        return frozenset().union(*guards)

    def _read(self, role: str, value: str) -> Access:
        return Access(role, self.storage_of[value], self._value_bytes(value), value)

    def _value_bytes(self, value: str) -> int:
        return self.storages[self.storage_of[value]].bytes

    def _parameters_of(self, call: Call, *, bias: bool = True) -> list[Access]:
        parameters = [call.weight, *((call.bias, *call.buffers) if bias else ())]
        return [
            Access("parameter", f"parameter:{p.name}", p.size * self.step.bits.weights // 8)
            for p in parameters
            if p is not None
        ]

    # Backward.

    def _loss(self) -> None:
        output = self.graph.output
        guard = self.guards[output]
        writes: tuple[Access, ...] = ()
        if guard:
            name = self._gradient_storage(output)
            self.gradient_of[output] = name
            writes = (Access("gradient", name, self.storages[name].bytes, output, guard=guard),)
        self.steps.append(
            Step(
                "loss",
                Direction.LOSS,
                None,
                "elementwise",
                None,
                (self._read("input 0", output),),
                writes,
            )
        )

    def _gradient_storage(self, value: str, suffix: str = "") -> str:
        name = f"gradient:{value}{suffix}"
        while name in self.storages:
            name += "'"
        self.pending[name] = {value}
        return self._store(
            name, Category.GRADIENT, self.graph[value].shape, self.step.bits.gradients
        )

    def _backward(self, call: Call) -> None:
        """Gradients of one call: of its parameters first, since the rest may overwrite."""
        gradient = self.gradient_of[call.name]
        for atom in _own_atoms(self.graph, call):
            self._parameter_gradient(call, atom, gradient)
        order = ("new", "scatter", "same", "in_place")
        shapes = self.graph.shapes(call)
        indices = sorted(
            (i for i, value in enumerate(call.inputs) if self.guards[value]),
            key=lambda i: order.index(call.operator.gradient_form(shapes, i)),
        )
        for index in indices:
            self._input_gradient(call, index, gradient, last=index == indices[-1])
        self.pending[gradient].discard(call.name)
        layer = call.layer
        immediate = layer is not None and not self.step.keeps_gradients
        if immediate and layer and self.graph.layers[layer].calls[0] == call.name:
            self._update(layer)

    def _parameter_gradient(self, call: Call, atom: Atom, gradient: str) -> None:
        kind, layer = atom
        shapes = self.graph.shapes(call)
        target = f"dweights:{kind}:{layer}"
        temporary = target in self.finished_gradients or self.step.passes > 1
        self.finished_gradients.add(target)
        written = self.storages[target]
        name = target
        if temporary:
            name = self._store(
                f"{target}:{call.name}", Category.GRADIENT, written.shape, written.bits, atom
            )
        dy = Access("gradient", gradient, self.storages[gradient].bytes, call.name)
        if kind == "bias":
            step = Step(
                f"{call.name} bias gradient",
                Direction.BIAS_GRADIENT,
                call.name,
                "elementwise",
                frozenset({atom}),
                (dy,),
                (Access("gradient", name, written.bytes),),
            )
        else:
            if kind == "output":
                per_channel = self._channel_bytes(call, "output")
                dy = Access("gradient", gradient, per_channel, call.name, selected_only=True)
            needs = call.operator.weight_gradient_needs(shapes, kind)
            channels = call.operator.selectable_channels(shapes, kind)
            step = Step(
                f"{call.name} weight gradient ({kind} channels)",
                Direction.WEIGHT_GRADIENT,
                call.name,
                call.operator.work_kind(shapes),
                frozenset({atom}),
                (dy, *(self._need(call, need) for need in needs)),
                (Access("gradient", name, written.bytes, selected_only=True),),
                call.operator.weight_gradient_macs(shapes) // channels,
                call.operator.unpadded_share(shapes),
                channels_of=atom,
            )
        self.steps.append(step)
        if temporary:
            per_channel = atom[0] != "bias"
            into = Access("into", target, written.bytes, selected_only=per_channel)
            self.steps.append(
                Step(
                    f"{call.name} accumulate {kind} gradient",
                    Direction.ACCUMULATE,
                    call.name,
                    "elementwise",
                    frozenset({atom}),
                    (Access("gradient", name, written.bytes, selected_only=per_channel), into),
                    (into,),
                    channels_of=atom if per_channel else None,
                )
            )

    def _need(self, call: Call, need: Need) -> Access:
        if need.source == "saved":
            saved = call.operator.saved(self.graph.shapes(call))
            assert saved is not None
            name = f"{saved.name}:{call.name}"
            return Access("saved", name, self.storages[name].bytes, keeps=True)
        value = call.inputs[need.index] if need.source == "input" else call.name
        if need.selected_only and self._is_activation(value):
            return Access(
                f"kept {need.source} {need.index}",
                self.storage_of[value],
                self._channel_bytes(call, "input"),
                value,
                selected_only=True,
                keeps=True,
            )
        return replace(self._read(f"kept {need.source} {need.index}", value), keeps=True)

    def _input_gradient(self, call: Call, index: int, gradient: str, *, last: bool) -> None:
        shapes = self.graph.shapes(call)
        value = call.inputs[index]
        form = call.operator.gradient_form(shapes, index)
        existing = self.gradient_of.get(value)
        alone = self.pending[gradient] == {call.name}
        if last:
            self.pending[gradient].discard(call.name)
        if form == "same":
            self.pending[gradient].add(value)
            self._contribute(call, value, gradient)
            return
        if form == "in_place" and last and alone:
            target = gradient
            self.pending[gradient].add(value)
        elif form == "scatter" and existing is not None and self.pending[existing] == {value}:
            target = existing
        else:
            target = self._gradient_storage(value, f"<{call.name}" if existing else "")
        reads = [Access("gradient", gradient, self.storages[gradient].bytes, call.name)]
        reads += [self._need(call, n) for n in call.operator.input_gradient_needs(shapes, index)]
        reads += self._parameters_of(call, bias=False)
        if target == existing:
            reads.append(Access("into", target, self.storages[gradient].bytes, value))
        self.steps.append(
            Step(
                f"{call.name} input gradient {index}",
                Direction.INPUT_GRADIENT,
                call.name,
                call.operator.work_kind(shapes),
                self.guards[value],
                tuple(reads),
                (Access("gradient", target, self.storages[target].bytes, value),),
                call.operator.input_gradient_macs(shapes, index),
                call.operator.unpadded_share(shapes),
                input_index=index,
            )
        )
        if target != existing:
            self._contribute(call, value, target)

    def _contribute(self, call: Call, value: str, contribution: str) -> None:
        """Add one consumer's contribution to the gradient of `value`.

        The sum is written over whichever of the two nothing else will read.
        """
        existing = self.gradient_of.get(value)
        if existing is None:
            self.gradient_of[value] = contribution
            return
        if existing == contribution:
            target = self._gradient_storage(value, "+")
        elif self.pending[existing] == {value}:
            target = existing
        elif self.pending[contribution] == {value}:
            target = contribution
        else:
            target = self._gradient_storage(value, "+")
        size = self.storages[target].bytes
        self.steps.append(
            Step(
                f"{call.name} accumulate gradient of {value}",
                Direction.ACCUMULATE,
                call.name,
                "elementwise",
                self.guards[value],
                (
                    Access("existing", existing, size, value),
                    Access("contribution", contribution, size, value),
                ),
                (Access("sum", target, size, value),),
            )
        )
        for storage in {existing, contribution} - {target}:
            self.pending[storage].discard(value)
        self.pending[target].add(value)
        self.gradient_of[value] = target

    # Update.

    def _update(self, layer: str) -> None:
        first = self.graph[self.graph.layers[layer].calls[0]]
        for atom in _own_atoms(self.graph, first):
            kind = atom[0]
            gradient = f"dweights:{kind}:{layer}"
            if gradient not in self.finished_gradients:
                continue
            per_channel = kind != "bias"
            names = [f"weights:{kind}:{layer}", f"optimizer:{kind}:{layer}"]
            state = [
                Access(name.split(":")[0], name, self.storages[name].bytes, None, per_channel)
                for name in names
                if name in self.storages
            ]
            size = self.storages[gradient].bytes
            self.steps.append(
                Step(
                    f"{layer} update ({kind})",
                    Direction.UPDATE,
                    None,
                    "elementwise",
                    frozenset({atom}),
                    (Access("gradient", gradient, size, None, per_channel), *state),
                    tuple(state),
                    channels_of=atom if per_channel else None,
                )
            )

"""The backward half of a schedule: loss, gradients, and updates, for every plan at once."""

from dataclasses import dataclass, field, replace

from costsim.ir.graph import Call, LayerGraph
from costsim.ir.operators import Need
from costsim.ir.program.forward import ForwardWriter
from costsim.ir.program.guards import own_atoms
from costsim.ir.program.schedule import Access, Atom, Category, Direction, Schedule, Step
from costsim.ir.step import TrainingStep


def build_schedule(graph: LayerGraph, step: TrainingStep, *, updates: bool = True) -> Schedule:
    """Differentiate `graph` for every plan at once.

    Without `updates`: for the plan that has none alone, which ends with the loss. Raises
    `InputError` for a recomputation cut where more than one value is read.
    """
    forward = ForwardWriter(graph, step, updates)
    forward.run(graph.calls, None)
    loss_position = len(forward.steps)
    backward = BackwardWriter(graph, step, forward)
    backward.loss()
    if updates:
        backward.write()
    return Schedule(
        graph,
        tuple(forward.steps),
        forward.storages,
        forward.storage_of,
        forward.partial_keeps,
        loss_position,
    )


@dataclass
class BackwardWriter:
    """Appends the loss, the backward pass and the updates to what `forward` wrote.

    `gradient_of` says which storage holds the gradient of a value; `pending` which values in a
    storage have yet to be read, so that nothing is written over too early.
    """

    graph: LayerGraph
    step: TrainingStep
    forward: ForwardWriter
    gradient_of: dict[str, str] = field(default_factory=dict)
    pending: dict[str, set[str]] = field(default_factory=dict)
    finished_gradients: set[str] = field(default_factory=set)

    def write(self) -> None:
        """Everything after the loss, in execution order."""
        ready = self.forward.last_segment
        for call in reversed(self.graph.calls):
            if call.name not in self.gradient_of:
                continue
            if (segment := self.forward.segment_of[call.name]) < ready:
                self.forward.run_again(segment)
                ready = segment
            self._backward(call)
        if self.step.keeps_gradients:
            for name in reversed(list(self.graph.layers)):
                self._update(name)

    def _size(self, storage: str) -> int:
        """Bytes of a storage, or of one channel of it."""
        return self.forward.storages[storage].bytes

    def loss(self) -> None:
        """The end of the forward pass, from which the gradients come."""
        output = self.graph.output
        guard = self.forward.guards[output]
        writes: tuple[Access, ...] = ()
        if guard:
            name = self._gradient_storage(output)
            self.gradient_of[output] = name
            writes = (Access("gradient", name, self._size(name), output, guard=guard),)
        self.forward.steps.append(
            Step(
                "loss",
                Direction.LOSS,
                None,
                "elementwise",
                None,
                (self.forward.read("input 0", output),),
                writes,
            )
        )

    def _gradient_storage(self, value: str, suffix: str = "") -> str:
        name = f"gradient:{value}{suffix}"
        while name in self.forward.storages:
            name += "'"
        self.pending[name] = {value}
        return self.forward.store(
            name, Category.GRADIENT, self.graph[value].shape, self.step.bits.gradients
        )

    def _backward(self, call: Call) -> None:
        """Gradients of one call: of its parameters first, since the rest may overwrite."""
        gradient = self.gradient_of[call.name]
        for atom in own_atoms(self.graph, call):
            self._parameter_gradient(call, atom, gradient)
        order = ("new", "scatter", "same", "in_place")
        shapes = self.graph.shapes(call)
        indices = sorted(
            (i for i, value in enumerate(call.inputs) if self.forward.guards[value]),
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
        written = self.forward.storages[target]
        name = target
        if temporary:
            name = self.forward.store(
                f"{target}:{call.name}", Category.GRADIENT, written.shape, written.bits, atom
            )
        dy = Access("gradient", gradient, self._size(gradient), call.name)
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
                per_channel = self.forward.channel_bytes(call, "output")
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
        self.forward.steps.append(step)
        if temporary:
            per_channel = atom[0] != "bias"
            into = Access("into", target, written.bytes, selected_only=per_channel)
            self.forward.steps.append(
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
            return Access("saved", name, self._size(name), keeps=True)
        value = call.inputs[need.index] if need.source == "input" else call.name
        if self.forward.keeps_channels(call, need):
            return Access(
                f"kept {need.source} {need.index}",
                self.forward.storage_of[value],
                self.forward.channel_bytes(call, "input"),
                value,
                selected_only=True,
                keeps=True,
            )
        return replace(self.forward.read(f"kept {need.source} {need.index}", value), keeps=True)

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
        reads = [Access("gradient", gradient, self._size(gradient), call.name)]
        reads += [self._need(call, n) for n in call.operator.input_gradient_needs(shapes, index)]
        reads += self.forward.parameters_of(call, bias=False)
        if target == existing:
            reads.append(Access("into", target, self._size(gradient), value))
        self.forward.steps.append(
            Step(
                f"{call.name} input gradient {index}",
                Direction.INPUT_GRADIENT,
                call.name,
                call.operator.work_kind(shapes),
                self.forward.guards[value],
                tuple(reads),
                (Access("gradient", target, self._size(target), value),),
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
        size = self._size(target)
        self.forward.steps.append(
            Step(
                f"{call.name} accumulate gradient of {value}",
                Direction.ACCUMULATE,
                call.name,
                "elementwise",
                self.forward.guards[value],
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

    def _update(self, layer: str) -> None:
        first = self.graph[self.graph.layers[layer].calls[0]]
        for atom in own_atoms(self.graph, first):
            kind = atom[0]
            gradient = f"dweights:{kind}:{layer}"
            if gradient not in self.finished_gradients:
                continue
            per_channel = kind != "bias"
            names = [f"weights:{kind}:{layer}", f"optimizer:{kind}:{layer}"]
            state = [
                Access(name.split(":")[0], name, self._size(name), None, per_channel)
                for name in names
                if name in self.forward.storages
            ]
            size = self._size(gradient)
            self.forward.steps.append(
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

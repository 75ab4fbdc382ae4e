"""The program that scores channels: the passes of a step, with scores in the place of updates."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import UpdateKind, elements
from costsim.ir.plan import ChannelSubset, UpdatePlan
from costsim.ir.program.compile import compile_program
from costsim.ir.program.program import Buffer, Operand, Operation, TrainingProgram
from costsim.ir.program.schedule import Category, Direction
from costsim.ir.step import TrainingStep


@dataclass(frozen=True, slots=True)
class ScoringWork:
    """What a criterion does with every sample: so many `rounds` of a forward and a backward pass.

    `weight_gradients`: one of them has the gradients of the inspected layers' weights, which stay
    until the scores are there, and looks at nothing that these layers write; `again`: in one the
    inspected layers run a second time, with other weights.
    """

    rounds: int = 1
    weight_gradients: bool = False
    again: bool = False


FISHER_WORK = ScoringWork()
"""One pass, whose input gradients are enough."""


def compile_scoring(
    graph: LayerGraph,
    step: TrainingStep,
    layers: Sequence[str],
    work: ScoringWork = FISHER_WORK,
    axes: Collection[UpdateKind] = frozenset({"output"}),
) -> TrainingProgram:
    """The program of one pass over the samples of `graph` that scores `layers` along `axes`.

    It is that of the step that would update them. Where their gradients are computed and used
    there, each is scored here, from the gradient of what it wrote and what else the criterion
    looks at; nothing is kept that nobody looks at, and nothing is updated, so that all weights are
    frozen. Of several rounds it is the one with most to do. `step` says the bit widths and what is
    computed a second time. The scores themselves outlive the pass: they are no buffer of it.
    """
    if set(axes) == {"bias"}:  # their gradients are sums of those that are there anyway
        work = ScoringWork(work.rounds)
    whole = work.weight_gradients or "input" in axes
    counts = {layer: graph.selectable_channels(layer, "output") for layer in layers}
    plan = UpdatePlan(
        tuple(
            ChannelSubset(layer, "output", tuple(range(count if whole else 1)))
            for layer, count in counts.items()
            if count
        ),
        frozenset(layer for layer, count in counts.items() if not count),  # its weight is frozen
    )
    once = replace(step, batch=graph.batch, micro_batch=None, optimizer="sgd", update="immediate")
    looks = _Looks(
        inputs=work.weight_gradients or "input" in axes,
        outputs=not work.weight_gradients and "output" in axes,
        gradients=work.weight_gradients,
        again=work.again,
    )
    return _Rewriter(compile_program(graph, plan, once), looks).rewritten()


@dataclass(frozen=True, slots=True)
class _Looks:
    """What a criterion looks at besides the gradient of what a layer wrote."""

    inputs: bool
    outputs: bool
    gradients: bool
    again: bool


@dataclass
class _Rewriter:
    """Puts scores in the place of updates; lifetimes follow from what is still read."""

    program: TrainingProgram
    looks: _Looks
    operations: list[Operation] = field(default_factory=list)
    added: list[Buffer] = field(default_factory=list)

    def rewritten(self) -> TrainingProgram:
        """The scoring program."""
        computed = self._computed()
        copies = self._copies(computed)
        for position, op in enumerate(self.program.operations):
            if (copied := copies.get(position)) is not None:
                self._copy(*copied)
            match op.direction:
                case Direction.UPDATE:
                    pass
                case Direction.KEEP if not self.looks.inputs:
                    pass
                case Direction.ACCUMULATE if self._sums_weights(op) and not self.looks.gradients:
                    pass
                case Direction.WEIGHT_GRADIENT:
                    self._score_weight(op, computed)
                case Direction.BIAS_GRADIENT:
                    self._score(op, op.reads[:1])
                case _:
                    self.operations.append(op)
        return self._finished()

    def _sums_weights(self, op: Operation) -> bool:
        written = self.program.buffers[op.writes[0].buffer]
        return written.category is Category.WEIGHT_GRADIENT

    def _computed(self) -> dict[str, int]:
        """Where the value of a call is computed that its score would read."""
        return {
            op.call: position
            for position, op in enumerate(self.program.operations)
            if op.direction in (Direction.FORWARD, Direction.RECOMPUTE) and op.call
        }

    def _copies(self, computed: dict[str, int]) -> dict[int, tuple[str, Operand]]:
        """The scored values that are written over before they are read, by where that happens."""
        found: dict[int, tuple[str, Operand]] = {}
        if not self.looks.outputs:
            return found
        scored = [
            op.call
            for op in self.program.operations
            if op.direction is Direction.WEIGHT_GRADIENT and op.call
        ]
        for call in scored:
            value = self.program.operations[computed[call]].writes[0]
            for position in range(computed[call] + 1, len(self.program.operations)):
                op = self.program.operations[position]
                if any(operand.buffer == value.buffer for operand in op.writes):
                    found[position] = (call, value)
                    break
        return found

    def _buffer(self, name: str, like: Buffer) -> int:
        """A buffer of its own for a value like that in another one; its index."""
        self.added.append(replace(like, name=name, category=Category.ACTIVATION))
        return len(self.program.buffers) + len(self.added) - 1

    def _copy(self, call: str, value: Operand) -> None:
        held = self._buffer(f"{call} to be scored", self.program.buffers[value.buffer])
        self.operations.append(
            Operation(
                f"keep {call}",
                Direction.KEEP,
                None,
                "elementwise",
                (replace(value, role="input", value=call),),
                (replace(value, role="kept", buffer=held, value=call),),
            )
        )

    def _value(self, call: str, computed: dict[str, int]) -> Operand:
        """The value of a call as its score reads it: where it was written, or the copy."""
        written = self.program.operations[computed[call]].writes[0]
        name = f"{call} to be scored"
        for number, buffer in enumerate(self.added):
            if buffer.name == name:
                return replace(written, role="value", buffer=len(self.program.buffers) + number)
        return replace(written, role="value", value=call)

    def _score_weight(self, op: Operation, computed: dict[str, int]) -> None:
        """The score of a layer's channels at one of its calls."""
        assert op.call is not None
        gradient = op.reads[0]
        whole = replace(gradient, bytes=self.program.buffers[gradient.buffer].bytes, channels=None)
        forward = self.program.operations[computed[op.call]]
        if self.looks.gradients:
            self.operations.append(op)
        if self.looks.again:
            again = self._buffer(
                f"{op.call} by other weights", self.program.buffers[forward.writes[0].buffer]
            )
            inputs = tuple(o for o in op.reads if o.role != "gradient")
            parameters = tuple(o for o in forward.reads if o.role == "parameter")
            self.operations.append(
                replace(
                    forward,
                    name=f"{op.call} by other weights",
                    direction=Direction.RECOMPUTE,
                    reads=(*inputs, *parameters),
                    writes=(replace(forward.writes[0], buffer=again),),
                )
            )
            self._score(op, (whole, replace(forward.writes[0], role="value", buffer=again)))
            return
        read = [whole]
        if self.looks.outputs:
            read.append(self._value(op.call, computed))
        if self.looks.inputs:
            read += [o for o in op.reads if o.role != "gradient"]
        self._score(op, tuple(read))

    def _score(self, op: Operation, reads: tuple[Operand, ...]) -> None:
        self.operations.append(
            Operation(f"{op.call} score", Direction.SCORE, op.call, "elementwise", reads, ())
        )

    def _finished(self) -> TrainingProgram:
        """The program of these operations: buffers that one of them touches, as long as they do."""
        touched: dict[int, list[int]] = {}
        for position, op in enumerate(self.operations):
            for operand in (*op.reads, *op.writes):
                touched.setdefault(operand.buffer, []).append(position)
        last = len(self.operations) - 1
        buffers: dict[int, Buffer] = {}
        for index, buffer in enumerate([*self.program.buffers, *self.added]):
            if buffer.category is Category.FROZEN_WEIGHTS:
                size = (elements(buffer.shape) * buffer.bits + 7) // 8
                buffers[index] = replace(buffer, bytes=size, birth=0, death=last)
            elif index in touched:
                stays = buffer.category is Category.WEIGHT_GRADIENT
                first = 0 if stays or buffer.category is Category.INPUT else touched[index][0]
                until = last if stays else touched[index][-1]
                buffers[index] = replace(buffer, birth=first, death=until)
        places = {index: place for place, index in enumerate(buffers)}

        def moved(operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
            return tuple(replace(one, buffer=places[one.buffer]) for one in operands)

        operations = (
            replace(op, reads=moved(op.reads), writes=moved(op.writes)) for op in self.operations
        )
        return replace(self.program, operations=tuple(operations), buffers=tuple(buffers.values()))

"""The training program: one whole training step as a flat list over explicit buffers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Shape
from costsim.ir.plan import UpdatePlan
from costsim.ir.program.schedule import Category, Direction
from costsim.ir.step import TrainingStep


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory with one purpose. It is live at operations `birth` to `death`, both included."""

    name: str
    category: Category
    shape: Shape
    bits: int
    bytes: int
    birth: int
    death: int


@dataclass(frozen=True, slots=True)
class Operand:
    """A buffer in the role it has for one operation, and the bytes the operation moves of it.

    `value` is the call whose value is seen in it; `channels` those the buffer or the access is
    restricted to, None for all.
    """

    role: str
    buffer: int
    bytes: int
    value: str | None = None
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of the program.

    `macs` counts padding taps, `unpadded_macs` what a kernel executes that skips them; `channels`
    are those a weight gradient or an update is restricted to.
    """

    name: str
    direction: Direction
    call: str | None
    work_kind: str
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    macs: int = 0
    unpadded_macs: int = 0
    channels: tuple[int, ...] | None = None
    input_index: int = 0

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written."""
        return sum(operand.bytes for operand in (*self.reads, *self.writes))


@dataclass(frozen=True)
class TrainingProgram:
    """Forward, loss, pruned backward and update of one plan, in execution order.

    With several passes (micro-batches) everything but the updates runs `step.passes` times.
    Operands name buffers by their index in `buffers`.
    """

    graph: LayerGraph
    plan: UpdatePlan
    step: TrainingStep
    operations: tuple[Operation, ...]
    buffers: tuple[Buffer, ...]

    @cached_property
    def loss_position(self) -> int:
        """Index of the loss: what is live before and after it is kept for the backward pass."""
        return next(i for i, op in enumerate(self.operations) if op.direction is Direction.LOSS)

    def kept(self) -> Iterator[Buffer]:
        """Buffers of the forward pass that the backward pass still reads."""
        loss = self.loss_position
        for buffer in self.buffers:
            if buffer.category in KEPT_CATEGORIES and buffer.birth <= loss < buffer.death:
                yield buffer

    def bytes_of(self, category: Category) -> int:
        """Of all buffers of a category, live together or not."""
        return sum(buffer.bytes for buffer in self.buffers if buffer.category is category)

    def times(self, operation: Operation) -> int:
        """How often `operation` runs in one step."""
        return 1 if operation.direction is Direction.UPDATE else self.step.passes


KEPT_CATEGORIES = frozenset(
    {Category.INPUT, Category.ACTIVATION, Category.KEPT_CHANNELS, Category.SAVED}
)

"""Every step a training step could contain, differentiated once, before any plan is known.

The schedule of a graph lists, in execution order, the forward calls, the loss, the whole backward
pass and all updates. Each step carries a guard: the updates that make it necessary. A plan
activates the steps whose guard it meets; everything else is absent from its program. Which steps
work in place, and which values share a storage, is decided here for all plans alike, so that the
cost of a plan is a simple function of what it contains (`costsim.pricing.table`).

A guard is a set of atoms, each an update of one layer: `("output", layer)` or `("input", layer)`
for channels of its weight, `("bias", layer)`. It is met when the plan contains one of its atoms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from costsim.ir.graph import LayerGraph
from costsim.ir.operators import Axis, Shape, UpdateKind, elements

Atom: TypeAlias = tuple[UpdateKind, str]
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
    SCORE = "score"
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
    loss_position: int

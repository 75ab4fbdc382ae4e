"""Where everything of a program lies in the emitted code: arena offsets and flash arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import InputError
from costsim.c.emission.parts import Block, blocks_of
from costsim.ir.graph import Call, Parameter
from costsim.ir.operators import Axis
from costsim.ir.program import (
    Arena,
    Atom,
    Category,
    Direction,
    Operand,
    TrainingProgram,
    plan_arena,
    plan_atoms,
)

FLOAT_BITS = 32


@dataclass(frozen=True)
class Update:
    """One update of a plan: its parameter, and which elements of it, in the order they lie.

    `places` are positions in the flattened parameter, of each element from `offset_bytes` on.
    """

    atom: Atom
    parameter: Parameter
    places: NDArray[np.int64]
    offset_bytes: int
    element_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of the updated weights in the arena."""
        return self.element_bytes * len(self.places)


class Memory:
    """The placement of a program in flash and in one arena.

    Raises `InputError` for two layers that update one parameter.
    """

    def __init__(self, program: TrainingProgram) -> None:
        self.program, self.graph = program, program.graph
        self.arena: Arena = plan_arena(program)
        self.index = {buffer.name: i for i, buffer in enumerate(program.buffers)}
        self.parameters = {p.name: i for i, p in enumerate(self.graph.parameters)}

    @cached_property
    def axes(self) -> Mapping[str, tuple[Axis | None, tuple[int, ...], str]]:
        """For every updated parameter: the axis (None: a whole bias), the channels, the layer."""
        found: dict[str, tuple[Axis | None, tuple[int, ...], str]] = {}
        for (kind, layer), channels in plan_atoms(self.program.plan).items():
            owner = self.graph.layers[layer]
            parameter = owner.bias if kind == "bias" else owner.weight
            assert parameter is not None
            if parameter.name in found:
                raise InputError(
                    f"layers {found[parameter.name][2]!r} and {layer!r} share memory; "
                    "update at most one of them"
                )
            found[parameter.name] = (None if kind == "bias" else kind, channels, layer)
        return found

    def blocks(self, call: Call) -> tuple[Block, ...]:
        """The blocks of a call's weight."""
        assert call.weight is not None
        axis, channels, _ = self.axes.get(call.weight.name, (None, (), ""))
        return blocks_of(call, self.graph.shapes(call), axis, channels)

    @cached_property
    def updates(self) -> tuple[Update, ...]:
        """Every update of the plan."""
        found = []
        for kind, layer in plan_atoms(self.program.plan):
            owner = self.graph.layers[layer]
            offset = self.arena.offsets_bytes[self.index[f"weights:{kind}:{layer}"]]
            if kind == "bias":
                assert owner.bias is not None
                places, width = np.arange(owner.bias.size), self.width(owner.bias.name)
                found.append(Update((kind, layer), owner.bias, places, offset, width))
            else:
                assert owner.weight is not None
                blocks = self.blocks(self.graph[owner.calls[0]])
                places = np.concatenate([b.places for b in blocks if b.updated])
                width = self.width(owner.weight.name)
                found.append(Update((kind, layer), owner.weight, places, offset, width))
        return tuple(found)

    @cached_property
    def frozen(self) -> Mapping[str, NDArray[np.int64]]:
        """The places of every parameter that stay in flash, in the order they lie there."""
        weighted = {c.weight.name: c for c in reversed(self.graph.calls) if c.weight is not None}
        found = {}
        for parameter in self.graph.parameters:
            if parameter.name not in self.axes:
                places = np.arange(parameter.size)
                if parameter.name in weighted:  # groups lie one after another anyway
                    blocks = self.blocks(weighted[parameter.name])
                    places = np.concatenate([b.places for b in blocks])
            elif self.axes[parameter.name][0] is None:
                continue
            else:
                blocks = self.blocks(weighted[parameter.name])
                still = [b.places for b in blocks if not b.updated]
                if not still:
                    continue
                places = np.concatenate(still)
            found[parameter.name] = places
        return found

    def gradient(self, update: Update) -> int:
        """The buffer in which the gradient of an update is summed up."""
        kind, layer = update.atom
        return self.index[f"dweights:{kind}:{layer}"]

    def symbol(self, parameter: str) -> str:
        """The array of what is frozen of a parameter."""
        return f"costsim_weight_{self.parameters[parameter]}"

    def width(self, parameter: str) -> int:
        """Bytes of an element of a parameter."""
        return self.program.buffers[self.index[f"parameter:{parameter}"]].bits // 8

    def dtype(self, parameter: str) -> "np.dtype[np.generic]":
        """Of the elements of a parameter: floats, or integers where weights have 8 bits."""
        if self.program.step.bits.weights == FLOAT_BITS:
            return np.dtype(np.float32)
        return np.dtype(np.int8 if self.width(parameter) == 1 else np.int32)

    def c_type(self, parameter: str) -> str:
        """The C type of the elements of a parameter."""
        dtype = self.dtype(parameter)
        return "float" if dtype == np.float32 else f"{dtype.name}_t"

    def byte_at(self, offset_bytes: int) -> str:
        """A place in the arena as a pointer to int8_t."""
        return f"BYTES({offset_bytes})"

    def bytes_of(self, operand: Operand) -> str:
        """An operand in the arena as a pointer to int8_t."""
        return self.byte_at(self.arena.offsets_bytes[operand.buffer])

    def at(self, offset_bytes: int) -> str:
        """A place in the arena as a pointer to float."""
        return f"AT({offset_bytes})"

    def buffer(self, index: int) -> str:
        """A buffer of the arena as a pointer to float."""
        return self.at(self.arena.offsets_bytes[index])

    def pointer(self, operand: Operand) -> str:
        """An operand as a pointer to float; of a parameter as a value, wherever it is."""
        buffer = self.program.buffers[operand.buffer]
        if buffer.category is Category.FROZEN_WEIGHTS:
            return self.vector(buffer.name.removeprefix("parameter:"))
        return self.buffer(operand.buffer)

    def vector(self, parameter: str) -> str:
        """A bias or a statistic, which is updated as a whole or not at all."""
        if parameter in self.axes:
            layer = self.axes[parameter][2]
            return self.buffer(self.index[f"weights:bias:{layer}"])
        return self.symbol(parameter)

    def block_base(self, call: Call, block: Block) -> str:
        """Where a block of a call's weight lies, as a pointer to float."""
        assert call.weight is not None
        name = call.weight.name
        if block.updated:
            kind, _, layer = self.axes[name]
            offset = self.arena.offsets_bytes[self.index[f"weights:{kind}:{layer}"]]
            if self.width(name) == 1:
                return self.byte_at(offset + block.offset)
            return self.at(offset + 4 * block.offset)
        symbol = self.symbol(name)
        return f"{symbol} + {block.offset}" if block.offset else symbol

    def kept_channels(self, operand: Operand) -> tuple[int, ...] | None:
        """The channels of a value that a buffer holds, if not all."""
        if self.program.buffers[operand.buffer].category is not Category.KEPT_CHANNELS:
            return None
        for op in self.program.operations:
            if op.direction is Direction.KEEP and op.writes[0].buffer == operand.buffer:
                return op.writes[0].channels
        raise AssertionError(f"nothing keeps {operand}")

    def kept_dimension(self, buffer: int) -> int:
        """The dimension along which the channels of a kept value are picked."""
        for op in self.program.operations:
            if op.direction is Direction.WEIGHT_GRADIENT and op.call is not None:
                call = self.graph[op.call]
                if any(read.buffer == buffer for read in op.reads):
                    return call.operator.channel_axis(self.graph.shapes(call), "input")
        raise AssertionError("channels are kept that nothing reads")


def read_weights(
    program: TrainingProgram, weights: Mapping[str, Any], arena: bytes
) -> dict[str, NDArray[Any]]:
    """The updated parameters, whole, as an arena that the emitted code worked in holds them.

    `weights` are those the code was emitted with: what is frozen is taken from them. Of a program
    with 8-bit weights they are integers (`costsim.c.emission.quantization.integers`), as is what is
    returned.
    """
    memory, found = Memory(program), {}
    for update in memory.updates:
        name = update.parameter.name
        dtype = memory.dtype(name)
        whole = np.array(weights[name], dtype, order="C")
        raw = arena[update.offset_bytes : update.offset_bytes + update.bytes]
        whole.reshape(-1)[update.places] = np.frombuffer(raw, dtype)
        found[name] = whole
    return found

"""How a weight is split: what stays in flash and what is updated in RAM, as dense blocks.

A block is a dense `[outputs, inputs, taps]` part of a weight with the numbers of its channels.
A frozen weight is one block (one a group); an updated one has a block of what is updated and a
block of the rest, whichever axis is selected along. Kernels know blocks and nothing of plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from costsim.ir.graph import Call
from costsim.ir.operators import Axis, Shapes


@dataclass(frozen=True)
class Block:
    """A dense part of a weight: its channels and where its elements lie in the parameter.

    `offset` counts elements from the start of the frozen or the updated part. `adds_output`: an
    earlier block has begun the same outputs; `adds_input`: the same inputs' gradient.
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    taps: int
    places: NDArray[np.int64]
    updated: bool
    offset: int
    adds_output: bool
    adds_input: bool

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.places)


def blocks_of(
    call: Call, shapes: Shapes, axis: Axis | None, channels: Sequence[int]
) -> tuple[Block, ...]:
    """The blocks of a call's weight of which `channels` along `axis` are updated (none: None).

    Of a depthwise convolution and of a normalisation a block's inputs are its outputs.
    """
    assert call.weight is not None
    shape = call.weight.shape
    o = call.operator
    if o.is_depthwise(shapes):
        groups, a_group, ins, taps = 1, shape[0], 0, prod(shape[2:])
    elif o.selectable_channels(shapes, "input"):
        groups, ins, taps = o.weight_groups, shape[1], prod(shape[2:])
        a_group = shape[0] // groups
    else:
        groups, a_group, ins, taps = 1, prod(shape), 0, 1
    chosen = frozenset(channels)
    blocks: list[Block] = []
    offsets = {False: 0, True: 0}
    for group in range(groups):
        outputs = range(group * a_group, (group + 1) * a_group)
        inputs = range(group * ins, (group + 1) * ins)
        begun = False
        for updated in (False, True):
            rows, columns = tuple(outputs), tuple(inputs)
            if axis is None:
                rows = () if updated else rows
            elif axis == "output":
                rows = tuple(c for c in rows if (c in chosen) is updated)
            else:
                columns = tuple(c for c in columns if (c in chosen) is updated)
            if not rows or (ins and not columns):
                continue
            if ins:
                within = np.array(columns, np.int64) - group * ins
                grid = np.array(rows, np.int64)[:, None] * ins + within
            else:
                grid = np.array(rows, np.int64)[:, None]
            places = (grid[..., None] * taps + np.arange(taps)).reshape(-1)
            blocks.append(
                Block(
                    rows,
                    columns if ins else rows,
                    taps,
                    places,
                    updated,
                    offsets[updated],
                    begun and axis == "input",
                    begun and axis == "output",
                )
            )
            offsets[updated] += len(places)
            begun = True
    return tuple(blocks)

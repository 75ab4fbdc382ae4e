"""What a program takes on a microcontroller: the program's own numbers, and what comes on top."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from costsim.c.emission.memory import Memory
from costsim.c.emission.options import EmissionOptions
from costsim.ir.operators import elements
from costsim.ir.program import Category
from costsim.ir.program.adaptation import class_means_bytes

DOCUMENT = "costsim_model.json"
"""The emitted file that says what is where."""

VARIABLE_BYTES = 24
"""Variables outside the arena: learning rate, steps done, where it is, the hook, labels, loss."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of one emitted model.

    `arena_bytes` is all RAM a step works in, at least the live peak `peak_bytes`; it holds the
    updated weights and the optimizer's state throughout. `frozen_weight_bytes` lie in flash, and
    beside them, because something has to be copied to RAM at the start, `initial_weight_bytes`;
    `table_bytes` are lists of channels and the like. `class_means_bytes` stand beside the arena.
    """

    arena_bytes: int
    lower_bound_bytes: int
    frozen_weight_bytes: int
    initial_weight_bytes: int
    table_bytes: int
    updated_weight_bytes: int
    optimizer_bytes: int
    variable_bytes: int = VARIABLE_BYTES
    class_means_bytes: int = 0

    @property
    def data_bytes(self) -> int:
        """RAM beside the arena and the stack."""
        return self.class_means_bytes + self.variable_bytes

    @property
    def flash_bytes(self) -> int:
        """Weights, frozen and initial, and tables; the code comes on top."""
        return self.frozen_weight_bytes + self.initial_weight_bytes + self.table_bytes

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    @classmethod
    def of_files(cls, files: Mapping[str, str | bytes]) -> "Sizes":
        """The sizes that emitted files say they have."""
        return cls(**json.loads(files[DOCUMENT])["sizes"])


def sizes_of(memory: Memory, table_bytes: int, options: EmissionOptions) -> Sizes:
    """The sizes of what is emitted."""

    def total(category: Category) -> int:
        return sum(b.bytes for b in memory.program.buffers if b.category is category)

    updated = total(Category.UPDATED_WEIGHTS)
    classes = 0 if options.class_means is None else options.class_means.classes
    output = memory.graph[memory.graph.output].shape
    return Sizes(
        memory.arena.size_bytes,
        memory.arena.lower_bound_bytes,
        total(Category.FROZEN_WEIGHTS),
        updated,
        table_bytes,
        updated,
        total(Category.OPTIMIZER),
        # How many classes there are, and how like each the image at hand is.
        VARIABLE_BYTES + 4 * (classes + 1) * bool(classes),
        class_means_bytes(classes, elements(output[1:]), memory.program.step.bits),
    )

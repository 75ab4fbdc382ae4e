"""The block profile as counts: instructions, multiply-accumulates and cycles of each operation.

Each block's bytes are read once (`thumb`), and what is in them counts as often as the block ran.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from costsim.c.emulation.elf import Image
from costsim.c.emulation.latency import Cycles, work_cycles
from costsim.c.emulation.thumb import Instruction, Kind, decode


@dataclass(frozen=True)
class Work:
    """What one operation executed.

    `fp_macs` are VFMA and its kin; `dsp_macs` SMLABB and SMLAD (two), which kernels in 8 bits ask
    for by name; `int_macs` MLA and the like, a compiler's address arithmetic. `conditional_macs`
    of the first two were in IT blocks, and may not have been executed: where there are any, the
    counts are upper bounds.
    """

    instructions: int
    fp_macs: int
    dsp_macs: int
    int_macs: int
    conditional_macs: int
    by_kind: Mapping[Kind, int]
    cycles: Cycles

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the step's own: of floats, and of integers by name."""
        return self.fp_macs + self.dsp_macs


def count_work(image: Image, blocks: NDArray[Any]) -> dict[int, Work]:
    """What each operation (-1: none) executed, from rows of `costsim.c.emulation.watch.BLOCK`."""
    found: defaultdict[int, Counter[tuple[Instruction, ...]]] = defaultdict(Counter)
    for row in blocks:
        code = image.code(int(row["address"]), int(row["size"]))
        found[int(row["operation"])][decode(code)] += int(row["count"])
    return {operation: _work(counts) for operation, counts in sorted(found.items())}


def _work(blocks: Counter[tuple[Instruction, ...]]) -> Work:
    by_kind: Counter[Kind] = Counter()
    macs = {"fp_mac": 0, "dsp_mac": 0, "int_mac": 0}
    conditional = 0
    for block, count in blocks.items():
        for one in block:
            by_kind[one.kind] += count
            if one.macs:
                macs[one.kind] += one.macs * count
                if one.kind != "int_mac":
                    conditional += one.macs * count * one.conditional
    return Work(
        by_kind.total(),
        macs["fp_mac"],
        macs["dsp_mac"],
        macs["int_mac"],
        conditional,
        by_kind,
        work_cycles(blocks),
    )

"""Cycles of a Cortex-M7 from the instructions that ran: a model, never a measurement.

The core issues in order, up to two instructions a cycle. Each block of code is scheduled three
times in a row, and the last two count: so a loop pays for what it carries from one round to the
next.

Sources of the terms
- pipes and latencies: LLVM's scheduling model of the core, which Arm contributed
  (llvm/lib/Target/ARM/ARMScheduleM7.td): two load pipes, one each for stores, integer multiplies,
  branches and floating point; results after 1 cycle (arithmetic, word loads), 2 (narrow loads,
  integer multiplies), 3 (floating point) and 6 (VFMA, whose accumulator is read 3 cycles later);
  addresses are needed a cycle early; load and store multiple, doubles and divisions issue alone;
- what others measured on an STM32H730 with all code and data in caches
  (quinapalus.com/cm7cycles.html; also Arm's community forum): a floating-point load does not issue
  beside a floating-point operation; a taken branch costs a further cycle;
- memory: the bandwidth of the device file.

The low end takes LLVM's model with memory that never waits. The value adds the measured
restrictions. The high end also lets every word go over the bus, at the low end of its bandwidth.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from costsim.c.emulation.thumb import Instruction, Kind
from costsim.device.interval import Interval
from costsim.device.target import ComputeTarget

LATENCY: dict[Kind, int] = {
    "int_mul": 2,
    "int_mac": 2,
    "dsp_mac": 2,
    "int_div": 7,
    "fp_mac": 6,
    "fp_mul": 3,
    "fp_add": 3,
    "fp_div": 16,
    "fp_move": 3,
}
"""Cycles from issue to use of the result; 1 where nothing is said."""

ACCUMULATOR_ADVANCE = {"fp_mac": 3, "int_mac": 1, "dsp_mac": 1}
"""How much later a multiply-accumulate needs what it adds to."""

_ALONE = frozenset({"load_many", "store_many", "int_div", "system", "it"})
_FP_PIPE = frozenset({"fp_mac", "fp_mul", "fp_add", "fp_div"})
_PIPES: dict[Kind, tuple[str, int]] = {
    "load": ("load", 2),
    "fp_load": ("load", 2),
    "store": ("store", 1),
    "fp_store": ("store", 1),
    "int_mul": ("multiply", 1),
    "int_mac": ("multiply", 1),
    "dsp_mac": ("multiply", 1),
    "branch": ("branch", 1),
    "call": ("branch", 1),
    "fp_mac": ("fp", 1),
    "fp_mul": ("fp", 1),
    "fp_add": ("fp", 1),
    "fp_div": ("fp", 1),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What may issue together, and what a branch costs."""

    fp_beside_load: bool
    branch_cycles: int
    load_use_cycles: int


IDEAL = Rules(fp_beside_load=True, branch_cycles=0, load_use_cycles=1)
MEASURED = Rules(fp_beside_load=False, branch_cycles=1, load_use_cycles=2)


@lru_cache(maxsize=8192)
def block_cycles(block: tuple[Instruction, ...], rules: Rules) -> float:
    """Cycles a block adds when it runs again right after itself."""
    return (_schedule(block * 3, rules) - _schedule(block, rules)) / 2


def _schedule(block: Sequence[Instruction], rules: Rules) -> int:
    """The cycle after the last issue, in order."""
    ready: dict[int, int] = {}
    cycle, alone = 0, False
    issued: list[Instruction] = []
    for one in block:
        earliest = max((_needed(one, register, ready) for register in one.reads), default=0)
        start = max(cycle, earliest)
        if start > cycle:
            issued, alone = [], False
        while issued and (alone or not _fits(one, issued, rules)):
            start, issued, alone = start + 1, [], False
        cycle = start
        issued.append(one)
        alone = one.kind in _ALONE
        if alone:
            # Words beyond the first move one after another, two a cycle at best.
            cycle += max(0, (one.transfers - 1) // 2)
        latency = LATENCY.get(one.kind, 1)
        if one.kind in ("load", "fp_load", "load_many"):
            latency = rules.load_use_cycles + one.narrow
        for register in one.writes:
            ready[register] = cycle + latency
        if one.kind in ("branch", "call"):
            cycle, issued = cycle + rules.branch_cycles, [*issued, one, one]
    return cycle + 1


def _needed(one: Instruction, register: int, ready: dict[int, int]) -> int:
    """The first cycle at which `one` may issue because of a register."""
    known = ready.get(register, 0)
    if register in one.address:
        return known + 1 if known else 0
    if register == one.accumulator:
        return max(0, known - ACCUMULATOR_ADVANCE.get(one.kind, 0))
    return known


def _fits(one: Instruction, issued: list[Instruction], rules: Rules) -> bool:
    if len(issued) > 1 or one.kind in _ALONE:
        return False
    (other,) = issued
    if set(one.reads) & set(other.writes):
        return False
    kinds = {one.kind, other.kind}
    if not rules.fp_beside_load and "fp_load" in kinds and kinds & _FP_PIPE:
        return False
    pipe, width = _PIPES.get(one.kind, ("alu", 2))
    return _PIPES.get(other.kind, ("alu", 2))[0] != pipe or width > 1


@dataclass(frozen=True, slots=True)
class Cycles:
    """Cycles of some work: as the ideal core, as the measured one, and words it moves."""

    ideal: float
    measured: float
    words: int

    def __add__(self, other: "Cycles") -> "Cycles":
        return Cycles(
            self.ideal + other.ideal, self.measured + other.measured, self.words + other.words
        )

    def seconds(self, target: ComputeTarget) -> Interval:
        """Emulated seconds on a core of `target`: a model, with its interval."""
        clock = target.clock.value
        bus = self.words * 4 / target.bandwidth.interval.low
        value = self.measured / clock
        return Interval(value, min(self.ideal / clock, value), value + bus)


def work_cycles(blocks: Counter[tuple[Instruction, ...]]) -> Cycles:
    """Cycles of blocks, each as often as it ran."""
    total = Cycles(0, 0, 0)
    for block, count in blocks.items():
        total += Cycles(
            count * block_cycles(block, IDEAL),
            count * block_cycles(block, MEASURED),
            count * sum(one.transfers for one in block),
        )
    return total

"""Reading Thumb-2 code: of each instruction its length, its kind, and the registers it uses.

As much of the Armv7E-M encoding (Arm DDI 0403, chapters A5 and A7) as counting and timing need:
lengths and multiply-accumulates exactly, registers of what inner loops are made of. What is not
known is an `alu` of its length that reads and writes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

Kind = Literal[
    "alu",
    "int_mul",
    "int_mac",
    "dsp_mac",
    "int_div",
    "load",
    "store",
    "load_many",
    "store_many",
    "branch",
    "call",
    "it",
    "system",
    "fp_mac",
    "fp_mul",
    "fp_add",
    "fp_div",
    "fp_move",
    "fp_load",
    "fp_store",
]

FP = 16
"""Register numbers: 0 to 15 of the core, from here on S0 to S31."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    `macs` are multiply-accumulates of one execution (two for SMLAD). `accumulator` is the register
    a multiply-accumulate adds to, which is needed later than the factors; `address` those an access
    needs earlier. `transfers` are words moved. `conditional`: in an IT block, may not be executed.
    """

    size: int
    kind: Kind
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()
    macs: int = 0
    accumulator: int | None = None
    address: tuple[int, ...] = ()
    transfers: int = 0
    narrow: bool = False
    conditional: bool = False


@lru_cache(maxsize=4096)
def decode(code: bytes) -> tuple[Instruction, ...]:
    """The instructions of a straight piece of code. Raises `ValueError` if it ends inside one."""
    return tuple(_decode(code))


def _decode(code: bytes) -> Iterator[Instruction]:
    at, condition = 0, 0
    while at < len(code):
        first = int.from_bytes(code[at : at + 2], "little")
        if first >> 11 in (0b11101, 0b11110, 0b11111):
            if at + 4 > len(code):
                raise ValueError("the code ends inside an instruction")
            found = wide(first, int.from_bytes(code[at + 2 : at + 4], "little"))
        else:
            found = narrow(first)
        if condition:
            found = replace(found, conditional=True)
            condition -= 1
        if found.kind == "it":
            # The mask's lowest set bit ends the block: 1 to 4 instructions.
            mask = first & 15
            condition = 4 - ((mask & -mask).bit_length() - 1)
        yield found
        at += found.size


def narrow(word: int) -> Instruction:
    """A 16-bit instruction."""
    top = word >> 12
    low, middle, high = word & 7, word >> 3 & 7, word >> 6 & 7
    eight = word >> 8 & 7
    if word < 0x1800:  # shift by immediate
        return Instruction(2, "alu", (middle,), (low,))
    if word < 0x2000:  # add and subtract, of a register or of three bits
        return Instruction(2, "alu", (middle,) if word & 0x400 else (middle, high), (low,))
    if word < 0x4000:  # move, compare, add, subtract of eight bits
        action = word >> 11 & 3
        return Instruction(
            2, "alu", () if action == 0 else (eight,), () if action == 1 else (eight,)
        )
    if word < 0x4400:  # data processing of registers
        action = word >> 6 & 15
        if action == 13:
            return Instruction(2, "int_mul", (low, middle), (low,))
        only_flags = action in (8, 10, 11)
        return Instruction(2, "alu", (low, middle), () if only_flags else (low,))
    if word < 0x4800:  # high registers, branch and exchange
        other, target = word >> 3 & 15, word & 7 | word >> 4 & 8
        action = word >> 8 & 3
        if action == 3:
            return Instruction(2, "call" if word & 0x80 else "branch", (other,))
        reads = (other,) if action == 2 else (target, other)
        return Instruction(2, "alu", reads, () if action == 1 else (target,))
    if word < 0x5000:  # from the literal pool
        return Instruction(2, "load", (), (eight,), transfers=1)
    if word < 0xA000:
        return _narrow_access(word, top, low, middle, high, eight)
    if word < 0xB000:  # address from the program counter or the stack pointer
        return Instruction(2, "alu", (13,) if word & 0x800 else (), (eight,))
    if word < 0xC000:
        return _miscellaneous(word, low, middle)
    if word < 0xD000:
        count = (word & 0xFF).bit_count()
        kind: Kind = "load_many" if word & 0x800 else "store_many"
        return Instruction(2, kind, (eight,), (eight,), address=(eight,), transfers=count)
    if word & 0xFF00 in (0xDE00, 0xDF00):
        return Instruction(2, "system")
    return Instruction(2, "branch")


def _narrow_access(
    word: int, top: int, low: int, middle: int, high: int, eight: int
) -> Instruction:
    if top == 5:  # register offset
        load, small = word >> 9 & 7 >= 3, word >> 9 & 7 not in (0, 4)
        return _access(2, load, low, (middle, high), small)
    if top == 9:  # stack pointer
        return _access(2, bool(word & 0x800), eight, (13,), False)
    return _access(2, bool(word & 0x800), low, (middle,), top != 6)


def _access(
    size: int, load: bool, register: int, address: tuple[int, ...], small: bool
) -> Instruction:
    if load:
        return Instruction(
            size, "load", address, (register,), address=address, transfers=1, narrow=small
        )
    return Instruction(
        size, "store", (register, *address), address=address, transfers=1, narrow=small
    )


def _miscellaneous(word: int, low: int, middle: int) -> Instruction:
    if word & 0xFF00 == 0xBF00:
        return Instruction(2, "it") if word & 15 else Instruction(2, "system")
    if word & 0xF500 == 0xB100:
        return Instruction(2, "branch", (low,))
    if word & 0xFE00 == 0xB400:
        return Instruction(2, "store_many", (13,), (13,), transfers=(word & 0x1FF).bit_count())
    if word & 0xFE00 == 0xBC00:
        count = (word & 0x1FF).bit_count()
        # With the program counter it is a return.
        kind: Kind = "branch" if word & 0x100 else "load_many"
        return Instruction(2, kind, (13,), (13,), transfers=count)
    if word & 0xFF00 == 0xB200:  # extend
        return Instruction(2, "alu", (middle,), (low,))
    if word & 0xFF00 == 0xB000:
        return Instruction(2, "alu", (13,), (13,))
    return Instruction(2, "system" if word & 0xFF00 in (0xB600, 0xBE00) else "alu")


def wide(first: int, second: int) -> Instruction:
    """A 32-bit instruction."""
    base, target, other = first & 15, second >> 8 & 15, second & 15
    if first & 0xEC00 == 0xEC00:
        return _coprocessor(first, second)
    if first & 0xFE00 == 0xE800:
        return _wide_many(first, second, base)
    if first & 0xFE00 == 0xEA00:  # shifted register
        reads = tuple(r for r in (base, other) if r != 15)
        return Instruction(4, "alu", reads, () if target == 15 else (target,))
    if first & 0xF800 == 0xF000:
        if second & 0x8000:
            return _control(first, second)
        wide_immediate = first & 0x0200 and first & 0x0080 == 0 and first & 0x0040  # MOVW, MOVT
        reads = () if base == 15 or wide_immediate else (base,)
        return Instruction(4, "alu", reads, () if target == 15 else (target,))
    if first & 0xFE00 == 0xF800:
        return _wide_access(first, second, base)
    if first & 0xFF80 == 0xFB00:
        return _multiply(first, second)
    if first & 0xFF80 == 0xFB80:
        return _long_multiply(first, second)
    return Instruction(4, "alu", (base, other), (target,))


def _wide_many(first: int, second: int, base: int) -> Instruction:
    load = bool(first & 0x10)
    if first & 0x40:
        if first & 0x0120:  # two words, with pre- or post-index or offset
            pair = (second >> 12, second >> 8 & 15)
            written = (base,) if first & 0x20 else ()
            if load:
                return Instruction(
                    4, "load_many", (base,), (*pair, *written), address=(base,), transfers=2
                )
            return Instruction(
                4, "store_many", (*pair, base), written, address=(base,), transfers=2
            )
        if first & 0xFFF0 == 0xE8D0 and second & 0x00E0 == 0:  # table branch
            return Instruction(4, "branch", (base, second & 15), transfers=1)
        return Instruction(4, "load" if load else "store", (base,), transfers=1)
    registers = second & 0xFFFF
    written = (base,) if first & 0x20 else ()
    listed = tuple(r for r in range(16) if registers >> r & 1)
    if load:
        kind: Kind = "branch" if registers & 0x8000 else "load_many"
        return Instruction(
            4, kind, (base,), (*listed, *written), address=(base,), transfers=len(listed)
        )
    return Instruction(
        4, "store_many", (base, *listed), written, address=(base,), transfers=len(listed)
    )


def _control(first: int, second: int) -> Instruction:
    if second & 0x4000:
        return Instruction(4, "call")
    if second & 0x1000 or first >> 6 & 15 < 14:
        return Instruction(4, "branch")
    return Instruction(4, "system")


def _wide_access(first: int, second: int, base: int) -> Instruction:
    load, register = bool(first & 0x10), second >> 12
    small = first >> 5 & 3 != 2
    if register == 15 and load and small:  # a hint to load ahead
        return Instruction(4, "system")
    address = () if base == 15 else (base,)
    indexed = not first & 0x80 and base != 15
    if indexed and not second & 0x0800:
        address = (*address, second & 15)
    found = _access(4, load, register, address, small)
    if indexed and second & 0x0900 == 0x0900:  # the base is written back
        found = replace(found, writes=(*found.writes, base))
    return replace(found, kind="branch") if load and register == 15 else found


def _multiply(first: int, second: int) -> Instruction:
    action, detail = first >> 4 & 7, second >> 4 & 15
    factors = (first & 15, second & 15)
    accumulator, target = second >> 12, second >> 8 & 15
    if action == 7:  # sums of absolute differences
        return Instruction(4, "alu", factors, (target,))
    subtracts = action == 0 and detail == 1
    if accumulator == 15 and not subtracts:
        return Instruction(4, "int_mul", factors, (target,))
    return Instruction(
        4,
        "dsp_mac" if action in (1, 2) else "int_mac",  # SMLABB and its kin, SMLAD
        (*factors, accumulator),
        (target,),
        macs=2 if action in (2, 4) else 1,
        accumulator=accumulator,
    )


def _long_multiply(first: int, second: int) -> Instruction:
    action, detail = first >> 4 & 7, second >> 4 & 15
    factors, targets = (first & 15, second & 15), (second >> 12, second >> 8 & 15)
    if action in (1, 3):
        return Instruction(4, "int_div", factors, (second >> 8 & 15,))
    if action in (0, 2):
        return Instruction(4, "int_mul", factors, targets)
    double = (action == 4 and detail >= 12) or action == 5
    return Instruction(4, "int_mac", (*factors, *targets), targets, macs=2 if double else 1)


def _single(high: int, low: int) -> int:
    """A single-precision register of four bits and one."""
    return FP + (high << 1 | low)


def _coprocessor(first: int, second: int) -> Instruction:
    if second >> 9 & 7 != 0b101:
        return Instruction(4, "system")
    double = bool(second & 0x100)
    if first & 0xFE00 == 0xEC00:
        return _fp_access(first, second, double)
    d = _single(second >> 12, first >> 6 & 1)
    n = _single(first & 15, second >> 7 & 1)
    m = _single(second & 15, second >> 5 & 1)
    if second & 0x10:  # between the core and the FPU
        core = second >> 12
        if first & 0x10:
            return Instruction(4, "fp_move", (n,), () if core == 15 else (core,))
        return Instruction(4, "fp_move", (core,), (n,))
    if first & 0x1000:  # select, maximum, minimum, rounding
        return Instruction(4, "fp_add", (n, m), (d,))
    match first >> 4 & 0b1011:
        case 0b0000 | 0b0001 | 0b1001 | 0b1010:
            return Instruction(4, "fp_mac", (n, m, d), (d,), macs=1, accumulator=d)
        case 0b0010:
            return Instruction(4, "fp_mul", (n, m), (d,))
        case 0b0011:
            return Instruction(4, "fp_add", (n, m), (d,))
        case 0b1000:
            return Instruction(4, "fp_div", (n, m), (d,))
    if not second & 0x40:  # move an immediate
        return Instruction(4, "fp_move", (), (d,))
    if first & 15 == 1 and second & 0x80:  # square root
        return Instruction(4, "fp_div", (m,), (d,))
    if first & 14 == 4:  # compare
        return Instruction(4, "fp_add", (d,) if first & 1 else (d, m))
    return Instruction(4, "fp_move" if first & 15 == 0 else "fp_add", (m,), (d,))


def _fp_access(first: int, second: int, double: bool) -> Instruction:
    load, base = bool(first & 0x10), first & 15
    if first & 0xFFE0 == 0xEC40:  # two words between the core and the FPU
        return Instruction(4, "fp_move")
    d = _single(second >> 12, first >> 6 & 1)
    address = () if base == 15 else (base,)
    if first & 0x0120 == 0x0100 and not double:
        if load:
            return Instruction(4, "fp_load", address, (d,), address=address, transfers=1)
        return Instruction(4, "fp_store", (d, *address), address=address, transfers=1)
    count = 2 if first & 0x0120 == 0x0100 else second & 0xFF
    start = FP + ((second >> 12) | (first >> 2 & 16)) * 2 if double else d
    listed = tuple(r for r in range(start, start + count) if r < FP + 32)
    written = address if first & 0x20 else ()
    if load:
        return Instruction(
            4, "load_many", address, (*listed, *written), address=address, transfers=count
        )
    return Instruction(
        4, "store_many", (*listed, *address), written, address=address, transfers=count
    )

"""The deepest stack a function can need, from its code: frames of all it calls, added up.

Generated code has no recursion and no variable-length arrays, and the only calls through a pointer
are those of the operations, so that the longest path through the calls is the bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from costsim.base.errors import CostsimError
from costsim.c.emulation.elf import Image, Symbol


class StackUnknown(CostsimError):
    """The depth of the stack cannot be told from the code."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Bytes a function pushes itself, and whom it calls."""

    bytes: int
    calls: frozenset[int]


def stack_bound(image: Image, function: str) -> int:
    """Bytes of stack that a call of `function` takes at most, what it calls included.

    Raises `StackUnknown` for recursion.
    """

    @cache
    def depth(address: int, path: tuple[int, ...]) -> int:
        symbol = image.function_at(address)
        if symbol is None:
            raise StackUnknown(f"a call to {address:#x}, where there is no function")
        if symbol.address in path:
            raise StackUnknown(f"{symbol.name} calls itself: the depth of the stack is not known")
        frame = _frame(image, symbol)
        deeper = (depth(called, (*path, symbol.address)) for called in frame.calls)
        return frame.bytes + max(deeper, default=0)

    return depth(image.address(function), ())


def _frame(image: Image, symbol: Symbol) -> _Frame:
    size, most = 0, 0
    calls = set()
    end = symbol.address + symbol.size_bytes
    for address, word, second in _words(image, symbol):
        if second is None:
            size += _pushed_narrow(word)
            if word & 0xFF87 == 0x4780:
                calls |= {operation.address for operation in image.operations.values()}
        else:
            size += _pushed_wide(word, second)
            target = _target(word, second, address)
            if target is not None and not symbol.address <= target < end:
                calls.add(target)
        most = max(most, size)
    return _Frame(most, frozenset(calls))


def _words(image: Image, symbol: Symbol) -> Iterator[tuple[int, int, int | None]]:
    """Address, first and second halfword (None: there is one) of every instruction."""
    for start, code in image.instructions(symbol):
        at = 0
        while at + 2 <= len(code):
            first = int.from_bytes(code[at : at + 2], "little")
            if first >> 11 not in (0b11101, 0b11110, 0b11111):
                yield start + at, first, None
                at += 2
            else:
                yield start + at, first, int.from_bytes(code[at + 2 : at + 4], "little")
                at += 4


def _pushed_narrow(word: int) -> int:
    """Bytes a 16-bit instruction takes from the stack; what it gives back is not counted."""
    if word & 0xFE00 == 0xB400:
        return 4 * (word & 0x1FF).bit_count()
    if word & 0xFF80 == 0xB080:
        return 4 * (word & 0x7F)
    return 0


def _pushed_wide(first: int, second: int) -> int:
    if first == 0xE92D:  # push of high registers
        return 4 * second.bit_count()
    if first == 0xF84D and second & 0x0FFF == 0x0D04:  # push of one
        return 4
    if first & 0xFFBF == 0xED2D:  # push of floating-point registers: words, singles or doubles
        return 4 * (second & 0xFF)
    if first & 0xFBFF == 0xF2AD and second & 0x8F00 == 0x0D00:  # a constant of 12 bits
        return (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF
    if first & 0xFBEF == 0xF1AD and second & 0x8F00 == 0x0D00:
        return _expanded((first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF)
    return 0


def _expanded(constant: int) -> int:
    """A modified immediate constant (Arm DDI 0403, A5.3.2)."""
    value = constant & 0xFF
    if constant >> 10 == 0:
        return (value, value * 0x00010001, value * 0x01000100, value * 0x01010101)[
            constant >> 8 & 3
        ]
    rotation = constant >> 7
    value = 0x80 | constant & 0x7F
    return (value >> rotation | value << (32 - rotation)) & 0xFFFF_FFFF


def _target(first: int, second: int, address: int) -> int | None:
    """Where a 32-bit branch or call goes."""
    if first & 0xF800 != 0xF000 or not second & 0x8000:
        return None
    sign = first >> 10 & 1
    if second & 0x1000:  # BL and B.W
        j1, j2 = second >> 13 & 1, second >> 11 & 1
        high = sign << 24 | (1 - (j1 ^ sign)) << 23 | (1 - (j2 ^ sign)) << 22
        offset = high | (first & 0x3FF) << 12 | (second & 0x7FF) << 1
        return address + 4 + (offset - (1 << 25) if sign else offset)
    if second & 0x4000 or first >> 6 & 15 >= 14:
        return None
    j1, j2 = second >> 13 & 1, second >> 11 & 1
    offset = sign << 20 | j2 << 19 | j1 << 18 | (first & 0x3F) << 12 | (second & 0x7FF) << 1
    return address + 4 + (offset - (1 << 21) if sign else offset)

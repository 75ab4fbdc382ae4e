"""Reading a firmware: what is loaded where, its symbols, and what it takes of flash and RAM."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from costsim.base.errors import InputError
from costsim.base.extras import require

ARENA = ".costsim_arena"
_OPERATION = re.compile(r"^costsim_op_?0*(\d+)(?:\D|$)")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function or an object: its address (the Thumb bit taken off) and its bytes."""

    name: str
    address: int
    size_bytes: int
    function: bool


@dataclass(frozen=True)
class Image:
    """A firmware as an ELF says it.

    `segments` are (load address, bytes) of what goes into flash; `sections` (address, bytes) of
    what takes room while it runs. `marks` are (address, whether code begins there, else data), in
    order: compilers put constants between instructions.
    """

    segments: tuple[tuple[int, bytes], ...]
    sections: Mapping[str, tuple[int, int]]
    symbols: Mapping[str, Symbol]
    marks: tuple[tuple[int, bool], ...] = ()

    @property
    def flash_bytes(self) -> int:
        """What the firmware takes of flash: code, constants and initial data."""
        return sum(len(content) for _, content in self.segments)

    @property
    def arena(self) -> tuple[int, int]:
        """Address and bytes of the arena."""
        return self.sections.get(ARENA, (0, 0))

    @property
    def data_bytes(self) -> int:
        """RAM of initialised and zeroed data."""
        return sum(self.sections.get(name, (0, 0))[1] for name in (".data", ".bss"))

    @property
    def stack(self) -> tuple[int, int]:
        """Address and bytes of the stack."""
        return self.sections.get(".stack", (0, 0))

    def address(self, name: str) -> int:
        """The address of a symbol; raises `InputError` if there is none."""
        if name not in self.symbols:
            raise InputError(f"the firmware has no symbol {name!r}")
        return self.symbols[name].address

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """Functions by address."""
        found = (symbol for symbol in self.symbols.values() if symbol.function)
        return tuple(sorted(found, key=lambda symbol: symbol.address))

    @cached_property
    def operations(self) -> Mapping[int, Symbol]:
        """The function of each operation of the program, by the index in its name."""
        found = {}
        for symbol in self.functions:
            if match := _OPERATION.match(symbol.name):
                found[int(match[1])] = symbol
        return found

    def function_at(self, address: int) -> Symbol | None:
        """The function an address lies in."""
        for symbol in self.functions:
            if symbol.address <= address < symbol.address + symbol.size_bytes:
                return symbol
        return None

    def instructions(self, function: Symbol) -> Iterator[tuple[int, bytes]]:
        """The parts of a function that are instructions: address and bytes of each."""
        start, end = function.address, function.address + function.size_bytes
        at, is_code = start, True
        for address, code in (*self.marks, (end, True)):
            if address > start:
                until = min(address, end)
                if is_code and at < until:
                    yield at, self.code(at, until - at)
                at = max(at, until)
            is_code = code
            if address >= end:
                return

    def code(self, address: int, size_bytes: int) -> bytes:
        """Bytes of flash. Raises `InputError` outside of it."""
        for start, content in self.segments:
            if start <= address and address + size_bytes <= start + len(content):
                return content[address - start : address - start + size_bytes]
        raise InputError(f"{size_bytes} bytes at {address:#x} are not in the firmware")


def read_image(path: Path) -> Image:
    """The firmware in an ELF file. Raises `InputError` for what is none."""
    require("emulator", "reading a firmware", "elftools")
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            segments = tuple(
                (int(s["p_paddr"]), bytes(s.data()))
                for s in elf.iter_segments()
                if s["p_type"] == "PT_LOAD" and s["p_filesz"]
            )
            sections = {
                s.name: (int(s["sh_addr"]), int(s["sh_size"]))
                for s in elf.iter_sections()
                if s["sh_flags"] & 2
            }
            table = elf.get_section_by_name(".symtab")
            symbols = {} if table is None else _symbols(table)
            marks = () if table is None else _marks(table)
    except (OSError, ELFError) as error:
        raise InputError(f"{path}: is no firmware: {error}") from error
    return Image(segments, sections, symbols, marks)


def _marks(table: object) -> tuple[tuple[int, bool], ...]:
    """Mapping symbols of the Arm ELF: `$t` where code begins, `$d` where data does."""
    found = {
        int(entry["st_value"]) & ~1: entry.name.startswith("$t")
        for entry in table.iter_symbols()  # type: ignore[attr-defined]
        if re.match(r"\$[td](\.|$)", entry.name)
    }
    return tuple(sorted(found.items()))


def _symbols(table: object) -> dict[str, Symbol]:
    found = {}
    for entry in table.iter_symbols():  # type: ignore[attr-defined]
        kind = entry["st_info"]["type"]
        if entry.name and kind in ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE"):
            function = kind == "STT_FUNC"
            address = int(entry["st_value"]) & ~1 if function else int(entry["st_value"])
            found[entry.name] = Symbol(entry.name, address, int(entry["st_size"]), function)
    return found

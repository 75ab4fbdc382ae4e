"""Reading Thumb-2 code: of each instruction its length, its kind, and the registers it uses.

Capstone decodes; what counting and timing ask is read off here. Code that is no instruction is an
`alu` of its length that reads and writes nothing. Capstone 5 takes the vectors of an M55 (MVE) for
those of a coprocessor: a core that has them needs Capstone 6.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Literal

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

_NAMES: dict[Kind, str] = {
    "int_mul": "MUL SMULBB SMULBT SMULTB SMULTT SMULWB SMULWT SMUAD SMUADX SMUSD SMUSDX SMMUL "
    "SMMULR SMULL UMULL",
    "int_mac": "MLA MLS SMLAWB SMLAWT SMLSD SMLSDX SMMLA SMMLAR SMMLS SMMLSR SMLAL UMLAL UMAAL "
    "SMLALBB SMLALBT SMLALTB SMLALTT SMLALD SMLALDX SMLSLD SMLSLDX",
    "dsp_mac": "SMLABB SMLABT SMLATB SMLATT SMLAD SMLADX",
    "int_div": "SDIV UDIV",
    "load": "LDR LDRB LDRH LDRSB LDRSH LDRT LDRBT LDRHT LDRSBT LDRSHT LDREX LDREXB LDREXH",
    "store": "STR STRB STRH STRT STRBT STRHT STREX STREXB STREXH",
    "load_many": "LDM LDMDB POP LDRD VLDMIA VLDMDB VPOP",
    "store_many": "STM STMDB PUSH STRD VSTMIA VSTMDB VPUSH",
    "branch": "B BX CBZ CBNZ TBB TBH",
    "call": "BL BLX",
    "it": "IT",
    "system": "NOP YIELD WFE WFI SEV HINT BKPT SVC UDF CPS DSB DMB ISB MRS MSR PLD PLDW PLI CLREX "
    "CDP CDP2 MCR MCR2 MRC MRC2 MCRR MCRR2 MRRC MRRC2 LDC LDC2 LDCL LDC2L STC STC2 STCL STC2L",
    "fp_mac": "VFMA VFMS VFNMA VFNMS VMLA VMLS VNMLA VNMLS",
    "fp_mul": "VMUL VNMUL",
    "fp_div": "VDIV VSQRT",
    "fp_move": "VMOV FCONSTS FCONSTD VMRS VMSR FMSTAT VABS",
    "fp_load": "VLDR",
    "fp_store": "VSTR",
}
"""Instructions of each kind; of the others, those of the FPU are `fp_add` and the rest `alu`."""

_TWICE = ("SMLAD", "SMLADX", "SMLSD", "SMLSDX", "SMLALD", "SMLALDX", "SMLSLD", "SMLSLDX")
"""Two multiply-accumulates at once."""
_WORDS = ("LDR", "LDRT", "LDREX", "STR", "STRT", "STREX")
"""Accesses of whole words; others of one register are narrow."""
_STACKED = ("POP", "PUSH", "VPOP", "VPUSH")
_ACCESSES = ("load", "load_many", "fp_load", "store", "store_many", "fp_store")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    `macs` are multiply-accumulates of one execution (two for SMLAD). `accumulator` is the register
    a multiply-accumulate adds to, which is needed later than the factors; `address` those an access
    needs earlier. `transfers` are words moved. `conditional`: in an IT block, may not be executed.
    Registers are in ascending order, the program counter left out.
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
    at, conditional = 0, 0
    while at < len(code):
        size = 4 if code[at + 1] >> 3 in (0b11101, 0b11110, 0b11111) else 2
        if at + size > len(code):
            raise ValueError("the code ends inside an instruction")
        found = _one(code[at : at + size])
        yield replace(found, conditional=True) if conditional else found
        conditional = max(0, conditional - 1)
        if found.kind == "it":
            # The mask's lowest set bit ends the block: 1 to 4 instructions.
            mask = code[at] & 15
            conditional = 4 - ((mask & -mask).bit_length() - 1)
        at += size


@lru_cache(maxsize=65536)
def _one(code: bytes) -> Instruction:
    """The one instruction that `code` is; kept, because many come in several blocks."""
    decoded = next(_decoder().disasm(code, 0), None)
    return Instruction(len(code), "alu") if decoded is None else _read(decoded)


@cache
def _decoder() -> Any:
    from capstone import CS_ARCH_ARM, CS_MODE_MCLASS, CS_MODE_THUMB, Cs

    decoder = Cs(CS_ARCH_ARM, CS_MODE_THUMB | CS_MODE_MCLASS)
    decoder.detail = True
    return decoder


@cache
def _kinds() -> dict[int, tuple[str, Kind]]:
    """By Capstone's number: the name and the kind of every instruction that is told apart."""
    from capstone import arm

    return {
        getattr(arm, f"ARM_INS_{name}"): (name, kind)
        for kind, names in _NAMES.items()
        for name in names.split()
    }


@cache
def _registers() -> dict[int, tuple[int, ...]]:
    """By Capstone's number: the register, or the two that a double is."""
    from capstone import arm

    core = [*(f"R{n}" for n in range(13)), "SP", "LR"]
    found = {getattr(arm, f"ARM_REG_{name}"): (n,) for n, name in enumerate(core)}
    found |= {getattr(arm, f"ARM_REG_S{n}"): (FP + n,) for n in range(32)}
    return found | {getattr(arm, f"ARM_REG_D{n}"): (FP + 2 * n, FP + 2 * n + 1) for n in range(16)}


def _numbers(registers: Any) -> tuple[int, ...]:
    known = _registers()
    return tuple(sorted({n for register in registers for n in known.get(register, ())}))


def _read(decoded: Any) -> Instruction:
    """What is asked of an instruction that Capstone has decoded."""
    from capstone.arm import ARM_OP_REG

    name, kind = _kinds().get(decoded.id, ("", "alu"))
    if not name and decoded.insn_name().startswith("v"):
        kind = "fp_add"
    if kind in _ACCESSES:
        return _access(decoded, name, kind)
    if kind == "system":
        return Instruction(decoded.size, kind)
    reads, writes = map(_numbers, decoded.regs_access())
    # Capstone 5 leaves out what is shifted, extended or saturated before it is used.
    used = _numbers(op.reg for op in decoded.operands if op.type == ARM_OP_REG and not op.access)
    reads = tuple(sorted({*reads, *used}))
    if kind in ("branch", "call"):
        return Instruction(decoded.size, kind, reads, transfers=int(name in ("TBB", "TBH")))
    if not kind.endswith("_mac"):
        return Instruction(decoded.size, kind, reads, writes)
    single, last = len(writes) == 1, decoded.operands[-1].reg
    accumulator = writes if kind == "fp_mac" else _numbers([last])
    macs = 2 if name in _TWICE else 1
    return Instruction(decoded.size, kind, reads, writes, macs, accumulator[0] if single else None)


def _access(decoded: Any, name: str, kind: Kind) -> Instruction:
    """A load or a store of one register or of several."""
    from capstone.arm import ARM_OP_MEM, ARM_REG_PC, ARM_REG_SP

    operands, stacked = list(decoded.operands), name in _STACKED
    memory = [op.mem for op in operands if op.type == ARM_OP_MEM]
    if memory:
        where = [r for m in memory for r in (m.base, m.index)]
        moved = [op.reg for op in operands[: 2 if name in ("LDRD", "STRD") else 1]]
    elif stacked:
        where, moved = [ARM_REG_SP], [op.reg for op in operands]
    else:
        where, moved = [operands[0].reg], [op.reg for op in operands[1:]]
    address, registers = _numbers(where), _numbers(moved)
    base = _numbers(where[:1]) if decoded.writeback or stacked else ()
    words = sum(max(1, len(_numbers([register]))) for register in moved)  # STRD of one twice: two
    if kind in ("fp_load", "fp_store") and words > 1:  # a double
        kind = "load_many" if kind == "fp_load" else "store_many"
    narrow = kind in ("load", "store") and name not in _WORDS
    if kind in ("store", "store_many", "fp_store"):
        reads = tuple(sorted({*registers, *address}))
        return Instruction(
            decoded.size, kind, reads, base, address=address, transfers=words, narrow=narrow
        )
    if ARM_REG_PC in moved:
        kind = "branch"
    writes = tuple(sorted({*registers, *base}))
    return Instruction(
        decoded.size, kind, address, writes, address=address, transfers=words, narrow=narrow
    )

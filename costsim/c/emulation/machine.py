"""An emulated Cortex-M7 with exactly the memories of a map; lives in the worker process.

unicorn is GPL: nothing but the worker imports this module.
"""

import importlib
import struct
import time
from pathlib import Path
from typing import Any

from costsim.c.emulation.elf import Image, read_image
from costsim.c.emulation.memory_map import MemoryMap, Span
from costsim.c.emulation.watch import Watch

PAGE = 4096
MAILBOX_ADDRESS = 0x6000_0000
"""Where inputs lie that on a board a camera would bring: outside the device's own memories."""

SYSTEM = Span(0xE000_E000, PAGE)
"""The system control space, of which nothing is needed but that it can be written to."""

NOWHERE = 0xFFFF_FFFE
"""An address that is never reached."""

UART = Span(0x4000_4000, PAGE)
"""UART0 of Arm's CMSDK, as on the MPS2 boards."""

_OUTSIDE = (
    "Reset_Handler",
    "main",
    "costsim_idle",
    "costsim_init",
    "costsim_train_step",
    "costsim_predict",
    "costsim_classify",
    "costsim_begin_means",
    "costsim_add_to_means",
    "costsim_end_means",
    "costsim_begin_step",
    "costsim_pass",
    "costsim_end_step",
    "run",
    "load",
    "is_class",
)
"""What belongs to no operation, nor what it calls itself."""

_FAULTS = {
    6: "read of an address that is not mapped",
    7: "write to an address that is not mapped",
    8: "fetch from an address that is not mapped",
    10: "instruction that the core does not have",
    12: "write to read-only memory",
    13: "read of memory that cannot be read",
    14: "fetch from memory that cannot be executed",
}


class Machine:
    """One core with a firmware in it, stopped at its idle function.

    `call` runs a function of the firmware; the dictionaries it returns are what the worker sends.
    """

    def __init__(
        self, elf: Path, memory: MemoryMap, mailbox_bytes: int, library: Path, uart: Any = None
    ) -> None:
        unicorn: Any = importlib.import_module("unicorn")
        unicorn_const: Any = importlib.import_module("unicorn.unicorn_const")
        arm_const: Any = importlib.import_module("unicorn.arm_const")
        self.image: Image = read_image(elf)
        self.memory = memory
        self._arm, self._error = arm_const, unicorn.UcError
        self.uc: Any = unicorn.Uc(
            unicorn_const.UC_ARCH_ARM, unicorn_const.UC_MODE_THUMB | unicorn_const.UC_MODE_MCLASS
        )
        self.uc.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M7)
        read_execute = unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_EXEC
        read_write = unicorn_const.UC_PROT_READ | unicorn_const.UC_PROT_WRITE
        self._map(memory.flash, read_execute)
        for span in memory.ram():
            self._map(span, read_write)
        self._map(SYSTEM, read_write)
        if mailbox_bytes:
            self._map(Span(MAILBOX_ADDRESS, mailbox_bytes), read_write)
        if uart is not None:
            self.uc.mmio_map(UART.address, UART.size_bytes, uart.read, None, uart.write, None)
        for address, content in self.image.segments:
            self.uc.mem_write(address, content)
        self.fault: dict[str, Any] | None = None
        self.uc.hook_add(unicorn_const.UC_HOOK_MEM_INVALID, self._on_invalid)
        self.uc.hook_add(unicorn_const.UC_HOOK_INTR, self._on_exception)
        operations = {
            index: Span(symbol.address, symbol.size_bytes)
            for index, symbol in self.image.operations.items()
        }
        outside = tuple(
            Span(s.address, s.size_bytes) for s in self.image.functions if s.name in _OUTSIDE
        )
        code = Span(memory.flash.address, self.image.flash_bytes)
        content = bytes(self.uc.mem_read(code.address, code.size_bytes))
        self.watch = Watch(library, self.uc, memory.arena, code, content, operations, outside)

    def _map(self, span: Span, access: int) -> None:
        self.uc.mem_map(span.address, -(-span.size_bytes // PAGE) * PAGE, access)

    def _on_invalid(
        self, uc: Any, access: int, address: int, size: int, value: int, user: Any
    ) -> bool:
        self.fault = {"address": address, "size": size}
        return False

    def _on_exception(self, uc: Any, number: int, user: Any) -> None:
        self.fault = {"kind": f"exception {number}"}
        uc.emu_stop()

    def reset(self) -> tuple[int, int]:
        """Stack pointer and program counter as the core takes them from the vectors."""
        stack, entry = struct.unpack("<II", self.uc.mem_read(self.memory.flash.address, 8))
        self.uc.reg_write(self._arm.UC_ARM_REG_SP, stack)
        return stack, entry

    def boot(self, timeout_s: float) -> dict[str, Any]:
        """Run from reset to the idle function."""
        _, entry = self.reset()
        return self._run(entry, self.image.address("costsim_idle"), timeout_s)

    def call(self, function: str, arguments: list[int], timeout_s: float) -> dict[str, Any]:
        """Call a function with up to four words; what it returns in the first FPU register."""
        self.reset()
        idle = self.image.address("costsim_idle")
        registers = (0, 1, 2, 3)
        for number, argument in zip(registers, arguments, strict=False):
            self.uc.reg_write(getattr(self._arm, f"UC_ARM_REG_R{number}"), argument)
        self.uc.reg_write(self._arm.UC_ARM_REG_LR, idle | 1)
        told = self._run(self.image.address(function) | 1, idle, timeout_s)
        bits = self.uc.reg_read(self._arm.UC_ARM_REG_S0)
        told["value_bits"] = int(bits) & 0xFFFF_FFFF
        return told

    def run_on(self, timeout_s: float = 0.0) -> dict[str, Any]:
        """Run from reset, and through faults as the core would: in the firmware's own handler.

        Ends with the fault where even that is not possible, or when the time (0: none) is over.
        """
        _, begin = self.reset()
        while True:
            told = self._run(begin, NOWHERE, timeout_s)
            fault = told["fault"]
            if fault["kind"] == "time limit" or not self._enter_handler(fault["pc"]):
                return told
            begin = self.image.address("Fault_Handler")

    def _enter_handler(self, pc: int) -> bool:
        """Put the exception frame on the stack (Arm DDI 0403, B1.5.6)."""
        names = ("R0", "R1", "R2", "R3", "R12", "LR")
        words = [int(self.uc.reg_read(getattr(self._arm, f"UC_ARM_REG_{name}"))) for name in names]
        top = int(self.uc.reg_read(self._arm.UC_ARM_REG_SP)) - 32
        if top not in self.memory.stack:
            return False
        self.uc.mem_write(top, struct.pack("<8I", *words, pc, 0x0100_0000))
        self.uc.reg_write(self._arm.UC_ARM_REG_SP, top)
        return True

    def _run(self, begin: int, until: int, timeout_s: float) -> dict[str, Any]:
        """Run to `until`: {"seconds"}, with {"fault"} if it did not get there."""
        self.fault, error = None, None
        started = time.perf_counter()
        try:
            self.uc.emu_start(begin | 1, until, timeout=int(timeout_s * 1e6))
        except self._error as raised:
            error = raised
        told: dict[str, Any] = {"seconds": time.perf_counter() - started}
        pc = int(self.uc.reg_read(self._arm.UC_ARM_REG_PC))
        violation = self.watch.violation()
        if violation is not None:
            kind = "write" if violation["write"] else "read"
            told["fault"] = {
                **self._state(violation["pc"]),
                "kind": f"{kind} beyond the end of the RAM",
                "address": violation["address"],
                "size": violation["size"],
            }
        elif error is not None or self.fault is not None:
            kind = _FAULTS.get(error.errno, str(error)) if error is not None else "exception"
            told["fault"] = {**self._state(pc), "kind": kind, **(self.fault or {})}
        elif pc != until:
            told["fault"] = {**self._state(pc), "kind": "time limit"}
        return told

    def _state(self, pc: int) -> dict[str, Any]:
        reg = self.uc.reg_read
        return {
            "pc": pc & ~1,
            "lr": int(reg(self._arm.UC_ARM_REG_LR)) & ~1,
            "sp": int(reg(self._arm.UC_ARM_REG_SP)),
            "operation": self.watch.operation,
        }

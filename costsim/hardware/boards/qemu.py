"""QEMU's MPS2 board with a Cortex-M7: the same firmware as on a board, over its serial port."""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from costsim.base.errors import InputError
from costsim.c.emulation.build import Firmware
from costsim.c.emulation.lines import Line, SocketLine
from costsim.c.emulation.memory_map import MemoryMap
from costsim.hardware.boards.firmware import EmulatorTarget
from costsim.hardware.boards.line import LineSession
from costsim.hardware.targets.base import Watch

MACHINE = "mps2-an500"
QEMU = "qemu-system-arm"
FLASH_ADDRESS, RAM_ADDRESS = 0x0000_0000, 0x2000_0000
"""Where the board has them: 4 MiB each, of which the linker gives out as much as the device has."""

START_S = 20.0


@dataclass(frozen=True)
class QemuTarget(EmulatorTarget):
    """QEMU's `mps2-an500`, with the sizes of a device's memories."""

    place: ClassVar[str] = f"qemu:{MACHINE}"

    def session(self, watch: Watch) -> "QemuSession":
        """See `Target.session`."""
        return QemuSession(self, watch, self.choices, self.options)


class QemuSession(LineSession):
    """A QEMU that calls us back."""

    timed = False

    def start(self) -> None:
        """See that there are QEMU and a compiler."""
        super().start()
        if shutil.which(QEMU) is None:
            raise InputError(
                f"target {self.target.name!r}: {QEMU} is not installed (Debian: qemu-system-arm)"
            )
        self.process: subprocess.Popen[bytes] | None = None

    def board_memory(self, memory: MemoryMap) -> MemoryMap:
        """See `LineSession.board_memory`; the stack lies below the arena here, too."""
        one = (
            memory
            if memory.shared
            else MemoryMap(memory.device, memory.flash, memory.arena, memory.arena)
        )
        return one.moved(FLASH_ADDRESS, RAM_ADDRESS)

    def open_line(self, firmware: Firmware) -> Line:
        """Start QEMU, with its serial port connected to a socket of ours."""
        self._end()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [
                    QEMU,
                    *("-M", MACHINE, "-display", "none", "-monitor", "none"),
                    *("-kernel", str(firmware.elf)),
                    *("-serial", f"tcp:127.0.0.1:{port},nodelay=on"),
                ],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            return SocketLine.accept(listener, self.target.name, START_S)

    def _end(self) -> None:
        process, self.process = getattr(self, "process", None), None
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def clean_up(self) -> None:
        """Close the line and end QEMU."""
        super().clean_up()
        self._end()

"""An emulated board: a firmware under unicorn whose UART is a pseudo-terminal or a socket.

    python -m costsim.c.emulation.board firmware.elf map.json [HOST:PORT]

Prints the name of the terminal, to be opened like that of a real board, and runs until it is ended.
With an address it connects there instead.
"""

import json
import os
import pty
import select
import socket
import sys
import termios
import tty
from pathlib import Path
from typing import Any

from costsim.c.emulation.build import build_watch
from costsim.c.emulation.machine import Machine
from costsim.c.emulation.worker import map_from_json

DATA, STATE = 0, 4
PATIENCE = 8
"""After so many questions without an answer nothing was to be sent."""


class Uart:
    """UART0 of Arm's CMSDK, as far as the firmware uses it, on a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._in, self._out = bytearray(), bytearray()
        self._idle = 0

    def read(self, uc: Any, offset: int, size: int, user: Any) -> int:
        """A register as the core reads it."""
        if offset == DATA:
            return self._in.pop(0) if self._in else 0
        if offset != STATE:
            return 0
        if not self._in:
            # The firmware asks before it sends, too: only one that asks on and on waits for us.
            self._idle += 1
            waiting = self._idle > PATIENCE
            if waiting:
                self.flush()
            ready, _, _ = select.select([self.descriptor], [], [], 0.02 if waiting else 0)
            if ready:
                self._receive(uc)
        return 2 if self._in else 0

    def _receive(self, uc: Any) -> None:
        try:
            found = os.read(self.descriptor, 4096)
        except OSError:  # a terminal nobody has open
            found = b""
        if not found and not os.isatty(self.descriptor):
            uc.emu_stop()
        self._in += found

    def write(self, uc: Any, offset: int, size: int, value: int, user: Any) -> None:
        """A register as the core writes it."""
        if offset == DATA:
            self._idle = 0
            self._out.append(value & 0xFF)
            if len(self._out) >= 4096:
                self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._out:
            content, self._out = bytes(self._out), bytearray()
            while content:
                content = content[os.write(self.descriptor, content) :]


def open_terminal() -> int:
    """A pseudo-terminal without any processing; its name is printed."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs, termios.TCSANOW)
    print(os.ttyname(theirs), flush=True)
    return ours  # theirs stays open too, so that the line does not hang up between two users


def main() -> None:
    """Run a board until somebody ends it."""
    elf, memory, *place = sys.argv[1:]
    connection = None
    if place:
        host, _, port = place[0].rpartition(":")
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptor = connection.fileno()
    else:
        descriptor = open_terminal()
    uart = Uart(descriptor)
    document = json.loads(Path(memory).read_text())
    machine = Machine(Path(elf), map_from_json(document), 0, build_watch(), uart)
    told = machine.run_on()
    uart.flush()
    print(json.dumps(told), file=sys.stderr)


if __name__ == "__main__":
    main()

"""Lines that carry bytes: a serial port, or a socket."""

import select
import socket
from typing import Protocol, Self

from costsim.base.errors import CostsimError, InputError

WRITE_S = 30.0
"""For one frame to leave: where nobody reads, it never does."""


class LineLost(CostsimError):
    """The line was closed by the other end, or broke."""


class Line(Protocol):
    """A line: bytes in, bytes out."""

    name: str

    def read(self, timeout_s: float) -> bytes:
        """What has come, as soon as anything has; nothing after the time is over."""

    def write(self, content: bytes) -> None:
        """Send all of it."""

    def close(self) -> None:
        """Give the line back."""


class SerialLine:
    """A serial port, by pyserial."""

    def __init__(self, device: str, baud: int) -> None:
        try:
            import serial  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise InputError(
                'a board on a serial line needs pip install "costsim[serial]" (pyserial is missing)'
            ) from error
        self.name, self._error = device, serial.SerialException
        try:
            self._port = serial.serial_for_url(
                device, baudrate=baud, timeout=0, write_timeout=WRITE_S
            )
        except (serial.SerialException, ValueError) as error:
            raise InputError(f"{device}: cannot be opened: {error}") from error

    def read(self, timeout_s: float) -> bytes:
        """What has come within the time."""
        try:
            self._port.timeout = timeout_s
            first = self._port.read(1)
            return bytes(first + self._port.read(self._port.in_waiting)) if first else b""
        except (self._error, OSError) as error:
            raise LineLost(f"{self.name}: the line broke: {error}") from error

    def write(self, content: bytes) -> None:
        """Send all of it."""
        try:
            self._port.write(content)
            self._port.flush()
        except (self._error, OSError) as error:
            raise LineLost(f"{self.name}: the line broke: {error}") from error

    def close(self) -> None:
        """Close the port."""
        self._port.close()


class SocketLine:
    """The other end of an emulator's serial port."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.name = name
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection

    @classmethod
    def accept(cls, listener: socket.socket, name: str, timeout_s: float) -> Self:
        """Wait for the one who calls."""
        listener.settimeout(timeout_s)
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            raise LineLost(f"{name}: nobody connected within {timeout_s:g} s") from error
        connection.settimeout(WRITE_S)  # what is read is waited for apart
        return cls(connection, name)

    def read(self, timeout_s: float) -> bytes:
        """What has come within the time."""
        ready, _, _ = select.select([self._socket], [], [], timeout_s)
        if not ready:
            return b""
        try:
            found = self._socket.recv(65536)
        except OSError as error:
            raise LineLost(f"{self.name}: the line broke: {error}") from error
        if not found:
            raise LineLost(f"{self.name}: closed by the other end")
        return found

    def write(self, content: bytes) -> None:
        """Send all of it."""
        try:
            self._socket.sendall(content)
        except OSError as error:
            raise LineLost(f"{self.name}: the line broke: {error}") from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

"""Training steps on the other end of a line: questions, answers, and what to do without one.

A question is asked again when no answer comes or when it is damaged on the way; the firmware does
a step only once however often it is asked.
"""

import math
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import CostsimError
from costsim.c.emission import Affine
from costsim.c.emulation.frames import MAX_PAYLOAD_BYTES, REFUSALS, Frame, Reader, Region, Type
from costsim.c.emulation.lines import Line

PROTOCOL = 1

PATIENCE = 16
"""The longest wait for an answer, in those that a question is first given."""

LOOK_S = 0.5
"""How often a wait is interrupted to see whether somebody asked to stop."""

_WORK = frozenset({Type.BEGIN, Type.PASS, Type.END})


class LinkError(CostsimError):
    """No usable answer; the text says what was asked and in which state the line is."""


class LinkTimeout(LinkError):
    """No answer in time: a firmware that hangs, or nobody on the line."""


class BoardFault(LinkError):
    """The firmware reported a fault: program counter, link register, status, address, operation."""

    def __init__(self, name: str, payload: bytes, where: str) -> None:
        words = struct.unpack("<5I", payload[:20].ljust(20, b"\0"))
        self.pc, self.lr, self.status, self.address, operation = words
        self.operation = None if operation >> 31 else operation
        during = "" if self.operation is None else f", operation {self.operation}"
        super().__init__(
            f"{name}: the firmware faulted at {self.pc:#010x}{where}{during} "
            f"(CFSR {self.status:#010x}, BFAR {self.address:#010x})"
        )


def encoding(given: Affine | None) -> Callable[[NDArray[Any]], bytes]:
    """How images become the input of a step: floats, or 8-bit integers that are `given` so."""
    if given is None:
        return lambda x: np.asarray(x, dtype="<f4").tobytes()
    return lambda x: given.quantise(x).tobytes()


@dataclass(frozen=True)
class Board:
    """What a firmware says of itself: samples of a pass, numbers of a sample, whose build it is."""

    samples: int
    passes: int
    inputs: int
    outputs: int
    arena_bytes: int
    digest: bytes


@dataclass(frozen=True)
class Status:
    """Steps done since reset, and the most that was used of stack and arena, by paint."""

    steps: int
    stack_bytes: int
    arena_bytes: int


@dataclass
class Traffic:
    """What went over the line."""

    asked: int = 0
    asked_again: int = 0
    skipped_bytes: int = 0
    damaged: int = 0


@dataclass
class Link:
    """A firmware on a line.

    `timeout_s` is for an answer without work, `step_timeout_s` for a step, both doubled each time
    up to `PATIENCE`; `attempts` how often a question is asked. After `limit_s` since the first
    question nothing is waited for any more; while it waits `check` is called, which may raise.
    `locate` names the code at an address, for faults; `encode` makes the bytes of an input that the
    step reads.
    """

    line: Line
    timeout_s: float = 1.0
    step_timeout_s: float = 60.0
    attempts: int = 5
    limit_s: float = math.inf
    check: Callable[[], None] = lambda: None
    locate: Callable[[int], str] = lambda _address: ""
    encode: Callable[[NDArray[Any]], bytes] = field(default_factory=lambda: encoding(None))
    board: Board | None = None
    traffic: Traffic = field(default_factory=Traffic)
    working_s: float = 0.0
    """Seconds from the last byte of a question that is work to its answer, summed up."""
    _reader: Reader = field(default_factory=Reader)
    _sequence: int = 0
    _begun: float | None = None

    def connect(self, timeout_s: float = 10.0) -> Board:
        """Wait for the banner, or for the answer to a greeting if it is long gone."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            hello = Frame(Type.HELLO, self._next_sequence())
            self.line.write(hello.to_bytes())
            patience = min(self.timeout_s, max(0.0, deadline - time.monotonic()))
            for frame in self._frames(patience):
                if frame.type in (Type.READY, Type.HELLO | Type.REPLY) and frame.payload:
                    board = self._introduced(frame)
                    if frame.type == Type.READY:
                        continue  # the answer to the greeting comes after it
                    self.board = board
                    return board
                if frame.type == Type.FAULT:
                    raise self._fault(frame)
        raise LinkTimeout(
            f"{self.line.name}: no firmware answered within {timeout_s:g} s"
            f" ({self._state()}): is it flashed, reset and at the right speed?"
        )

    def _introduced(self, frame: Frame) -> Board:
        if len(frame.payload) != 40:
            raise LinkError(f"{self.line.name}: the firmware is not one of costsim's")
        version, samples, passes, inputs, outputs, arena = struct.unpack("<6I", frame.payload[:24])
        if version != PROTOCOL:
            raise LinkError(
                f"{self.line.name}: the firmware speaks version {version} of the protocol; "
                f"allowed is {PROTOCOL}: build it again"
            )
        return Board(samples, passes, inputs, outputs, arena, frame.payload[24:])

    # What is asked.

    def init(self) -> None:
        """Start from the weights in flash."""
        self._ask(Type.INIT, b"", self.step_timeout_s)

    def step(self, x: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
        """One training step over `x` [batch, ...] and `labels` [batch]; the mean loss.

        As in the firmware's own step nothing more is updated after a loss that is not finite.
        """
        board = self._connected()
        self._ask(Type.BEGIN, b"", self.timeout_s)
        losses = []
        for number in range(board.passes):
            part = slice(number * board.samples, (number + 1) * board.samples)
            self.write(Region.INPUT, self.encode(x[part]))
            self.write(Region.LABELS, np.asarray(labels[part], dtype="<i4").tobytes())
            (loss,) = self._numbers(Type.PASS, "<f", self.step_timeout_s)
            if not math.isfinite(loss):
                return float(loss)
            losses.append(loss)
        self._ask(Type.END, b"", self.step_timeout_s)
        return float(np.mean(losses))

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [samples, outputs] for the samples of one pass."""
        board = self._connected()
        self.write(Region.INPUT, self.encode(x))
        self._ask(Type.PREDICT, b"", self.step_timeout_s)
        content = self.read(Region.LOGITS, 0, 4 * board.samples * board.outputs)
        return np.frombuffer(content, dtype="<f4").reshape(board.samples, board.outputs)

    def _connected(self) -> Board:
        if self.board is None:
            raise LinkError(f"{self.line.name}: not connected")
        return self.board

    def status(self) -> Status:
        """What the firmware counts."""
        return Status(*self._numbers(Type.STATUS, "<3I", self.timeout_s))

    def write(self, region: Region, content: bytes, offset: int = 0) -> None:
        """Put bytes into a region."""
        room = MAX_PAYLOAD_BYTES - 5
        for start in range(0, len(content), room):
            head = struct.pack("<BI", region, offset + start)
            self._ask(Type.WRITE, head + content[start : start + room], self.timeout_s)

    def read(self, region: Region, offset: int, count: int) -> bytes:
        """Bytes of a region."""
        found = bytearray()
        while len(found) < count:
            size = min(MAX_PAYLOAD_BYTES, count - len(found))
            question = struct.pack("<BIH", region, offset + len(found), size)
            answer = self._ask(Type.READ, question, self.timeout_s)
            if len(answer) != size:
                raise self._strange(Type.READ, len(answer), size)
            found += answer
        return bytes(found)

    def _numbers(self, kind: Type, form: str, timeout_s: float) -> tuple[Any, ...]:
        """The answer to a question without more, as `struct` reads its first bytes."""
        answer, size = self._ask(kind, b"", timeout_s), struct.calcsize(form)
        if len(answer) < size:
            raise self._strange(kind, len(answer), size)
        return struct.unpack(form, answer[:size])

    def _strange(self, kind: Type, found: int, needed: int) -> LinkError:
        return LinkError(
            f"{self.line.name}: the answer to {kind.name} has {found} bytes; {needed} are needed: "
            "the firmware is not one of costsim's"
        )

    # How.

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % 256
        return self._sequence

    def _ask(self, kind: Type, payload: bytes, timeout_s: float) -> bytes:
        question = Frame(kind, self._next_sequence(), payload)
        refused = 0
        for attempt in range(self.attempts):
            if time.monotonic() > self._end():
                raise LinkTimeout(
                    f"{self.line.name}: {kind.name} is not answered and the {self.limit_s:g} s for "
                    f"all are over ({self._state()})"
                )
            self.traffic.asked += 1
            self.traffic.asked_again += attempt > 0
            self.line.write(question.to_bytes())
            asked = time.monotonic()
            # A slow line must not be filled with the same question.
            for frame in self._frames(timeout_s * min(2**attempt, PATIENCE)):
                if frame.type == Type.FAULT:
                    raise self._fault(frame)
                if frame.type == Type.READY:
                    raise LinkError(
                        f"{self.line.name}: the firmware was reset during {kind.name} "
                        f"({self._state()})"
                    )
                if frame.type == Type.REFUSED and frame.payload[:1] == b"\x01":
                    break  # damaged on the way there: the sequence may be too
                if frame.sequence != question.sequence:
                    continue  # late: the answer to what was asked before
                if frame.type == Type.REFUSED:
                    refused = frame.payload[0] if frame.payload else 0
                    told = REFUSALS.get(refused, f"reason {refused}")
                    raise LinkError(f"{self.line.name}: {kind.name} was refused: {told}")
                if frame.type == kind | Type.REPLY:
                    if kind in _WORK:
                        self.working_s += time.monotonic() - asked
                    return frame.payload
        raise LinkTimeout(
            f"{self.line.name}: no answer to {kind.name} after {self.attempts} attempts, the first "
            f"of {timeout_s:g} s ({self._state()})"
        )

    def _end(self) -> float:
        if self._begun is None:
            self._begun = time.monotonic()
        return self._begun + self.limit_s

    def _frames(self, timeout_s: float) -> Iterator[Frame]:
        """Frames as they come, until the time is over."""
        deadline = min(time.monotonic() + timeout_s, self._end())
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            yield from self._reader.feed(self.line.read(min(left, LOOK_S)))
        # What looked like the head of a long frame may have been garbage.
        self._reader.restart()
        yield from self._reader.feed(b"")

    def _state(self) -> str:
        reader = self._reader
        self.traffic.skipped_bytes, self.traffic.damaged = reader.skipped_bytes, reader.damaged
        return (
            f"{self.traffic.asked} frames sent, {self.traffic.asked_again} of them again; "
            f"{reader.skipped_bytes} bytes of garbage and {reader.damaged} damaged frames received"
        )

    def _fault(self, frame: Frame) -> BoardFault:
        pc = int.from_bytes(frame.payload[:4], "little")
        return BoardFault(self.line.name, frame.payload, self.locate(pc))

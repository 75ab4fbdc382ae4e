"""The emulator's process: `python -m costsim.c.emulation.worker`, messages on its pipes.

A process of its own because the emulator is GPL, may crash, and may have to be killed.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from costsim.c.emulation.machine import Machine
from costsim.c.emulation.memory_map import MemoryMap, Span
from costsim.c.emulation.messages import Message, read_message


class Worker:
    """Answers one message after another."""

    def __init__(self) -> None:
        self.machine: Machine | None = None

    def answer(self, message: Message) -> Message:
        """The answer to a message; what goes wrong is an answer too."""
        content = dict(message.content)
        action = content.pop("action")
        try:
            found = getattr(self, f"do_{action}")(*message.parts, **content)
        except Exception as error:  # reported to the other process, which decides
            return Message({"error": f"{type(error).__name__}: {error}"})
        return found if isinstance(found, Message) else Message(found or {})

    @property
    def _machine(self) -> Machine:
        if self.machine is None:
            raise RuntimeError("nothing is loaded")
        return self.machine

    def do_load(
        self,
        elf: str,
        memory: dict[str, Any],
        mailbox_bytes: int,
        library: str,
        timeout_s: float,
    ) -> dict[str, Any]:
        """Put the firmware `elf` into a machine and boot it; what that came to."""
        self.machine = Machine(Path(elf), map_from_json(memory), mailbox_bytes, Path(library))
        return self.machine.boot(timeout_s)

    def do_call(self, function: str, arguments: list[int], timeout_s: float) -> dict[str, Any]:
        """Run one function to its end or its fault, at most `timeout_s` of wall-clock time."""
        return self._machine.call(function, arguments, timeout_s)

    def do_read(self, address: int, size: int) -> Message:
        """`size` bytes of memory from `address` on."""
        return Message({}, (bytes(self._machine.uc.mem_read(address, size)),))

    def do_write(self, content: bytes, address: int) -> None:
        """Put `content` into memory from `address` on."""
        self._machine.uc.mem_write(address, content)

    def do_paint(self, address: int, size: int, pattern: int) -> None:
        """Fill `size` bytes with a pattern of 32 bits, to see later what was written."""
        if size:
            words = np.full(-(-size // 4), pattern, dtype="<u4").tobytes()[:size]
            self._machine.uc.mem_write(address, words)

    def do_unpainted(self, address: int, size: int, pattern: int) -> dict[str, Any]:
        """The first byte and the one after the last that are no longer as painted.

        Whole words: a byte of a value may well be one of the pattern's. `count` is in bytes.
        """
        found = np.frombuffer(bytes(self._machine.uc.mem_read(address, size)), dtype="<u4")
        changed = np.flatnonzero(found != pattern) * 4
        if not len(changed):
            return {"first": None, "end": None, "count": 0}
        return {"first": int(changed[0]), "end": int(changed[-1]) + 4, "count": 4 * len(changed)}

    def do_watch(self, on: bool) -> None:
        """Count the blocks that are executed and the bytes that are touched, or stop counting."""
        self._machine.watch.watch(on)

    def do_clear(self) -> None:
        """Forget what was counted and touched."""
        self._machine.watch.clear()

    def do_profile(self) -> Message:
        """Rows of every block that ran. Raises `RuntimeError` if there were too many to count."""
        watch = self._machine.watch
        if watch.full:
            raise RuntimeError("too many blocks to count")
        return Message({}, (watch.blocks().tobytes(),))

    def do_touched(self) -> Message:
        """Rows of four integers, as `Emulator.touched` returns them."""
        return Message({}, (self._machine.watch.touched().tobytes(),))


def map_to_json(memory: MemoryMap) -> dict[str, Any]:
    """A memory map as a message holds it."""
    spans = {"flash": memory.flash, "arena": memory.arena, "stack": memory.stack}
    return {
        "device": memory.device,
        **{name: [span.address, span.size_bytes] for name, span in spans.items()},
        "others": {name: [s.address, s.size_bytes] for name, s in memory.others.items()},
    }


def map_from_json(document: dict[str, Any]) -> MemoryMap:
    """The memory map in a message."""
    return MemoryMap(
        document["device"],
        flash=Span(*document["flash"]),
        arena=Span(*document["arena"]),
        stack=Span(*document["stack"]),
        others={name: Span(*span) for name, span in document["others"].items()},
    )


def main() -> None:
    """Answer messages until the pipe is closed."""
    # What anything prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker()
    while (message := read_message(sys.stdin.buffer)) is not None:
        answers.write(worker.answer(message).to_bytes())
        answers.flush()


if __name__ == "__main__":
    main()

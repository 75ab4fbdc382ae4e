"""An emulated microcontroller as this process sees it: a worker process and what it is asked."""

import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from costsim.base.errors import CostsimError
from costsim.base.extras import require
from costsim.c.emulation.build import Firmware, build_watch
from costsim.c.emulation.elf import Image, read_image
from costsim.c.emulation.messages import Message, read_message

LOOK_S = 0.5
"""How often a wait is interrupted to see whether somebody asked to stop."""

GRACE_S = 10.0
"""How much longer than its own time limit the worker may take to answer."""


@dataclass(frozen=True)
class Fault:
    """Why the core stopped: what happened, at which address, and what it was doing.

    `operation` is the index of the program's operation, None outside of all; `symbol` the function
    of the program counter.
    """

    kind: str
    pc: int
    symbol: str | None
    operation: int | None
    address: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        what = self.kind
        if self.address is not None:
            what += f" ({self.size} bytes at {self.address:#010x})"
        where = f"at {self.pc:#010x}" + (f" in {self.symbol}" if self.symbol else "")
        return f"{what}, {where}" + (
            "" if self.operation is None else f", operation {self.operation}"
        )


class EmulatedFault(CostsimError):
    """The emulated core stopped where it should not; `fault` says why and where."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"the emulated core stopped: {fault}")
        self.fault = fault


class EmulatorLost(CostsimError):
    """The worker process died or no longer answers."""


class Emulator:
    """A firmware on an emulated Cortex-M7, in a worker process; a context manager.

    The memory is that of `memory`, by default the map the firmware was linked for: no byte more.
    `mailbox_bytes` of memory that the device does not have take the inputs. Every call raises
    `EmulatedFault` where the core stops elsewhere than at the end, also after `time_limit_s`, and
    `EmulatorLost` where the process ends. While it waits it calls `check` now and then, which may
    raise: then the process is ended.
    """

    def __init__(
        self,
        firmware: Firmware,
        *,
        memory: Any = None,
        mailbox_bytes: int = 0,
        time_limit_s: float = 60.0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        from costsim.c.emulation.worker import map_to_json

        require_unicorn()
        self.firmware, self.time_limit_s, self.check = firmware, time_limit_s, check
        self.memory = memory or firmware.memory
        self.image: Image = read_image(firmware.elf)
        self._load = {
            "action": "load",
            "elf": str(firmware.elf),
            "memory": map_to_json(self.memory),
            "mailbox_bytes": mailbox_bytes,
            "library": str(build_watch()),
            "timeout_s": time_limit_s,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        folder = str(Path(__file__).parents[3])
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "costsim.c.emulation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        try:
            self._check(self._ask(self._load))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        process.wait()
        with suppress(OSError):  # what was not sent any more
            process.stdin.close()
        process.stdout.close()

    # Running.

    def call(self, function: str, *arguments: int) -> float:
        """Call a function of the firmware with words; what it returns as a float."""
        told = self._ask(
            {
                "action": "call",
                "function": function,
                "arguments": list(arguments),
                "timeout_s": self.time_limit_s,
            }
        )
        self._check(told)
        (value,) = struct.unpack("<f", struct.pack("<I", told.content["value_bits"]))
        return float(value)

    # Memory.

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the emulated memory."""
        return self._ask({"action": "read", "address": address, "size": size}).parts[0]

    def write(self, address: int, content: bytes) -> None:
        """Put bytes into the emulated memory, as a debugger would."""
        self._ask({"action": "write", "address": address}, content)

    def paint(self, address: int, size: int, pattern: int) -> None:
        """Fill memory with a word."""
        self._ask({"action": "paint", "address": address, "size": size, "pattern": pattern})

    def unpainted(self, address: int, size: int, pattern: int) -> Mapping[str, int | None]:
        """`first` and `end` of the bytes that are no longer as painted, and their `count`."""
        question = {"action": "unpainted", "address": address, "size": size, "pattern": pattern}
        return self._ask(question).content

    # Watching.

    def clear(self) -> None:
        """Forget the profile."""
        self._ask({"action": "clear"})

    def watch(self, on: bool) -> None:
        """Whether every access to the arena's RAM is noted; several times slower."""
        self._ask({"action": "watch", "on": on})

    def profile(self) -> NDArray[Any]:
        """Blocks that ran, by operation: rows of `costsim.c.emulation.watch.BLOCK`."""
        from costsim.c.emulation.watch import BLOCK

        return np.frombuffer(self._ask({"action": "profile"}).parts[0], dtype=BLOCK)

    def touched(self) -> NDArray[np.int64]:
        """Rows (operation or -1, written, first byte, byte after the last) in the arena's RAM."""
        found = np.frombuffer(self._ask({"action": "touched"}).parts[0], dtype=np.int64)
        return found.reshape(-1, 4)

    # The worker.

    def _ask(self, question: dict[str, Any], *parts: bytes) -> Message:
        process = self._process
        if process is None:
            raise EmulatorLost("the emulator is not running")
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(Message(question, parts).to_bytes())
            process.stdin.flush()
        except OSError as error:
            raise self._lost(process) from error
        limit = question.get("timeout_s", self.time_limit_s) + GRACE_S
        deadline = time.monotonic() + limit
        while not self._answers(process, min(LOOK_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                self.close()
                raise EmulatorLost(f"the emulator did not answer within {limit:g} s and was ended")
        answer = read_message(process.stdout)
        if answer is None:
            raise self._lost(process)
        if "error" in answer.content:
            raise EmulatorLost(f"the emulator failed: {answer.content['error']}")
        return answer

    def _answers(self, process: subprocess.Popen[bytes], wait_s: float) -> bool:
        try:
            self.check()
            assert process.stdout is not None
            return bool(select.select([process.stdout], [], [], wait_s)[0])
        except BaseException:
            self.close()
            raise

    def _lost(self, process: subprocess.Popen[bytes]) -> EmulatorLost:
        deadline = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return EmulatorLost(f"the emulator's process ended with status {process.poll()}")

    def _check(self, told: Message) -> None:
        if "fault" not in told.content:
            return
        found = told.content["fault"]
        function = self.image.function_at(found["pc"])
        raise EmulatedFault(
            Fault(
                kind=found["kind"],
                pc=found["pc"],
                symbol=None if function is None else function.name,
                operation=None if found["operation"] < 0 else found["operation"],
                address=found.get("address"),
                size=found.get("size"),
            )
        )


def require_unicorn() -> None:
    """Raise `InputError` that names the extra, where one of its packages is missing."""
    require("emulator", "emulating a microcontroller")

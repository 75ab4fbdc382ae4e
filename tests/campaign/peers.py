"""Hostile ends of a connection: a server that is none, an SSH server and a board that lie."""

import os
import random
import re
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from .bench import check_one_line
from .experiment import Experiment, Trial, Unavailable
from .stage import Stage
from .workloads import MODEL, plan_for

PATIENCE_S = 4
LIMIT_S = 8.0
MOST_S = 300.0
"""For a command to give up; it is patient for seconds, the machine may be slow."""
MOST_BYTES = 2 << 30
FIRST = 6
"""Of the first so many commands one is drawn, at which a server begins to lie."""
MEASURE = ("measure", "plan.json", "--model", MODEL, "--steps", "2", "--out", "measured.json")

Chance = random.Random
Met: TypeAlias = list[str]
"""An entry for each time that the fault was done: without one nothing was tried."""


# Whatever answers on a port.


def closes(connection: socket.socket, chance: Chance) -> None:
    """Hangs up at once."""


def is_silent(connection: socket.socket, chance: Chance) -> None:
    """Says nothing."""
    with suppress(OSError):
        while connection.recv(4096):
            pass


def has_a_garbage_banner(connection: socket.socket, chance: Chance) -> None:
    """Greets in no known language."""
    connection.sendall(chance.randbytes(2000) + b"\r\n")
    is_silent(connection, chance)


def greets_without_end(connection: socket.socket, chance: Chance) -> None:
    """Never ends its first line."""
    with suppress(OSError):
        while True:
            connection.sendall(b"x" * 65536)


def breaks_off_its_keys(connection: socket.socket, chance: Chance) -> None:
    """Says it is an SSH server, and then noise."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.0\r\n" + chance.randbytes(chance.randrange(1, 4000)))


@contextmanager
def answering(
    talk: Callable[[socket.socket, Chance], None], chance: Chance, met: Met
) -> Iterator[int]:
    """The port of a server that does only that."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                met.append(talk.__name__)
                threading.Thread(target=talk_to, args=(connection,), daemon=True).start()

    def talk_to(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            talk(connection, chance)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def no_server(
    talk: Callable[[socket.socket, Chance], None],
    told: str,
    stage: Stage,
    times: int,
    chance: Chance,
) -> tuple[int, str]:
    """`costsim measure` on a host that is no SSH server."""
    for _ in range(times):
        met: Met = []
        with answering(talk, chance, met) as port:
            _refused(stage, f"ssh://me@127.0.0.1:{port}?patience={PATIENCE_S}", told=told)
        assert met, "nobody called"
    return times, held(told)


# An SSH server that takes commands.


def _server(folder: Path) -> Any:
    try:
        import ssh_device
    except ImportError as error:
        raise Unavailable("asyncssh is not installed") from error
    return ssh_device.Device(folder)


def cut_in_a_command(device: Any, chance: Chance, met: Met) -> None:
    """Cuts the connection within every command from a certain one on."""
    first, serve = chance.randrange(FIRST), device._serve

    async def cut(process: Any) -> None:
        if len(device.commands) >= first:
            device.commands.append(process.command)
            met.append("cut")
            process.channel.get_connection().abort()
        else:
            await serve(process)

    device._serve = cut


def answers_without_end(device: Any, chance: Chance, met: Met) -> None:
    """Never ends its answer to a command."""
    first, serve = chance.randrange(FIRST), device._serve

    async def pour(process: Any) -> None:
        if len(device.commands) < first:
            await serve(process)
            return
        with suppress(Exception):
            while True:
                met.append("poured")
                process.stdout.write(b"\x02costsim\x03" + b"y\n" * 32768)
                await process.stdout.drain()

    device._serve = pour


def cuts_answers_short(device: Any, chance: Chance, met: Met) -> None:
    """Leaves out the second half of every answer from a certain one on, and says all is well."""
    first, serve = chance.randrange(FIRST), device._serve

    async def shorten(process: Any) -> None:
        if len(device.commands) >= first:
            write = process.stdout.write

            def half(content: bytes) -> None:
                met.append("cut short")
                write(content[: len(content) // 2])

            process.stdout.write = half
        await serve(process)

    device._serve = shorten


def has_another_key(device: Any, chance: Chance, met: Met) -> None:
    """Is somebody else than last time."""
    met.append("other key")
    device.known_hosts.write_text(f"[127.0.0.1]:{device.port} {_other_key()}")


def _other_key() -> str:
    import asyncssh

    return str(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode())


def lying_server(
    lie: Callable[[Any, Chance, Met], None], told: str, stage: Stage, times: int, chance: Chance
) -> tuple[int, str]:
    """`costsim measure` on an SSH server that lets one in and then lies."""
    for _ in range(times):
        device, met = _server(stage.new()), Met()
        try:
            lie(device, chance, met)
            device.drop(deaf=True)
            device.listen()
            _refused(
                stage,
                f"ssh://me@127.0.0.1:{device.port}?patience={PATIENCE_S}",
                "--identity", str(device.identity), "--known-hosts", str(device.known_hosts),
                *(() if device.known_hosts.exists() else ("--trust-new-host",)),
                told=told,
            )  # fmt: skip
            assert met, "the lie was never told"
        finally:
            device.close()
            for pid in device.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
    return times, held(told)


def held(told: str) -> str:
    """What `_refused` has found to hold."""
    return f"one line that matches `{told}` within {MOST_S:g} s, less than {MOST_BYTES >> 30} GiB"


# A board on a serial line.


@dataclass
class Board:
    """Our end of a line; `folder`: where the command writes the sources to flash a board with."""

    line: int
    folder: Path
    chance: Chance
    met: Met = field(default_factory=Met)
    waiting: bytearray = field(default_factory=bytearray)

    def heard(self) -> list[Any]:
        """The questions that have come."""
        from costsim.c.emulation.frames import Reader

        ready, _, _ = select.select([self.line], [], [], 0.05)
        return list(Reader().feed(os.read(self.line, 4096))) if ready else []

    def say(self, content: bytes) -> None:
        """Put bytes on the line, as many as it takes now; the rest goes before the next ones."""
        self.waiting += content
        with suppress(BlockingIOError):
            del self.waiting[: os.write(self.line, self.waiting)]

    def reply(self, frame: Any, *, sequence: int | None = None) -> bytes:
        """What the right firmware would greet with; to anything else an answer without content."""
        from costsim.c.emulation.frames import Frame, Type

        payload = b""
        if frame.type == Type.HELLO:
            header = (self.folder / "costsim_digest.h").read_text()
            digest = bytes(int(byte, 16) for byte in re.findall(r"0x(\w\w)", header))
            payload = struct.pack("<6I", 1, 1, 1, 4, 4, 64) + digest
        number = frame.sequence if sequence is None else sequence % 256
        return Frame(frame.type | Type.REPLY, number, payload).to_bytes()


def noise(board: Board) -> None:
    """Random bytes without end, whatever is asked."""
    board.heard()
    board.met.append("noise")
    board.say(board.chance.randbytes(max(0, 512 - len(board.waiting))))


def heads(board: Board) -> None:
    """Beginnings of long frames, and never the end of one."""
    from costsim.c.emulation.frames import Frame, Type

    board.heard()
    board.met.append("heads")
    head = Frame(Type.HELLO | Type.REPLY, 1, bytes(512)).to_bytes()[:8]
    board.say(head * 64 if len(board.waiting) < 512 else b"")


def silence(board: Board) -> None:
    """Takes what is sent and says nothing."""
    board.met += ["heard" for _ in board.heard()]


def deafness(board: Board) -> None:
    """Takes nothing."""
    ready, _, _ = select.select([board.line], [], [], 0.05)
    board.met += ["let wait" for _ in ready]
    time.sleep(0.05)


def wrong_checksums(board: Board) -> None:
    """Answers in frames whose last byte is wrong."""
    for frame in board.heard():
        board.met.append("damaged")
        answer = bytearray(board.reply(frame))
        answer[-1] ^= 1 << board.chance.randrange(8)
        board.say(bytes(answer))


def other_order(board: Board) -> None:
    """Greets as the right firmware does, then gives answers the number of another question."""
    from costsim.c.emulation.frames import Type

    for frame in board.heard():
        if frame.type == Type.HELLO:
            board.say(board.reply(frame))
        else:
            board.met.append("renumbered")
            other = frame.sequence - board.chance.randrange(1, 200)
            board.say(board.reply(frame, sequence=other))


def empty_answers(board: Board) -> None:
    """Greets as the right firmware does, then answers everything with nothing."""
    from costsim.c.emulation.frames import Type

    for frame in board.heard():
        board.met += ["empty"] * (frame.type != Type.HELLO)
        board.say(board.reply(frame))


@contextmanager
def connected(
    behave: Callable[[Board], None], folder: Path, chance: Chance
) -> Iterator[tuple[str, Board]]:
    """The terminal of something that behaves so, and our end of it."""
    import tty

    with ExitStack() as closing_all:
        ours, theirs = os.openpty()
        for handle in (ours, theirs):
            closing_all.callback(os.close, handle)
        tty.setraw(theirs)
        tty.setraw(ours)
        os.set_blocking(ours, False)
        over, board = threading.Event(), Board(ours, folder, chance)

        def run() -> None:
            while not over.is_set():
                behave(board)
                time.sleep(0.002)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield os.ttyname(theirs), board
        finally:
            over.set()
            thread.join()


def lying_board(
    behave: Callable[[Board], None], told: str, stage: Stage, times: int, chance: Chance
) -> tuple[int, str]:
    """`costsim measure` on a board that is none."""
    from costsim.base.errors import CostsimError
    from costsim.c.emulation.toolchain import find_compiler

    try:
        find_compiler(None)
        import serial  # type: ignore[import-untyped]  # noqa: F401
    except (CostsimError, ImportError) as error:
        raise Unavailable(str(error)) from error
    for _ in range(times):
        folder = stage.new() / "firmware"
        with connected(behave, folder, chance) as (name, board):
            limit = ("--time-limit", f"{LIMIT_S:g}s")
            target = f"serial:{name}?firmware={folder}"
            _refused(stage, target, *limit, device="stm32f746", told=told)
        assert board.met, "the board was never asked"
    return times, held(told)


def _refused(
    stage: Stage, target: str, *options: str, told: str, device: str = "jetson-nano"
) -> None:
    """Nothing comes of it but one line that matches `told`, in time and with little memory."""
    folder = stage.new()
    if device == "jetson-nano":
        shutil.copytree(stage.template("measure"), folder, dirs_exist_ok=True)
    else:
        plan_for(folder, stage.warm, device)
    begun = time.monotonic()
    running = stage.warm.start([*MEASURE, "--on", target, *options, "--device", device], folder)
    ended = running.wait(MOST_S)
    running.check_gone()
    assert time.monotonic() - begun < MOST_S
    line = check_one_line(ended)
    assert re.search(told, line), line
    assert ended.peak_bytes < MOST_BYTES, f"took {ended.peak_bytes >> 20} MiB"


SERVERS = {
    closes: r"no connection: ",
    is_silent: r"no connection: it does not answer",
    has_a_garbage_banner: r"no connection: ",
    greets_without_end: r"no connection: Banner line too long",
    breaks_off_its_keys: r"no connection: ",
}
LIES = {
    has_another_key: r"its host key is .* is pinned in",
    cut_in_a_command: r"the connection was lost",
    answers_without_end: r"it answers without end",
    cuts_answers_short: r"its answer is cut short|there is no POSIX shell",
}
BOARDS = {
    noise: r"no firmware answered .* [1-9]\d* bytes of garbage",
    heads: r"no firmware answered .* [1-9]\d* bytes of garbage",
    silence: r"no firmware answered .* 0 bytes of garbage",
    deafness: r"the line broke: Write timeout",
    wrong_checksums: r"no firmware answered .* [1-9]\d* damaged frames",
    other_order: r"INIT is not answered|no answer to INIT",
    empty_answers: r"the answer to PASS has 0 bytes; 4 are needed",
}
"""What is told of each, as a pattern."""


def _row(what: str, name: str, trial: Trial) -> Experiment:
    return Experiment(what, name.replace("_", " "), trial, 3, 1)


EXPERIMENTS = (
    *(
        _row("hostile SSH server", talk.__name__, partial(no_server, talk, told))
        for talk, told in SERVERS.items()
    ),
    *(
        _row("hostile SSH server", lie.__name__, partial(lying_server, lie, told))
        for lie, told in LIES.items()
    ),
    *(
        _row("hostile serial line", behave.__name__, partial(lying_board, behave, told))
        for behave, told in BOARDS.items()
    ),
)

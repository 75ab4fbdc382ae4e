"""Hostile ends of a connection: a server that is none, an SSH server and a board that lie."""

import os
import random
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from campaign.bench import check_one_line
from campaign.experiment import Experiment, Unavailable
from campaign.stage import Stage
from campaign.workloads import plan_for

PATIENCE_S = 4
LIMIT_S = 8.0
MOST_S = 300.0
"""For a command to give up; it is patient for seconds, the machine may be slow."""
MOST_BYTES = 2 << 30
BOARD = ("answer", "the line broke", "another firmware")
"""What is said of a board, and of nothing else."""
MEASURE = ("measure", "plan.json", "--steps", "2", "--out", "measured.json")

Chance = random.Random


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
def answering(talk: Callable[[socket.socket, Chance], None], chance: Chance) -> Iterator[int]:
    """The port of a server that does only that."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
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
    talk: Callable[[socket.socket, Chance], None], stage: Stage, times: int, chance: Chance
) -> tuple[int, str]:
    """`costsim measure` on a host that is no SSH server."""
    for _ in range(times):
        with answering(talk, chance) as port:
            _refused(stage, f"ssh://me@127.0.0.1:{port}?patience={PATIENCE_S}")
    return times, f"one line within {MOST_S:g} s, less than {MOST_BYTES >> 30} GiB"


# An SSH server that takes commands.


def _server(folder: Path) -> Any:
    try:
        import ssh_device
    except ImportError as error:
        raise Unavailable("asyncssh is not installed") from error
    return ssh_device.Device(folder)


def cut_in_a_command(device: Any, chance: Chance) -> None:
    """Cuts the connection within every command from a certain one on."""
    first, serve = chance.randrange(0, 6), device._serve

    async def cut(process: Any) -> None:
        if len(device.commands) >= first:
            device.commands.append(process.command)
            process.channel.get_connection().abort()
        else:
            await serve(process)

    device._serve = cut


def answers_without_end(device: Any, chance: Chance) -> None:
    """Never ends its answer to a command."""
    first, serve = chance.randrange(0, 6), device._serve

    async def pour(process: Any) -> None:
        if len(device.commands) < first:
            await serve(process)
            return
        with suppress(Exception):
            while True:
                process.stdout.write(b"\x02costsim\x03" + b"y\n" * 32768)
                await process.stdout.drain()

    device._serve = pour


def cuts_answers_short(device: Any, chance: Chance) -> None:
    """Leaves out the second half of every answer from a certain one on, and says all is well."""
    first, serve = chance.randrange(0, 12), device._serve

    async def shorten(process: Any) -> None:
        if len(device.commands) >= first:
            write = process.stdout.write
            process.stdout.write = lambda content: write(content[: len(content) // 2])
        await serve(process)

    device._serve = shorten


def has_another_key(device: Any, chance: Chance) -> None:
    """Is somebody else than last time."""
    device.known_hosts.write_text(f"[127.0.0.1]:{device.port} {_other_key()}")


def _other_key() -> str:
    import asyncssh

    return str(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode())


def lying_server(
    lie: Callable[[Any, Chance], None], stage: Stage, times: int, chance: Chance
) -> tuple[int, str]:
    """`costsim measure` on an SSH server that lets one in and then lies."""
    for _ in range(times):
        device = _server(stage.new())
        try:
            lie(device, chance)
            device.drop(deaf=True)
            device.listen()
            _refused(
                stage,
                f"ssh://me@127.0.0.1:{device.port}?patience={PATIENCE_S}",
                "--identity", str(device.identity), "--known-hosts", str(device.known_hosts),
                *(() if device.known_hosts.exists() else ("--trust-new-host",)),
            )  # fmt: skip
        finally:
            device.close()
            for pid in device.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
    return times, f"one line within {MOST_S:g} s, less than {MOST_BYTES >> 30} GiB"


# A board on a serial line.


def noise(line: int, chance: Chance) -> None:
    """Random bytes without end."""
    os.write(line, chance.randbytes(512))


def heads(line: int, chance: Chance) -> None:
    """Beginnings of frames without end."""
    os.write(line, b"\xa5\x5a\x81\x01\x00\x02" * 64)


def silence(line: int, chance: Chance) -> None:
    """Takes what is sent and says nothing."""
    _heard(line)


def deafness(line: int, chance: Chance) -> None:
    """Takes nothing."""
    time.sleep(0.05)


def wrong_checksums(line: int, chance: Chance) -> None:
    """Answers in frames whose last byte is wrong."""
    for frame in _heard(line):
        answer = bytearray(_answer(frame))
        answer[-1] ^= 1 << chance.randrange(8)
        os.write(line, answer)


def other_order(line: int, chance: Chance) -> None:
    """Answers with the number of another question."""
    for frame in _heard(line):
        os.write(line, _answer(frame, sequence=frame.sequence - chance.randrange(1, 200)))


def empty_answers(line: int, chance: Chance) -> None:
    """Greets as a firmware does, then answers everything with nothing."""
    for frame in _heard(line):
        os.write(line, _answer(frame))


def _heard(line: int) -> Any:
    from costsim.c.emulation.frames import Reader

    ready, _, _ = select.select([line], [], [], 0.05)
    return Reader().feed(os.read(line, 4096)) if ready else ()


def _answer(frame: Any, sequence: int | None = None) -> bytes:
    import struct

    from costsim.c.emulation.frames import Frame, Type

    hello = struct.pack("<6I", 1, 1, 1, 4, 4, 64) + bytes(16)
    payload = hello if frame.type == Type.HELLO else b""
    number = frame.sequence if sequence is None else sequence % 256
    return Frame(frame.type | Type.REPLY, number, payload).to_bytes()


@contextmanager
def board(behave: Callable[[int, Chance], None], chance: Chance) -> Iterator[str]:
    """The terminal of something that behaves so."""
    import tty

    with ExitStack() as closing_all:
        ours, theirs = os.openpty()
        for handle in (ours, theirs):
            closing_all.callback(os.close, handle)
        tty.setraw(theirs)
        tty.setraw(ours)
        os.set_blocking(ours, False)
        over = threading.Event()

        def run() -> None:
            while not over.is_set():
                with suppress(BlockingIOError):
                    behave(ours, chance)
                    continue
                time.sleep(0.01)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield os.ttyname(theirs)
        finally:
            over.set()
            thread.join()


def lying_board(
    behave: Callable[[int, Chance], None], stage: Stage, times: int, chance: Chance
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
        with board(behave, chance) as name:
            limit = ("--time-limit", f"{LIMIT_S:g}s")
            _refused(stage, f"serial:{name}", *limit, device="stm32f746", words=BOARD)
    return times, f"one line within {MOST_S:g} s"


def _refused(
    stage: Stage,
    target: str,
    *options: str,
    device: str = "jetson-nano",
    words: tuple[str, ...] = (),
) -> None:
    """Nothing comes of it but one line, in time and with little memory."""
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
    check_one_line(ended, *words)
    assert ended.peak_bytes < MOST_BYTES, f"took {ended.peak_bytes >> 20} MiB"


EXPERIMENTS = (
    *(
        Experiment(
            "hostile SSH server", talk.__name__.replace("_", " "), partial(no_server, talk), 3, 1
        )
        for talk in (closes, is_silent, has_a_garbage_banner, greets_without_end,
                     breaks_off_its_keys)
    ),
    *(
        Experiment(
            "hostile SSH server", lie.__name__.replace("_", " "), partial(lying_server, lie), 3, 1
        )
        for lie in (has_another_key, cut_in_a_command, answers_without_end, cuts_answers_short)
    ),
    *(
        Experiment(
            "hostile serial line", behave.__name__.replace("_", " "), partial(lying_board, behave),
            3, 1,
        )
        for behave in (noise, heads, silence, deafness, wrong_checksums, other_order, empty_answers)
    ),
)  # fmt: skip

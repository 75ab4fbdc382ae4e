"""A connection to a host over SSH that comes back when it is lost, and commands over it.

Every command is short and can be repeated, so that a new connection goes on where the old one
ended: what lasts is on the other side.
"""

import asyncio
import re
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.base.errors import InputError
from costsim.base.units import format_bytes
from costsim.hardware.ssh.host_keys import HostKeys
from costsim.hardware.targets.base import Reason, TargetError, Watch

if TYPE_CHECKING:
    import asyncssh

CONNECT_S = 20.0
COMMAND_S = 120.0
"""What a single short command may take, on a slow device with a slow card."""
KEEPALIVE_S = 5.0
CHUNK_BYTES = 1 << 16
MOST_ANSWER_BYTES = 1 << 26
"""More than any answer has: the largest are readings of a whole calibration."""

# What a login shell prints of its own accord (a greeting in .bashrc) ends where the first stands;
# an answer without the second was cut short, however well its command is said to have ended.
_BEGIN, _END = b"\x02costsim\x03", b"\x03costsim\x02"
_MARKED = "printf '\\002costsim\\003'; ( {script}\n); s=$?; printf '\\003costsim\\002'; exit $s"


class Lost(Exception):
    """The connection went while something was under way."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def last(self) -> str:
        """The last thing it complained about."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.status}"

    @property
    def full(self) -> bool:
        """Whether it failed for want of room."""
        return bool(re.search(r"space|quota|too large", self.last, re.IGNORECASE))


@dataclass(frozen=True)
class Peer:
    """Who is on the other side: the target's name for messages, and how to log in.

    `user` None: as the SSH configuration says. `identity`: a private key file, None for those
    that SSH finds by itself.
    """

    name: str
    host: str
    port: int
    user: str | None
    identity: Path | None


class Connection:
    """Shell commands on a host, over as many connections as it takes.

    Losing one is not an error until `patience_s` have gone by without it coming back.
    """

    def __init__(self, peer: Peer, keys: HostKeys, patience_s: float, watch: Watch) -> None:
        self.peer, self.keys, self.patience_s, self.watch = peer, keys, patience_s, watch
        self._connection: asyncssh.SSHClientConnection | None = None

    def error(self, reason: Reason, message: str) -> TargetError:
        """The error to raise."""
        return TargetError(self.peer.name, reason, message)

    async def command(
        self,
        script: str,
        given: bytes = b"",
        *,
        what: str = "",
        again: bool = True,
        patience_s: float | None = None,
        stoppable: bool = True,
    ) -> Done:
        """Run a script of a POSIX shell; over a new connection where one is lost, if `again`.

        `given` is its input, `what` how progress of sending it is called. Raises `TargetError`.
        """
        patience_s = self.patience_s if patience_s is None else patience_s
        deadline, wait = time.monotonic() + patience_s, 0.2
        while True:
            try:
                if self._connection is None:
                    await self.connect()
                return await self._once(script, given, what)
            except (Lost, TargetError) as error:
                if isinstance(error, TargetError) and error.reason != "unreachable":
                    raise
                await self.disconnect()
                if not again or time.monotonic() > deadline:
                    told = getattr(error, "message", str(error)).removeprefix("no connection: ")
                    raise self.error(
                        "unreachable",
                        f"the connection was lost and did not come back in {patience_s:g} s: {told}"
                        if again
                        else f"the connection was lost: {told}",
                    ) from error
            self.watch.report(f"connection to {self.peer.host} lost, trying again", 0, 0)
            if stoppable:
                self.watch.check(self.peer.name)
            await asyncio.sleep(wait)
            wait = min(2 * wait, 10.0)

    async def _once(self, script: str, given: bytes, what: str) -> Done:
        import asyncssh

        assert self._connection is not None
        command = f"sh -c {shlex.quote(_MARKED.format(script=script))}"
        try:
            async with asyncio.timeout(COMMAND_S + len(given) / 2000):
                process = await self._connection.create_process(command, encoding=None)
                with suppress(BrokenPipeError):  # it ended before it read all: its status says why
                    for start in range(0, len(given), CHUNK_BYTES):
                        process.stdin.write(given[start : start + CHUNK_BYTES])
                        await process.stdin.drain()
                        if what:
                            self.watch.report(what, start, len(given))
                    process.stdin.write_eof()
                out, err = await asyncio.gather(
                    self._all_of(process.stdout), self._all_of(process.stderr)
                )
                done = await process.wait(check=False)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise Lost(_sentence(error)) from error
        if done.exit_status is None or done.exit_status < 0:
            raise Lost("it ended in the middle of a command")
        _, begun, answer = out.partition(_BEGIN)
        answer, ended, _ = answer.rpartition(_END)
        found = Done(done.exit_status, answer, err)
        if not begun:
            raise self.error("missing", f"there is no POSIX shell: {found.last}")
        if not ended:
            raise self.error("failed", "its answer is cut short")
        return found

    async def _all_of(self, stream: "asyncssh.SSHReader[bytes]") -> bytes:
        """What comes until the end; raises `TargetError` where there is none."""
        found = bytearray()
        while content := await stream.read(CHUNK_BYTES):
            found += content
            if len(found) > MOST_ANSWER_BYTES:
                await self.disconnect()
                raise self.error(
                    "failed", f"it answers without end (over {format_bytes(MOST_ANSWER_BYTES)})"
                )
        return bytes(found)

    async def connect(self) -> None:
        """Log in; raises `TargetError`, or `InputError` for a key file that is none."""
        import asyncssh

        await self.disconnect()
        peer, keys = self.peer, self.keys

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(
                self, host: str, addr: str, port: int, key: asyncssh.SSHKey
            ) -> bool:
                return keys.accepts(key)

        options: dict[str, Any] = {}
        if peer.user is not None:
            options["username"] = peer.user
        if peer.identity is not None:
            options["client_keys"] = [str(peer.identity)]
        if first := keys.algorithms():
            options["server_host_key_algs"] = first
        try:
            async with asyncio.timeout(CONNECT_S):
                self._connection, _ = await asyncssh.create_connection(
                    Client,
                    peer.host,
                    peer.port,
                    known_hosts=([], [], []),
                    keepalive_interval=KEEPALIVE_S,
                    keepalive_count_max=3,
                    password=None,
                    **options,
                )
        except asyncssh.HostKeyNotVerifiable as error:
            raise self.error("host key", keys.refusal or str(error)) from error
        except asyncssh.KeyExchangeFailed as error:
            raise self.error("host key", f"no key to agree on: {_sentence(error)}") from error
        except asyncssh.PermissionDenied as error:
            raise self.error(
                "login",
                "it does not let us in: give a private key with --identity, or add one to the SSH "
                "agent, and its public half to ~/.ssh/authorized_keys there",
            ) from error
        except (asyncssh.KeyImportError, FileNotFoundError) as error:
            if peer.identity is None:
                raise self.error("unreachable", _sentence(error)) from error
            raise InputError(f"--identity: {peer.identity}: {error}") from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise self.error("unreachable", f"no connection: {_sentence(error)}") from error

    async def disconnect(self) -> None:
        """Give the connection up, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), 2)


def shell_word(path: str) -> str:
    """A path as a word of the shell; a leading `~` stays the home."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:]) if path != "~" else '"$HOME"'
    return shlex.quote(path)


def _sentence(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(text.split()) or type(error).__name__

"""A supervised folder of our own on a host: made, written into, looked at, and taken away.

What holds there is `costsim.hardware.ssh.supervisor`; every command in the folder tells it that we
are still there.
"""

import asyncio
import secrets
import shlex
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from costsim.base.units import format_bytes
from costsim.hardware.ssh.connection import COMMAND_S, Connection, Done, shell_word
from costsim.hardware.targets.base import Reason, TargetError

DEFAULT_PARENT = "~/.cache/costsim"

_GONE = 44
"""Exit status of our commands where the folder is not there any more."""

ALIVE = (
    'kill -0 "$(sed -n "s/.*\\"pid\\": \\([0-9]*\\).*/\\1/p" supervisor 2>/dev/null)" 2>/dev/null'
)
"""Whether the supervisor of the folder that the shell is in still runs."""


class Folder:
    """The folder at `path` there, from before it is made until it is gone."""

    def __init__(self, connection: Connection, parent: str | None) -> None:
        self.connection = connection
        self.parent = parent or DEFAULT_PARENT
        self.path = f"{self.parent.rstrip('/')}/run-{secrets.token_hex(6)}"

    async def make(self, python: str) -> None:
        """Make it, and leave a supervisor in it that outlives this connection."""
        source = Path(__file__).with_name("supervisor.py").read_bytes()
        command = f"{python} - {shell_word(self.path)} {self.connection.patience_s}"
        done = await self.connection.command(command, source, again=False)
        if not done.stdout.startswith(b"ready "):
            self.refuse(done, f"cannot make a folder in {self.parent}")
        path = done.stdout.decode(errors="replace").strip().removeprefix("ready ")
        self.path = self._checked(path)

    def _checked(self, path: str) -> str:
        """`path` where it is what we asked for: in the end all that is in it is removed."""
        parent, _, name = path.rpartition("/")
        if not parent.startswith("/") or name != self.path.rpartition("/")[2]:
            raise self.connection.error("failed", f"made the folder {path!r}, not {self.path!r}")
        return path

    async def do(self, script: str, given: bytes = b"", what: str = "") -> Done:
        """Run a script in it."""
        done = await self.connection.command(
            f"cd {shell_word(self.path)} 2>/dev/null || exit {_GONE}; : > heartbeat; {script}",
            given,
            what=what,
        )
        if done.status == _GONE:
            raise self.connection.error(
                "failed",
                f"{self.path} is gone: nobody came back for {self.connection.patience_s:g} s, or "
                "the device ran out of room or was set back",
            )
        return done

    async def check_room(self, needed: int) -> None:
        """Raise `TargetError` (`disk`) if `needed` bytes are not free; where nobody knows, not."""
        done = await self.do("df -Pk .")
        with suppress(IndexError, ValueError):
            free = 1024 * int(done.stdout.decode().splitlines()[-1].split()[3])
            if free < needed:
                raise self.connection.error(
                    "disk",
                    f"{self.path} has {format_bytes(free)} free; the job needs "
                    f"{format_bytes(needed)}: name another folder with ?folder=PATH",
                )

    async def upload(self, name: str, content: bytes, what: str = "") -> None:
        """Write one file there, whole or not at all; again from the start where it is cut off."""
        part, path = shlex.quote(f"{name}.part"), shlex.quote(name)
        done = await self.do(
            # Removed first: an upload that was cut off may still hold the file open.
            f"mkdir -p {shlex.quote(str(Path(name).parent))}; rm -f {part}; cat > {part} && "
            f'test "$(wc -c < {part})" -eq {len(content)} && mv {part} {path}',
            content,
            what=what or f"sending {Path(name).name}",
        )
        if done.status:
            self.refuse(done, f"cannot write {name} in {self.path}", "disk")

    async def remove(self) -> None:
        """Tell the supervisor to take all away, and see that it did.

        Whatever goes wrong here, the device's own watchdog is the last resort; a warning says so.
        """
        connection, word = self.connection, shell_word(self.path)
        script = (
            f"cd {word} 2>/dev/null || exit 0; : > end; made=$(cat made); i=0; "
            f"while [ $i -lt 50 ] && {ALIVE}; do sleep 0.2; i=$((i+1)); done; "
            f"cd /; rm -rf {word}; "
            'printf "%s\\n" "$made" | while read -r one; do rmdir "$one" 2>/dev/null; done; true'
        )
        try:
            done = await asyncio.wait_for(
                connection.command(
                    script, patience_s=min(30.0, connection.patience_s), stoppable=False
                ),
                COMMAND_S,
            )
            told = done.last if done.status else None
        except (TargetError, TimeoutError) as error:
            told = str(error).removeprefix(f"{connection.peer.name}: ") or "it does not answer"
        if told is not None:
            connection.watch.warn(
                f"{connection.peer.name}: could not clean up ({told}); what runs there ends and "
                f"its files go by themselves within {connection.patience_s:g} s"
            )

    def refuse(self, done: Done, what: str, reason: Reason = "failed") -> NoReturn:
        """Raise the error of a command that failed, for a full disk as such."""
        raise self.connection.error("disk" if done.full else reason, f"{what}: {done.last}")

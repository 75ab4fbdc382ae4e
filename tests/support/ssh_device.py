"""A device over SSH for tests: a real server on 127.0.0.1 that runs real commands in a home."""

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
from waiting import until


class Device:
    """The server in a thread of its own; `home` is what its commands take for their home.

    `wrap` is a shell line put before every command (`ulimit -f 100`, say). `drop` cuts all
    connections without a word, as pulling the plug of the network does.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_keys = [self.user_key]
        self.identity = folder / "identity"
        self.user_key.write_private_key(str(self.identity))
        self.known_hosts = folder / "known_hosts"
        self.wrap = ""
        self.environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.commands: list[str] = []
        self.connections = 0
        self.port = 0
        self._open: set[asyncssh.SSHServerConnection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.listen()

    # The switch and the plug.

    def listen(self) -> None:
        """Answer on the port, the same one every time."""
        self._acceptor = self._do(self._listen())
        self.port = self._acceptor.get_port()

    def drop(self, *, deaf: bool = False) -> None:
        """Cut every connection; `deaf`: and refuse new ones until `listen`."""
        self._do(self._drop(deaf))

    def change_host_key(self) -> None:
        """Be somebody else from the next `listen` on."""
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")

    def authorize(self, key: asyncssh.SSHKey) -> None:
        """Let one more user in, from the next `listen` on; it listens anew."""
        self.user_keys.append(key)
        self.drop(deaf=True)
        self.listen()

    def close(self) -> None:
        """End the server."""
        self.drop(deaf=True)
        self._do(asyncio.sleep(0.05))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What is left on it.

    def files(self) -> list[str]:
        """Everything in its home."""
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.home)  # noqa: PTH118
            for folder, folders, files in os.walk(self.home)  # does not mind what vanishes
            for name in (*folders, *files)
        )

    def processes(self, part: str = "") -> dict[int, str]:
        """The processes that have this home, by number, whose command line holds `part`."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if f"HOME={self.home}".encode() in environment and line and part in line:
                found[int(process.name)] = line
        return found

    # The server.

    def _do(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(60)

    async def _listen(self) -> asyncssh.SSHAcceptor:
        device = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self.conn = conn
                device.connections += 1
                device._open.add(conn)

            def connection_lost(self, exc: Exception | None) -> None:
                device._open.discard(self.conn)

        return await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=Server,
            server_host_keys=[self.host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                "".join(key.export_public_key().decode() for key in self.user_keys)
            ),
            process_factory=self._serve,
            encoding=None,
        )

    async def _drop(self, deaf: bool) -> None:
        if deaf and self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        for connection in list(self._open):
            connection.abort()

    async def _serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        command = process.command or ""
        self.commands.append(command)
        child = await asyncio.create_subprocess_shell(
            f"{self.wrap}{command}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env={"HOME": str(self.home), "OMP_NUM_THREADS": "1", **self.environment},
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        given = child.stdin

        async def feed() -> None:
            try:
                while data := await process.stdin.read(65536):
                    given.write(data)
                    await given.drain()
            except (OSError, asyncssh.Error):
                pass
            finally:
                given.close()

        feeding = asyncio.ensure_future(feed())
        try:
            out, err = await asyncio.gather(child.stdout.read(), child.stderr.read())
            status = await child.wait()
            feeding.cancel()
            process.stdout.write(out)
            process.stderr.write(err)
            process.exit(status if status >= 0 else 255)
        except (OSError, asyncssh.Error):
            await child.wait()
        finally:
            feeding.cancel()


@contextmanager
def device(folder: Path) -> Iterator[Device]:
    """A device that is gone afterwards, with whatever it still ran."""
    found = Device(folder)
    try:
        yield found
    finally:
        found.close()
        for pid in found.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        shutil.rmtree(found.home, ignore_errors=True)


def assert_nothing_is_left(device: Device, but: Sequence[str] = ()) -> None:
    """Wait until no process and no file but these is there; where some stays, say which."""
    with suppress(AssertionError):
        until(lambda: device.files() == [*but] and not device.processes())
    assert device.files() == [*but]
    assert device.processes() == {}

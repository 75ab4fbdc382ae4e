"""A machine over SSH: a folder of its own there, a job in the background, nothing left behind.

What holds there is `costsim.targets.supervisor`: it makes the folder, runs jobs in it, and takes
everything away when told to or when nobody has asked for a while. This side only puts files in,
looks how far it is, and fetches the answer, each in one short command, so that any of them can be
repeated over a new connection.
"""

import asyncio
import hashlib
import json
import re
import secrets
import shlex
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version as metadata_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlencode

from costsim.errors import InputError
from costsim.targets.answer import outcome_of, progress_of
from costsim.targets.base import (
    How,
    Reason,
    Session,
    Target,
    TargetError,
    TargetOptions,
    Watch,
    refuse_parameters,
)
from costsim.targets.hostkeys import HostKeys, known_hosts_path
from costsim.targets.job import Job
from costsim.targets.outcome import Outcome
from costsim.targets.shipping import NEEDED_MODULES, NEEDED_PYTHON, package_zip
from costsim.targets.worker import worker_environment
from costsim.units import format_bytes

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

CONNECT_S = 20.0
COMMAND_S = 120.0
"""What a single short command may take, on a slow device with a slow card."""
KEEPALIVE_S = 5.0
PATIENCE_S = 600.0
TICK_S = 0.1
CHUNK_BYTES = 1 << 16
UNPACKED = 4
"""The package unpacked and compiled takes about so many times its zip."""

_GONE = 44
"""Exit status of our commands where the folder is not there any more."""

# What a login shell prints of its own accord (a greeting in .bashrc) ends where this stands.
_MARK = b"\x02costsim\x03"
_MARK_FIRST = "printf '\\002costsim\\003'; "

# Whether the supervisor of the folder that the shell is in still runs.
_ALIVE = (
    'kill -0 "$(sed -n "s/.*\\"pid\\": \\([0-9]*\\).*/\\1/p" supervisor 2>/dev/null)" 2>/dev/null'
)

_PLACE = re.compile(r"(?:(?P<user>[^@/]+)@)?(?P<host>\[[^\]]+\]|[^:/@]+)(?::(?P<port>\d+))?/?")
_PARAMETERS = ("python", "folder", "patience")

# Written for any Python there may be, old ones included.
_CHECK = """
import json, sys
missing = []
if sys.version_info >= (3, 4):
    from importlib.util import find_spec
    missing = [name for name in %r if find_spec(name) is None]
torch = None
if sys.version_info >= (3, 8) and "torch" not in missing:
    from importlib.metadata import version
    torch = version("torch")
print(json.dumps([list(sys.version_info[:3]), missing, sys.platform, torch]))
"""


@dataclass(frozen=True)
class SshTarget(Target):
    """`user` (None: as the SSH configuration says) at `host`.

    `python` there, None for `python3` or `python` of its path; `folder` above our own, None for
    `~/.cache/costsim`; `patience_s` is how long the device waits for us before it cleans up
    itself, and how long we try to reach it again.
    """

    host: str
    user: str | None = None
    port: int = 22
    python: str | None = None
    folder: str | None = None
    patience_s: float = PATIENCE_S
    poll_s: float = 1.0
    options: TargetOptions = field(default_factory=TargetOptions)
    how: ClassVar[How] = "measured"

    @property
    def name(self) -> str:
        """As `parse_target` reads it."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port != 22 else ""
        parameters = {"python": self.python, "folder": self.folder}
        if self.patience_s != PATIENCE_S:
            parameters["patience"] = f"{self.patience_s:g}"
        given = {key: value for key, value in parameters.items() if value is not None}
        asked = f"?{urlencode(given, safe='/~')}" if given else ""
        return f"ssh://{user}{host}{port}{asked}"

    @classmethod
    def parse(
        cls, place: str, parameters: Mapping[str, str], options: TargetOptions
    ) -> "SshTarget":
        """See `Target.parse`: `user@host:port`, parameters `python`, `folder` and `patience`."""
        found = _PLACE.fullmatch(place)
        name = f"ssh://{place}"
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise InputError(f"target {name!r}: ssh://user@host:port is needed")
        refuse_parameters(name, parameters, _PARAMETERS)
        patience = parameters.get("patience", str(PATIENCE_S))
        if not re.fullmatch(r"\d+(\.\d+)?", patience) or not float(patience) > 0:
            raise InputError(f"target {name!r}: patience is {patience!r}; seconds above 0 needed")
        return cls(
            host=found["host"].strip("[]"),
            user=found["user"],
            port=int(found["port"] or 22),
            python=parameters.get("python"),
            folder=parameters.get("folder", options.folder),
            patience_s=float(patience),
            options=options,
        )

    def session(self, watch: Watch) -> "SshSession":
        """See `Target.session`; raises `InputError` where asyncssh is not installed."""
        try:
            import asyncssh  # noqa: F401
        except ImportError as error:
            raise InputError(
                'targets over SSH need asyncssh: pip install "costsim[ssh]"'
            ) from error
        return SshSession(self, watch)


class _Lost(Exception):
    """The connection went while something was under way."""


class SshSession(Session):
    """One supervised folder on the device, over as many connections as it takes."""

    target: SshTarget

    def __init__(self, target: SshTarget, watch: Watch) -> None:
        super().__init__(target, watch)
        self.target = target
        self.folder: str | None = None
        self.python = ""
        self.jobs = 0
        self.job: Job | None = None
        self.keys = HostKeys(
            target.options.known_hosts or known_hosts_path(),
            target.host,
            target.port,
            target.options.trust_new_hosts,
        )
        self._runner = asyncio.Runner()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._packed = False
        self._sent: set[str] = set()

    # The five verbs; each runs the event loop of this session for a while.

    def start(self) -> None:
        """Connect, find a Python that will do, and leave a supervisor there."""
        self._run(self._start())

    def ship(self, job: Job) -> None:
        """Bring the package, once, and the job with its files."""
        self._run(self._ship(job))

    def run(self) -> None:
        """Let the supervisor begin the job."""
        self._run(self._begin())

    def collect(self) -> Outcome:
        """Poll until the job is over, over new connections where one is lost."""
        return self._run(self._collect())

    def clean_up(self) -> None:
        """Tell the supervisor to take everything away, and see that it did."""
        try:
            if self.folder is not None:
                self._runner.run(self._clean_up(self.folder))
        finally:
            self._runner.run(self._disconnect())
            self._runner.close()

    # What they do.

    async def _start(self) -> None:
        self._report(f"connecting to {self.target.host}")
        await self._connect()
        self.python = await self._find_python()
        parent = self.target.folder or "~/.cache/costsim"
        folder = f"{parent.rstrip('/')}/run-{secrets.token_hex(6)}"
        source = Path(__file__).with_name("supervisor.py").read_bytes()
        self.folder = folder  # from here on there may be something to clean up
        command = f"{self.python} - {_word(folder)} {self.target.patience_s}"
        done = await self._command(command, source, again=False)
        if not done.stdout.startswith(b"ready "):
            self._refuse(done, f"cannot make a folder in {parent}")
        self.folder = done.stdout.decode().strip().removeprefix("ready ")

    async def _find_python(self) -> str:
        wanted = self.target.python
        check = shlex.quote(_CHECK % (tuple(NEEDED_MODULES),))
        for python in [shlex.quote(wanted)] if wanted else ["python3", "python"]:
            done = await self._command(f"{python} -c {check}")
            if done.status == 0:
                break
        else:
            named = repr(wanted) if wanted else "neither python3 nor python"
            told = "cannot be run" if wanted else "can be run"
            raise self._error(
                "missing", f"{named} {told} there; name a Python with ?python=PATH ({done.last})"
            )
        try:
            version, missing, system, torch = json.loads(done.stdout)
        except ValueError as error:
            raise self._error("missing", f"{wanted or python} there is no Python") from error
        running = f"{wanted or python} there is Python {'.'.join(map(str, version))}"
        if tuple(version) < NEEDED_PYTHON:
            least = ".".join(map(str, NEEDED_PYTHON))
            raise self._error(
                "missing",
                f"{running}; at least {least} is needed: name another with ?python=PATH",
            )
        if missing:
            packages = ", ".join(NEEDED_MODULES[name] for name in missing)
            raise self._error(
                "missing",
                f"{running} without {packages}: install what is missing there, or name another "
                "Python with ?python=PATH",
            )
        if system == "win32":
            raise self._error("missing", f"{running} on Windows; a POSIX system is needed")
        if torch.split(".")[:2] != (here := metadata_version("torch")).split(".")[:2]:
            self.watch.warn(f"{self.target.name} has PyTorch {torch}, costsim is used with {here}")
        return python

    async def _ship(self, job: Job) -> None:
        package = b"" if self._packed else package_zip()
        document = json.dumps(job.to_json()).encode()
        needed = UNPACKED * len(package) + len(document)
        if not self._sent:
            needed += sum(file.stat().st_size for file in job.files.values())
        await self._check_room(needed)
        if package:
            await self._upload("costsim.zip", package)
            unpack = f"{self.python} -m zipfile -e costsim.zip lib && rm costsim.zip"
            done = await self._in_folder(f"rm -rf lib; {unpack}")
            if done.status:
                self._refuse(done, "cannot unpack costsim")
            self._packed = True
        self.jobs += 1
        self.job = job
        place = f"job-{self.jobs}"
        for name, file in job.files.items():
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self._sent:  # the next run of the same plan has the same weights
                await self._upload(f"files/{digest}", content, f"sending {name}")
                self._sent.add(digest)
            link = f"ln -sf ../files/{digest} {place}/{shlex.quote(name)}"
            await self._in_folder(f"mkdir -p {place}; {link}")
        await self._upload(f"{place}/job.json", document)

    async def _check_room(self, needed: int) -> None:
        done = await self._in_folder("df -Pk .")
        with suppress(IndexError, ValueError):
            free = 1024 * int(done.stdout.decode().splitlines()[-1].split()[3])
            if free < needed:
                raise self._error(
                    "disk",
                    f"{self.folder} has {format_bytes(free)} free; the job needs "
                    f"{format_bytes(needed)}: name another folder with ?folder=PATH",
                )

    async def _upload(self, name: str, content: bytes, what: str = "") -> None:
        """Write one file there, whole or not at all; again from the start where it is cut off."""
        part, path = shlex.quote(f"{name}.part"), shlex.quote(name)
        done = await self._in_folder(
            # Removed first: an upload that was cut off may still hold the file open.
            f"mkdir -p {shlex.quote(str(Path(name).parent))}; rm -f {part}; cat > {part} && "
            f'test "$(wc -c < {part})" -eq {len(content)} && mv {part} {path}',
            content,
            what=what or f"sending {Path(name).name}",
        )
        if done.status:
            self._refuse(done, f"cannot write {name} in {self.folder}", "disk")

    async def _begin(self) -> None:
        assert self.job is not None
        order = {
            "argv": [*shlex.split(self.python), "-m", "costsim.targets.worker", "."],
            "environment": {
                **worker_environment(self.job.options),
                "PYTHONPATH": f"{self.folder}/lib",
                # Nothing is written beside the libraries there; what one wants to remember goes
                # into our folder, and goes with it.
                "PYTHONDONTWRITEBYTECODE": "1",
                "XDG_CACHE_HOME": f"{self.folder}/cache",
                "TMPDIR": self.folder,
            },
            "limit_s": self.target.options.time_limit_s,
        }
        await self._upload(f"job-{self.jobs}/go", json.dumps(order).encode())

    async def _collect(self) -> Outcome:
        place, last = f"job-{self.jobs}", b""
        limit_s = self.target.options.time_limit_s
        # The supervisor keeps the limit; this one is for a device where nobody does any more.
        deadline = time.monotonic() + limit_s + self.target.patience_s
        while time.monotonic() < deadline:
            # One shell for all that is to be known; `status` comes last and ends the job.
            done = await self._in_folder(
                f"cat {place}/progress 2>/dev/null; echo; "
                f"if [ -f {place}/status ]; then cat {place}/status; "
                f"else {_ALIVE} || [ -f {place}/status ] || echo dead; fi"
            )
            progress, _, status = done.stdout.partition(b"\n")
            if progress != last and (told := progress_of(progress)) is not None:
                last = progress
                self.watch.report(*told)
            if status.strip() == b"dead":
                raise self._error(
                    "failed", "the device was restarted, or its part of costsim was ended there"
                )
            if status.strip():
                break
            await asyncio.sleep(self.target.poll_s)
        else:
            raise self._error("time limit", f"no answer within {limit_s:g} s")
        texts = {}
        for name in ("outcome.json", "failure.json", "log"):
            found = await self._in_folder(f"cat {place}/{name} 2>/dev/null")
            if found.status == 0:
                texts[name] = found.stdout.decode(errors="replace")
        await self._in_folder(f"rm -f {place}/go; rm -rf {place}")
        return outcome_of(self.target, json.loads(status), texts, limit_s)

    async def _clean_up(self, folder: str) -> None:
        """Whatever goes wrong here, the device's own watchdog is the last resort; say so."""
        script = (
            f"cd {_word(folder)} 2>/dev/null || exit 0; : > end; made=$(cat made); i=0; "
            f"while [ $i -lt 50 ] && {_ALIVE}; do sleep 0.2; i=$((i+1)); done; "
            f"cd /; rm -rf {_word(folder)}; "
            'printf "%s\\n" "$made" | while read -r one; do rmdir "$one" 2>/dev/null; done; true'
        )
        try:
            done = await asyncio.wait_for(
                self._command(
                    script,
                    patience_s=min(30.0, self.target.patience_s),
                    stoppable=False,
                ),
                COMMAND_S,
            )
            told = done.last if done.status else None
        except (TargetError, TimeoutError) as error:
            told = str(error).removeprefix(f"{self.target.name}: ") or "it does not answer"
        if told is not None:
            self.watch.warn(
                f"{self.target.name}: could not clean up ({told}); what runs there ends and its "
                f"files go by themselves within {self.target.patience_s:g} s"
            )

    # Commands and connections.

    async def _in_folder(self, script: str, given: bytes = b"", what: str = "") -> "_Done":
        """Run a script in our folder, which tells the supervisor that we are still there."""
        assert self.folder is not None
        done = await self._command(
            f"cd {_word(self.folder)} 2>/dev/null || exit {_GONE}; : > heartbeat; {script}",
            given,
            what=what,
        )
        if done.status == _GONE:
            raise self._error(
                "failed",
                f"{self.folder} is gone: nobody came back for {self.target.patience_s:g} s, or the "
                "device ran out of room or was set back",
            )
        return done

    async def _command(
        self,
        script: str,
        given: bytes = b"",
        *,
        what: str = "",
        again: bool = True,
        patience_s: float | None = None,
        stoppable: bool = True,
    ) -> "_Done":
        """Run a script of a POSIX shell; over a new connection where one is lost, if `again`."""
        patience_s = self.target.patience_s if patience_s is None else patience_s
        deadline, wait = time.monotonic() + patience_s, 0.2
        while True:
            try:
                if self._connection is None:
                    await self._connect()
                return await self._once(script, given, what)
            except (_Lost, TargetError) as error:
                if isinstance(error, TargetError) and error.reason != "unreachable":
                    raise
                await self._disconnect()
                if not again or time.monotonic() > deadline:
                    told = getattr(error, "message", str(error)).removeprefix("no connection: ")
                    raise self._error(
                        "unreachable",
                        f"the connection was lost and did not come back in {patience_s:g} s: {told}"
                        if again
                        else f"the connection was lost: {told}",
                    ) from error
            self._report(f"connection to {self.target.host} lost, trying again")
            if stoppable:
                self.watch.check(self.target.name)
            await asyncio.sleep(wait)
            wait = min(2 * wait, 10.0)

    async def _once(self, script: str, given: bytes, what: str) -> "_Done":
        import asyncssh

        assert self._connection is not None
        command = f"sh -c {shlex.quote(_MARK_FIRST + script)}"
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
                done = await process.wait(check=False)
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise _Lost(_sentence(error)) from error
        if done.exit_status is None or done.exit_status < 0:
            raise _Lost("it ended in the middle of a command")
        _, mark, answer = _bytes(done.stdout).partition(_MARK)
        found = _Done(done.exit_status, answer, _bytes(done.stderr))
        if not mark:
            raise self._error("missing", f"there is no POSIX shell: {found.last}")
        return found

    async def _connect(self) -> None:
        import asyncssh

        await self._disconnect()
        target, keys = self.target, self.keys

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(
                self, host: str, addr: str, port: int, key: asyncssh.SSHKey
            ) -> bool:
                return keys.accepts(key)

        options: dict[str, Any] = {}
        if target.user is not None:
            options["username"] = target.user
        if target.options.identity is not None:
            options["client_keys"] = [str(target.options.identity)]
        if first := keys.algorithms():
            options["server_host_key_algs"] = first
        try:
            async with asyncio.timeout(CONNECT_S):
                self._connection, _ = await asyncssh.create_connection(
                    Client,
                    target.host,
                    target.port,
                    known_hosts=([], [], []),
                    keepalive_interval=KEEPALIVE_S,
                    keepalive_count_max=3,
                    password=None,
                    **options,
                )
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._error("host key", keys.refusal or str(error)) from error
        except asyncssh.KeyExchangeFailed as error:
            raise self._error("host key", f"no key to agree on: {_sentence(error)}") from error
        except asyncssh.PermissionDenied as error:
            raise self._error(
                "login",
                "it does not let us in: give a private key with --identity, or add one to the SSH "
                "agent, and its public half to ~/.ssh/authorized_keys there",
            ) from error
        except (asyncssh.KeyImportError, FileNotFoundError) as error:
            if target.options.identity is None:
                raise self._error("unreachable", _sentence(error)) from error
            raise InputError(f"--identity: {target.options.identity}: {error}") from error
        except (asyncssh.Error, OSError, TimeoutError) as error:
            raise self._error("unreachable", f"no connection: {_sentence(error)}") from error

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            with suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), 2)

    # Small things.

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the loop until `work` is done, or somebody asks to stop."""
        return self._runner.run(self._stoppable(work))

    async def _stoppable(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=TICK_S)
                if not task.done():
                    self.watch.check(self.target.name)
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, TargetError, _Lost):
                    await task
        return task.result()

    def _report(self, what: str) -> None:
        self.watch.report(what, 0, 0)

    def _error(self, reason: Reason, message: str) -> TargetError:
        return TargetError(self.target.name, reason, message)

    def _refuse(self, done: "_Done", what: str, reason: Reason = "failed") -> None:
        """Raise the error of a command that failed, for a full disk as such."""
        full = re.search(r"space|quota|too large", done.last, re.IGNORECASE)
        raise self._error("disk" if full else reason, f"{what}: {done.last}")


@dataclass(frozen=True)
class _Done:
    """How a command ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def last(self) -> str:
        """The last thing it complained about."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self.status}"


def _word(path: str) -> str:
    """A path as a word of the shell; a leading `~` stays the home."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + shlex.quote(path[1:]) if path != "~" else '"$HOME"'
    return shlex.quote(path)


def _bytes(output: object) -> bytes:
    return output if isinstance(output, bytes) else str(output or "").encode()


def _sentence(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    return " ".join(text.split()) or type(error).__name__

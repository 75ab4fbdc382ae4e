"""A machine over SSH: a folder of its own there, a job in the background, nothing left behind.

What holds there is `costsim.hardware.ssh.supervisor`: it makes the folder, runs jobs in it, and
takes everything away when told to or when nobody has asked for a while. This side only puts files
in (`folder`), looks how far it is, and fetches the answer, each in one short command over a
connection that may be a new one (`connection`).
"""

import asyncio
import hashlib
import json
import re
import shlex
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

from costsim.base.errors import InputError, shown
from costsim.base.units import parse_count
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.ssh.connection import Connection, Lost, Peer
from costsim.hardware.ssh.folder import ALIVE, Folder
from costsim.hardware.ssh.host_keys import HostKeys, known_hosts_path
from costsim.hardware.ssh.python import find_python
from costsim.hardware.ssh.shipment import package_zip
from costsim.hardware.targets.base import (
    How,
    Session,
    Target,
    TargetError,
    TargetOptions,
    Watch,
    refuse_parameters,
)
from costsim.hardware.targets.job import Job
from costsim.hardware.targets.readings import BEGUN, STEPS, Readings
from costsim.hardware.targets.worker import worker_environment
from costsim.hardware.targets.worker_answer import outcome_of, progress_of, status_of

T = TypeVar("T")

PATIENCE_S = 600.0
TICK_S = 0.1
UNPACKED = 4
"""The package unpacked and compiled takes about so many times its zip."""

MOST_PORTS = 65535
_PLACE = re.compile(r"(?:(?P<user>[^@/]+)@)?(?P<host>\[[^\]]+\]|[^:/@]+)(?::(?P<port>\d+))?/?")
_PARAMETERS = ("python", "folder", "patience")


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
    threaded: ClassVar[bool] = True

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
        port = None if found is None else parse_count(found["port"] or "22", least=1)
        if found is None or port is None or port > MOST_PORTS:
            raise InputError(f"target {shown(name)}: ssh://user@host:port is needed")
        refuse_parameters(name, parameters, _PARAMETERS)
        patience = parameters.get("patience", str(PATIENCE_S))
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", patience) or not float(patience) > 0:
            raise InputError(
                f"target {shown(name)}: patience is {shown(patience)}; seconds above 0 needed"
            )
        return cls(
            host=found["host"].strip("[]"),
            user=found["user"],
            port=port,
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


class SshSession(Session):
    """One supervised folder on the device, over as many connections as it takes."""

    target: SshTarget

    def __init__(self, target: SshTarget, watch: Watch) -> None:
        super().__init__(target, watch)
        self.target = target
        self.python = ""
        self.jobs = 0
        self.job: Job | None = None
        options = target.options
        keys = HostKeys(
            options.known_hosts or known_hosts_path(),
            target.host,
            target.port,
            options.trust_new_hosts,
        )
        peer = Peer(target.name, target.host, target.port, target.user, options.identity)
        self.connection = Connection(peer, keys, target.patience_s, watch)
        self._place: Folder | None = None
        self._runner = asyncio.Runner()
        self._packed = False
        self._sent: set[str] = set()

    @property
    def folder(self) -> str | None:
        """Its path there, once there may be something at it."""
        return None if self._place is None else self._place.path

    # The five verbs; each runs the event loop of this session for a while.

    def start(self) -> None:
        """Connect, find a Python that will do, and leave a supervisor there."""
        self._run(self._start())

    def ship(self, job: Job) -> None:
        """Bring the package, once, and the job with its files."""
        self._run(self._ship(self._there, job))

    def run(self) -> None:
        """Let the supervisor begin the job."""
        self._run(self._begin(self._there))

    def collect(self) -> Outcome:
        """Poll until the job is over, over new connections where one is lost."""
        assert self.job is not None
        readings = Readings()
        try:
            return self._run(self._collect(self._there, readings))
        except TargetError as error:
            error.partial = readings.cut_short(self.target, self.job, error)
            raise

    def clean_up(self) -> None:
        """Tell the supervisor to take everything away, and see that it did."""
        try:
            if self._place is not None:
                self._runner.run(self._place.remove())
        finally:
            self._runner.run(self.connection.disconnect())
            self._runner.close()

    # What they do.

    @property
    def _there(self) -> Folder:
        assert self._place is not None
        return self._place

    async def _start(self) -> None:
        self.watch.report(f"connecting to {self.target.host}", 0, 0)
        await self.connection.connect()
        self.python = await find_python(self.connection, self.target.python)
        self._place = Folder(self.connection, self.target.folder)
        await self._place.make(self.python)

    async def _ship(self, there: Folder, job: Job) -> None:
        package = b"" if self._packed else package_zip()
        document = json.dumps(job.to_json()).encode()
        needed = UNPACKED * len(package) + len(document)
        if not self._sent:
            needed += sum(file.stat().st_size for file in job.files.values())
        await there.check_room(needed)
        if package:
            await there.upload("costsim.zip", package)
            unpack = f"{self.python} -m zipfile -e costsim.zip lib && rm costsim.zip"
            done = await there.do(f"rm -rf lib; {unpack}")
            if done.status:
                there.refuse(done, "cannot unpack costsim")
            self._packed = True
        self.jobs += 1
        self.job = job
        place = f"job-{self.jobs}"
        for name, file in job.files.items():
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest not in self._sent:  # the next run of the same plan has the same weights
                await there.upload(f"files/{digest}", content, f"sending {name}")
                self._sent.add(digest)
            link = f"ln -sf ../files/{digest} {place}/{shlex.quote(name)}"
            await there.do(f"mkdir -p {place}; {link}")
        await there.upload(f"{place}/job.json", document)

    async def _begin(self, there: Folder) -> None:
        assert self.job is not None
        order = {
            "argv": [*shlex.split(self.python), "-m", "costsim.hardware.targets.worker", "."],
            "environment": {
                **worker_environment(self.job.options),
                "PYTHONPATH": f"{there.path}/lib",
                # Nothing is written beside the libraries there; what one wants to remember goes
                # into our folder, and goes with it.
                "PYTHONDONTWRITEBYTECODE": "1",
                "XDG_CACHE_HOME": f"{there.path}/cache",
                "TMPDIR": there.path,
            },
            "limit_s": self.target.options.time_limit_s,
        }
        await there.upload(f"job-{self.jobs}/go", json.dumps(order).encode())

    async def _collect(self, there: Folder, readings: Readings) -> Outcome:
        place, last = f"job-{self.jobs}", b""
        limit_s = self.target.options.time_limit_s
        # The supervisor keeps the limit; this one is for a device where nobody does any more.
        deadline = time.monotonic() + limit_s + self.target.patience_s
        while time.monotonic() < deadline:
            # One shell for all that is to be known; `status` comes last and ends the job.
            done = await there.do(
                f"cat {place}/progress 2>/dev/null; echo; {self._new_steps(place, readings)}; "
                f"if [ -f {place}/status ]; then cat {place}/status; "
                f"else {ALIVE} || [ -f {place}/status ] || echo dead; fi"
            )
            parts = done.stdout.split(b"\n", 2)
            if len(parts) != 3:
                raise self.connection.error("failed", "its answer is cut short")
            progress, steps, status = parts
            await self._keep(there, place, readings, steps.decode(errors="replace"))
            if progress != last and (told := progress_of(progress)) is not None:
                last = progress
                self.watch.report(*told)
            if status.strip() == b"dead":
                raise self.connection.error(
                    "failed", "the device was restarted, or its part of costsim was ended there"
                )
            if status.strip():
                break
            await asyncio.sleep(self.target.poll_s)
        else:
            raise self.connection.error("time limit", f"no answer within {limit_s:g} s")
        texts = {}
        for name in ("outcome.json", "failure.json", "log"):
            found = await there.do(f"cat {place}/{name} 2>/dev/null")
            if found.status == 0:
                texts[name] = found.stdout.decode(errors="replace")
        await there.do(f"rm -f {place}/go; rm -rf {place}")
        return outcome_of(self.target, status_of(self.target.name, status), texts, limit_s)

    def _new_steps(self, place: str, readings: Readings) -> str:
        """Shell for the steps that are not known here yet, on one line."""
        first = len(readings.step_s) + 1
        return f"tail -n +{first} {place}/{STEPS} 2>/dev/null | tr '\\n' ' '; echo"

    async def _keep(self, there: Folder, place: str, readings: Readings, steps: str) -> None:
        """Have here what the device has read, in case that it does not come back."""
        if steps.strip() and not readings.begun:
            found = await there.do(f"cat {place}/{BEGUN} 2>/dev/null")
            readings.begun = found.stdout.decode(errors="replace")
        readings.add(steps)

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
                with suppress(asyncio.CancelledError, TargetError, Lost):
                    await task
        return task.result()

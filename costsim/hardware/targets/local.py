"""This machine, in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from costsim.base.errors import InputError
from costsim.base.files import scratch_folder, to_json_text, write_atomically
from costsim.hardware.results.outcome import Outcome
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
from costsim.hardware.targets.out_of_memory import Evidence
from costsim.hardware.targets.readings import Readings
from costsim.hardware.targets.worker import worker_environment
from costsim.hardware.targets.worker_answer import outcome_of, progress_of

POLL_S = 0.2

# The child sees the modules that this process sees, however it was started.
_CODE = (
    "import sys; sys.path[:] = {path!r}; from costsim.hardware.targets.worker import main; {call}"
)


@dataclass(frozen=True)
class LocalTarget(Target):
    """This machine: each job in a fresh process, so that nothing of before is in its figures."""

    options: TargetOptions = field(default_factory=TargetOptions)
    how: ClassVar[How] = "measured"
    threaded: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """`local`."""
        return "local"

    @classmethod
    def parse(
        cls, place: str, parameters: Mapping[str, str], options: TargetOptions
    ) -> "LocalTarget":
        """See `Target.parse`: takes neither a place nor parameters."""
        if place:
            raise InputError(f"target 'local:{place}': 'local' stands alone")
        refuse_parameters("local", parameters)
        return cls(options)

    def session(self, watch: Watch) -> "LocalSession":
        """See `Target.session`."""
        return LocalSession(self, watch, self.options)


class LocalSession(Session):
    """A folder, and one process in it at a time."""

    def __init__(self, target: Target, watch: Watch, options: TargetOptions) -> None:
        super().__init__(target, watch)
        self.options = options
        self.folder: Path | None = None
        self.until_cleaned_up = ExitStack()
        self.job: Job | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.evidence: Evidence | None = None
        self.jobs = 0

    def start(self) -> None:
        """Make the folder."""
        parent = self.options.folder
        try:
            if parent is not None:
                Path(parent).mkdir(parents=True, exist_ok=True)
            above = None if parent is None else Path(parent)
            self.folder = self.until_cleaned_up.enter_context(scratch_folder(above))
        except OSError as error:
            raise InputError(f"{parent or tempfile.gettempdir()}: {error.strerror}") from error

    @property
    def _place(self) -> Path:
        assert self.folder is not None
        return self.folder / f"job-{self.jobs}"

    def ship(self, job: Job) -> None:
        """Put the job into a folder of its own; big files by link."""
        self.jobs += 1
        self.job = job
        self._place.mkdir()
        for name, file in job.files.items():
            (self._place / name).symlink_to(file.resolve())
        write_atomically(self._place / "job.json", to_json_text(job.to_json()))

    def run(self) -> None:
        """Start the process."""
        assert self.job is not None
        code = _CODE.format(path=sys.path, call=f"sys.exit(main({str(self._place)!r}))")
        with (self._place / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **worker_environment(self.job.options)},
                start_new_session=True,
            )
        self.evidence = Evidence(self.process.pid)

    def collect(self) -> Outcome:
        """Wait for its answer."""
        assert self.job is not None
        readings = Readings()
        try:
            return self._collect(readings)
        except TargetError as error:
            readings.load(self._place)
            error.partial = readings.cut_short(self.target, self.job, error)
            raise

    def _collect(self, readings: Readings) -> Outcome:
        assert self.process is not None
        assert self.evidence is not None
        name, deadline = self.target.name, time.monotonic() + self.options.time_limit_s
        ended, last = "exit", ""
        while self.process.poll() is None:
            self.evidence.look()
            self.watch.pause(name, POLL_S)
            with suppress(OSError):
                text = (self._place / "progress").read_text()
                if text != last and (told := progress_of(text)) is not None:
                    last = text
                    self.watch.report(*told)
            if time.monotonic() > deadline:
                ended = "time limit"
                self._kill()
        self._kill()
        status = {
            "returncode": self.process.returncode,
            "ended": ended,
            "memory": self.evidence.gather(),
        }
        texts = {}
        for file in ("outcome.json", "failure.json", "log"):
            with suppress(OSError):
                texts[file] = (self._place / file).read_text(errors="replace")
        readings.load(self._place)
        shutil.rmtree(self._place, ignore_errors=True)
        return outcome_of(self.target, status, texts, self.options.time_limit_s)

    def _kill(self) -> None:
        """End the process and whatever it started."""
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()

    def clean_up(self) -> None:
        """See `Session.clean_up`."""
        self._kill()
        self.until_cleaned_up.close()

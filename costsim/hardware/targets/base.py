"""The interface of a target, and the names that a person gives to targets.

    with parse_target("ssh://pi@10.0.0.7").session(Watch(report)) as session:
        outcome = session.perform(job)          # ship, run, collect; as often as wanted

A `Target` is a frozen value: what was typed. A `Session` is one use of it: `start` once, then
`ship`, `run` and `collect` for each job, and `clean_up` once, whatever happened. The same five
verbs fit a computer (connect; copy the job; start a process; wait for its answer; remove the
folder) and a microcontroller (open the line; emit, compile and load a firmware; reset; read the
answer; close).
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal, Self, final
from urllib.parse import parse_qsl

from costsim.base.errors import CostsimError, InputError, one_line, shown
from costsim.base.extras import require
from costsim.base.progress import Progress
from costsim.base.registry import Entry

if TYPE_CHECKING:
    from costsim.hardware.results.outcome import Outcome
    from costsim.hardware.targets.job import Job

How = Literal["measured", "emulated"]
Reason = Literal[
    "unreachable",  # no connection, or none any more
    "host key",  # the host is not the one that was pinned, or is not known
    "login",  # the host does not let us in
    "missing",  # something that the job needs is not there
    "disk",  # no room for the job's files
    "memory",  # the job needs more memory than there is: an answer, not a mishap
    "time limit",  # it took longer than it may
    "stopped",  # a person stopped it
    "failed",  # anything else that went wrong over there
]

TIMED_TAG = "timed"

SCHEMES: Mapping[str, Entry] = {
    "local": Entry("costsim.hardware.targets.local:LocalTarget", "local", tags={TIMED_TAG}),
    "ssh": Entry(
        "costsim.hardware.ssh.target:SshTarget", "ssh://user@host:port", tags={TIMED_TAG, "ssh"}
    ),
    "unicorn": Entry(
        "costsim.hardware.boards.unicorn:UnicornTarget", "unicorn:cortex-m7", tags={"emulator"}
    ),
    "qemu": Entry("costsim.hardware.boards.qemu:QemuTarget", "qemu:mps2-an500"),
    "serial": Entry(
        "costsim.hardware.boards.serial:SerialTarget", "serial:/dev/ttyACM0", tags={"serial"}
    ),
}
"""The class of each kind of target, how one is written, and as a tag the extra it needs.

`timed`: it runs kernels of PyTorch, so that a device can be calibrated there.
"""

EXAMPLES = tuple(entry.words for entry in SCHEMES.values())
TIMED = tuple(entry.words for entry in SCHEMES.values() if TIMED_TAG in entry.tags)


class TargetError(CostsimError):
    """A target did not do its job; one line that names the target, and a `reason` to act on.

    `predicted` where the price said beforehand that it would end so. `partial`: the outcome so far
    of the job that it ended, where there are readings.
    """

    partial: "Outcome | None" = None

    def __init__(
        self, target: str, reason: Reason, message: str, *, predicted: bool = False
    ) -> None:
        self.message = one_line(message)  # it may quote what a device said
        super().__init__(f"{target}: {self.message}")
        self.target = target
        self.reason: Reason = reason
        self.predicted = predicted


def _silent(*told: object) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Who watches a session: told of progress, and may ask it to stop from another thread.

    `warn` is told what a person must know though the work goes on.
    """

    report: Progress = _silent
    warn: Callable[[str], None] = _silent
    stopping: threading.Event = field(default_factory=threading.Event)

    def check(self, target: str) -> None:
        """Raise `TargetError` (`stopped`) if somebody asked to stop."""
        if self.stopping.is_set():
            raise TargetError(target, "stopped", "stopped on request")

    def pause(self, target: str, seconds: float) -> None:
        """Sleep, but no longer than until somebody asks to stop (`TargetError`)."""
        self.stopping.wait(seconds)
        self.check(target)


@dataclass(frozen=True)
class TargetOptions:
    """What is said once for all targets of a command; each takes what concerns it.

    folder: work there instead of a folder of the target's own choosing. time_limit_s: of one job.
    identity: a private key file. known_hosts: where pinned host keys are, instead of costsim's own
    file. trust_new_hosts: pin the key of a host that is not known yet.
    """

    folder: str | None = None
    time_limit_s: float = 1800.0
    identity: Path | None = None
    known_hosts: Path | None = None
    trust_new_hosts: bool = False

    def __post_init__(self) -> None:
        if not self.time_limit_s > 0:
            raise InputError(f"time limit {self.time_limit_s} s: more than 0 is needed")


class Session(ABC):
    """One use of a target: a context manager that leaves nothing behind.

    The five verbs raise `TargetError`; waiting in them ends soon after `watch.stopping` is set.
    """

    def __init__(self, target: "Target", watch: Watch) -> None:
        self.target = target
        self.watch = watch

    @abstractmethod
    def start(self) -> None:
        """Reach the device, check that it has what jobs need, and take a place of our own there."""

    @abstractmethod
    def ship(self, job: "Job") -> None:
        """Bring the job and all it needs to the device."""

    @abstractmethod
    def run(self) -> None:
        """Begin the shipped job; returns without waiting for it where the device allows that."""

    @abstractmethod
    def collect(self) -> "Outcome":
        """Wait for the job and bring back what it found."""

    @abstractmethod
    def clean_up(self) -> None:
        """End what still runs and remove every file; called exactly once, started or not."""

    @final
    def perform(self, job: "Job") -> "Outcome":
        """Ship, run and collect one job."""
        self.watch.check(self.target.name)
        self.ship(job)
        self.run()
        return self.collect()

    @final
    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.clean_up()
            raise
        return self

    @final
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clean_up()


class Target(ABC):
    """A place where jobs run, as a person named it: a frozen value.

    `name` gives back what `parse_target` reads. `how` says whether what comes back was measured on
    a device or emulated: an emulated figure is never called a measured one. `own_bits`: the step
    runs in the plan's own bit widths, elsewhere in 32 bits whatever the plan says. `threaded`: it
    runs on as many threads as it is told.
    """

    how: ClassVar[How]
    threaded: ClassVar[bool] = False
    own_bits: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """As `parse_target` reads it."""

    @classmethod
    @abstractmethod
    def parse(cls, place: str, parameters: Mapping[str, str], options: TargetOptions) -> "Target":
        """The target at `place`: what stands after the scheme's colon, slashes taken off.

        `parameters` are those after a question mark (`?python=/opt/py/bin/python`). Raises
        `InputError` for a place or a parameter it cannot use; must not touch the device.
        """

    @abstractmethod
    def session(self, watch: Watch) -> Session:
        """A new session, not yet started."""


def refuse_parameters(
    name: str, parameters: Mapping[str, str], allowed: tuple[str, ...] = ()
) -> None:
    """Raise `InputError` for a parameter that is not in `allowed`."""
    for key in parameters:
        if key not in allowed:
            told = f"allowed are {', '.join(allowed)}" if allowed else "it takes none"
            raise InputError(f"target {shown(name)}: unknown parameter {shown(key)}; {told}")


def parse_target(text: str, options: TargetOptions | None = None) -> Target:
    """The target that a person names, such as `local` or `ssh://pi@10.0.0.7:22`.

    Raises `InputError`, in one line with what is allowed, for anything else.
    """
    head, _, query = text.partition("?")
    scheme, _, place = head.partition(":")
    if scheme not in SCHEMES:
        raise InputError(f"target {shown(text)} is unknown; allowed are {', '.join(EXAMPLES)}")
    pairs = parse_qsl(query, keep_blank_values=True)
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        raise InputError(f"target {shown(text)}: a parameter is given twice")
    for extra in {*SCHEMES[scheme].tags} - {TIMED_TAG}:
        require(extra, f"--on {scheme}")
    found: type[Target] = SCHEMES[scheme].load()
    return found.parse(place.removeprefix("//"), parameters, options or TargetOptions())

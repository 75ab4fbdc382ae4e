"""What every command that uses targets shares: how to reach them, and how to leave them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from costsim.cli.options import path_option, together

if TYPE_CHECKING:
    from costsim.hardware.targets.base import TargetOptions


@dataclass(frozen=True, kw_only=True)
class ReachingOptions:
    """What `reaching` read."""

    folder: str | None
    identity: Path | None
    known_hosts: Path | None
    trust_new_host: bool


reaching = together(
    click.option(
        "--folder", metavar="DIR", help="Work there on the target.  [default: ~/.cache/costsim]"
    ),
    path_option("--identity", help="Private key for SSH.  [default: as ssh finds one]"),
    path_option(
        "--known-hosts", help="Where host keys are pinned.  [default: a file of costsim's own]"
    ),
    click.option("--trust-new-host", is_flag=True, help="Pin the key of a host not known yet."),
)
"""The options by which targets are reached."""


def target_options(given: ReachingOptions, time_limit_s: float) -> "TargetOptions":
    """What was given for them; raises `InputError` for a time limit that is none."""
    from costsim.hardware.targets.base import TargetOptions

    return TargetOptions(
        folder=given.folder,
        time_limit_s=time_limit_s,
        identity=given.identity,
        known_hosts=given.known_hosts,
        trust_new_hosts=given.trust_new_host,
    )


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Whoever ends this process politely wants devices cleaned up as after Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

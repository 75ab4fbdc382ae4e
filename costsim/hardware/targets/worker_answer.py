"""What a finished worker left behind, as an outcome or as the error that says why there is none."""

import json
import signal
from collections.abc import Mapping
from typing import Any, get_args

from costsim.base.errors import one_line
from costsim.base.units import format_bytes
from costsim.hardware.results.outcome import Outcome
from costsim.hardware.targets.base import Reason, Target, TargetError
from costsim.hardware.targets.out_of_memory import NEAR

MOST_STEPS = 10**12
MOST_BYTES = 2**60
"""Greater numbers in an answer are of no device."""

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""How a killed process is reported, the second by a shell."""


def progress_of(text: str | bytes) -> tuple[str, int, int] | None:
    """What a worker wrote into `progress`, or None; what a device says is never markup."""
    try:
        what, done, total = json.loads(text)
        told = one_line(str(what)[:200]).replace("[", "(")
        return told, min(int(done), MOST_STEPS), min(int(total), MOST_STEPS)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def status_of(name: str, text: str | bytes) -> Mapping[str, Any]:
    """How a job ended, as who watched it wrote down; raises `TargetError` for nonsense."""
    found = _document(name, text)
    if isinstance(found.get("ended"), str) and type(found.get("returncode")) is int:
        return found
    raise TargetError(name, "failed", "how the job ended is not told, or was cut short")


def outcome_of(
    target: Target, status: Mapping[str, Any], texts: Mapping[str, str], limit_s: float
) -> Outcome:
    """The outcome in a job's `texts` (its files by name), made out to `target`.

    `status` is `returncode`, `ended` (exit, stop, time limit), and `memory` where whoever watched
    could tell (see `costsim.hardware.targets.out_of_memory`). Raises `TargetError`.
    """
    name = target.name
    if status["ended"] == "time limit":
        raise TargetError(name, "time limit", f"took longer than {limit_s:g} s and was ended")
    if status["ended"] == "stop":
        raise TargetError(name, "stopped", "stopped on request")
    if "outcome.json" in texts and status["returncode"] == 0:
        outcome = Outcome.from_json(_document(name, texts["outcome.json"]), name)
        return outcome.model_copy(update={"target": name, "how": target.how})
    if "failure.json" in texts:
        failure = _document(name, texts["failure.json"])
        known = failure.get("reason") in get_args(Reason)
        reason: Reason = failure["reason"] if known else "failed"
        message = str(failure.get("message") or "it failed without a reason")
        raise TargetError(name, reason, message, predicted=failure.get("predicted") is True)
    code = status["returncode"]
    if code in _KILLED:
        raise TargetError(name, *_why_killed(status.get("memory")))
    lines = [line.strip() for line in texts.get("log", "").splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else ""
    ended = f"signal {-code}" if code < 0 else f"exit status {code}"
    raise TargetError(name, "failed", f"the job ended with {ended}{last}")


def _why_killed(found: object) -> tuple[Reason, str]:
    """The reason and the sentence for a job that a SIGKILL ended."""
    memory = found if isinstance(found, Mapping) else {}
    by = memory.get("by")
    peak, limit = (
        value if type(value := memory.get(key)) is int and 0 < value < MOST_BYTES else 0
        for key in ("peak_bytes", "limit_bytes")
    )
    held = f": it held {format_bytes(peak)} of {format_bytes(limit)}" if peak and limit else ""
    if by in ("group", "log"):
        return "memory", f"the kernel killed the job because memory ran out{held}"
    if by == "machine":
        return "memory", (
            f"the job was killed, and the kernel killed for want of memory meanwhile{held}"
        )
    if held and peak >= NEAR * limit:
        return "memory", (
            f"the job was killed, most likely because memory ran out, though the kernel does not "
            f"say so{held}"
        )
    if memory.get("told"):
        return "failed", (
            f"something killed the job (SIGKILL), and the kernel says that it was not for want of "
            f"memory{held}"
        )
    return "failed", (
        f"something killed the job (SIGKILL); the system does not tell whether memory ran out{held}"
    )


def _document(name: str, text: str | bytes) -> dict[str, Any]:
    """The mapping in `text`; raises `TargetError` where a device answers nonsense."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TargetError(name, "failed", "its answer is no JSON document, or was cut short")
    return found

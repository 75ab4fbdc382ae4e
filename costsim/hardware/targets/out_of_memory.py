"""Why a process was killed: what the kernel tells about lack of memory while it ran.

Standard library only: it also runs beside the supervisor on a device. The kernel counts whom it
kills for memory: for the control group that the process is in (`memory.events` of version 2,
`memory.oom_control` of version 1; Documentation/admin-guide/cgroup-v2.rst) and for the machine
(`oom_kill` in `/proc/vmstat`), and names the process in its log where that may be read.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

NEAR = 0.8
"""A process that held this share of what there was is likely to have wanted more."""

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_UNLIMITED = 1 << 60
_OLD = "memory.oom_control"


class Evidence:
    """Collected from when the process `pid` began: `look` while it runs, `gather` once it is over.

    What it held is seen by looking, since what the system adds up at its end (`ru_maxrss`) includes
    whoever started it. `root` stands for `/` in tests.
    """

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        self.pid, self.root = pid, root
        self.groups = list(_groups(pid, root))
        self.before = self._counts()
        self.peak_bytes = 0
        self.look()

    def look(self) -> None:
        """See what the process has held at most until now."""
        status = _text(self.root / f"proc/{self.pid}/status")
        if found := _PEAK.search(status):
            self.peak_bytes = max(self.peak_bytes, 1024 * int(found[1]))

    def gather(self) -> dict[str, Any]:
        """A JSON object: `by` (`group`, `machine`, `log`, or None where nothing says it was for
        memory), `told` (whether the kernel tells at all), `peak_bytes` that the process was seen
        to hold at most, and the `limit_bytes` that there were (None: unknown).
        """
        after = self._counts()
        risen = [name for name, count in after.items() if count > self.before.get(name, count)]
        by: str | None = next((name for name in ("group", "machine") if name in risen), None)
        if by != "group" and self._logged():
            by = "log"
        limits = [limit for group in self.groups for limit in _limits(group)]
        total = _total_bytes(self.root)
        limit = min([*limits, *([total] if total else [])], default=None)
        return {"by": by, "told": bool(after), "peak_bytes": self.peak_bytes, "limit_bytes": limit}

    def _counts(self) -> dict[str, int]:
        found = {}
        files = [group / name for group in self.groups for name in ("memory.events", _OLD)]
        for name, paths in (("group", files), ("machine", [self.root / "proc/vmstat"])):
            counts = [int(m[1]) for path in paths if (m := _COUNT.search(_text(path)))]
            if counts:
                found[name] = sum(counts)
        return found

    def _logged(self) -> bool:
        """Whether the kernel's log says that it killed this process for memory."""
        wanted = re.compile(rf"out of memory: Killed process {self.pid}\b", re.IGNORECASE)
        with suppress(OSError):
            log = os.open(self.root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
            try:
                while record := os.read(log, 8192):
                    if wanted.search(record.decode(errors="replace")):
                        return True
            finally:
                os.close(log)
        return False


def _groups(pid: int, root: Path) -> list[Path]:
    """The folders of the control groups that limit the memory of a process."""
    found = []
    for line in _text(root / f"proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        tops = ["", "unified"] if not controllers else []
        tops += ["memory"] if "memory" in controllers.split(",") else []
        for top in tops:
            folder = root / "sys/fs/cgroup" / top / inside
            if any((folder / name).is_file() for name in ("memory.events", _OLD)):
                found.append(folder)
    return found


def _limits(group: Path) -> list[int]:
    """The limits in bytes of a group and of those above it."""
    found = []
    for folder in (group, *group.parents):
        if folder.name == "cgroup":
            break
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _text(folder / name).strip()
            if text.isdigit() and int(text) < _UNLIMITED:
                found.append(int(text))
    return found


def _total_bytes(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

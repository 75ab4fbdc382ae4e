"""A disk that is full, and one that is read-only, under everything that a command writes."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from .bench import Bench, check_one_line, names
from .experiment import Experiment, Unavailable
from .killed import held
from .stage import Stage
from .workloads import WORKLOADS

PAGE_BYTES = 4096
FULL = ("No space left on device", "disk is full", "disk I/O error")


@contextmanager
def disk(place: Path, size_bytes: int) -> Iterator[None]:
    """A disk of so many bytes at `place`."""
    made = _mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))
    if made.returncode:
        raise Unavailable("no disk can be mounted here (it takes root)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def _mount(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["mount", *arguments], capture_output=True, check=False)


def full(command: str, stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    """With room for a part of what it writes, drawn; then there is room again."""
    bench, hit, attempt = stage.bench(command), 0, 0
    written = _pages(bench.folder / "whole") - _pages(bench.template)
    while hit < times:
        attempt += 1
        assert attempt < 4 * times + 10, "the disk is never full"
        free = chance.randrange(written + 1) * PAGE_BYTES
        place = stage.new()
        with disk(place, 2 * PAGE_BYTES * (_pages(bench.folder / "whole") + 64)):
            try:
                hit += _full(bench, place, free)
            except AssertionError as error:
                raise AssertionError(f"{free} bytes free: {error}") from error
    return hit, f"one line; no half-written file; with room again {held(command)}"


def _full(bench: Bench, place: Path, free: int) -> bool:
    work, filler = bench.new(place / "work"), place / "filler"
    left = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    filler.write_bytes(bytes(left - free))
    ended = bench.start(work).wait()
    if ended.status == 0:
        bench.check_result(work, ended)
        return False
    check_one_line(ended, *FULL)
    half = [name for name in names(work) if Path(name).name.startswith(".")]
    assert not half, f"left behind: {half}"
    filler.unlink()
    bench.check_again(work)
    return True


def read_only(command: str, stage: Stage, times: int, chance: random.Random) -> tuple[int, str]:
    """In a folder that cannot be written; then it can be."""
    bench, place = stage.bench(command), stage.new()
    with disk(place, 2 * PAGE_BYTES * (_pages(bench.folder / "whole") + 64)):
        work = bench.new(place / "work")
        for _ in range(times):
            assert not _mount("-o", "remount,ro", str(place)).returncode
            ended = bench.start(work).wait()
            check_one_line(ended, "permission", "Read-only", "read-only", "readonly", "unable")
            assert names(work) == bench.given
            assert not _mount("-o", "remount,rw", str(place)).returncode
            bench.check_again(work)
            shutil.rmtree(work)
            bench.new(work)
    return times, f"one line before any work; writable again {held(command)}"


def read_only_cache(
    command: str, stage: Stage, times: int, chance: random.Random
) -> tuple[int, str]:
    """With a cache folder that cannot be written, as in many a container."""
    bench, place = stage.bench(command), stage.new()
    with disk(place, 64 * PAGE_BYTES):
        assert not _mount("-o", "remount,ro", str(place)).returncode
        nowhere = {"XDG_CACHE_HOME": str(place), "HOME": str(place)}
        for _ in range(times):
            work = bench.new(stage.new())
            ended = bench.start(work, environment=nowhere).wait()
            assert ended.status == 0, f"status {ended.status}: {ended.err}"
            bench.check_result(work, ended)
    return times, "the same result as with one"


def _pages(folder: Path) -> int:
    return sum(
        -(-path.stat().st_size // PAGE_BYTES) for path in folder.rglob("*") if path.is_file()
    )


EXPERIMENTS = (
    *(Experiment("disk full", f"costsim {name}", partial(full, name), 10, 1) for name in WORKLOADS),
    *(
        Experiment("folder read-only", f"costsim {name}", partial(read_only, name), 1, 1)
        for name in WORKLOADS
    ),
    *(
        Experiment("cache read-only", f"costsim {name}", partial(read_only_cache, name), 1, 1)
        for name in WORKLOADS
    ),
)

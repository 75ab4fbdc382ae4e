"""Files written whole or not at all, and what killed writers leave: nothing for long."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from costsim.base.errors import InputError
from costsim.base.files import scratch_folder, write_atomically

KILLED = """
import os, signal, sys
from pathlib import Path
from costsim.base.files import scratch_folder, write_atomically

def die(event, given):
    if event == {event!r}:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die)
{what}
"""


def killed_at(event: str, what: str) -> None:
    """A process that does `what` and is killed at its first `event` of Python's audit hooks."""
    code = KILLED.format(event=event, what=what)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_clears_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    killed_at("os.rename", f"write_atomically(Path({str(path)!r}), 'x' * 100_000)")
    assert path.read_text() == "old"
    assert left(tmp_path) == [".file.half", "file"]
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert left(tmp_path) == ["file"]


def test_a_writer_that_is_at_it_is_left_alone(tmp_path: Path) -> None:
    """Two processes and four threads write as fast as they can: every state is one of theirs."""
    path = tmp_path / "file"
    contents = [f"{letter}" * 200_000 for letter in "abcd"]
    write_atomically(path, contents[0])
    code = (
        "from pathlib import Path\nfrom costsim.base.files import write_atomically\n"
        f"for _ in range(50): write_atomically(Path({str(path)!r}), 'e' * 200_000)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code])
    errors: list[BaseException] = []

    def write(content: str) -> None:
        try:
            for _ in range(50):
                write_atomically(path, content)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or other.poll() is None:
        assert path.read_text() in [*contents, "e" * 200_000]
    assert (other.wait(), errors) == (0, [])
    assert left(tmp_path) == ["file"]


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no/file: cannot be written: No such file"):
        write_atomically(tmp_path / "no" / "file", "x")
    (tmp_path / ".file.half").symlink_to(tmp_path / "victim")  # nobody's half file is followed
    with pytest.raises(InputError, match="cannot be written"):
        write_atomically(tmp_path / "file", "x")
    assert left(tmp_path) == [".file.half"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_mode_of_any_other(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_a_scratch_folder_is_gone_afterwards_and_sweeps_those_of_killed_processes(
    tmp_path: Path,
) -> None:
    opened = f"with scratch_folder(Path({str(tmp_path)!r}), 'mine-') as folder:\n"
    killed_at("os.remove", f"{opened}    (folder / 'x').write_text('x'); (folder / 'x').unlink()")
    assert len(left(tmp_path)) == 1
    (tmp_path / "mine").write_text("a file of somebody's")
    with scratch_folder(tmp_path, "mine-") as first:
        assert left(tmp_path) == ["mine", first.name]  # the dead one's is gone
        with scratch_folder(tmp_path, "mine-") as second:
            assert first.is_dir()  # that of a process that lives stays
            assert second != first
    assert left(tmp_path) == ["mine"]


def test_scratch_folders_made_at_once_do_not_sweep_each_other(tmp_path: Path) -> None:
    def use() -> None:
        for _ in range(50):
            with scratch_folder(tmp_path, "mine-") as folder:
                (folder / "file").write_text("x")
                assert (folder / "file").read_text() == "x"

    failed: list[BaseException] = []

    def caught() -> None:
        try:
            use()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=caught) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert left(tmp_path) == []

"""The last line at a terminal: which command comes next, with the files that are there."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from costsim.cli.next_steps import tell_next


def at_a_terminal(code: str) -> str:
    """What a terminal shows while `code` runs in a process whose outputs are that terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
    ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        process.wait()
    os.close(leader)
    return shown.decode().replace("\r\n", "\n")


TELL = "from costsim.cli.next_steps import tell_next; tell_next(('train', 'a plan.json'), {})"


def test_a_terminal_is_told_a_command_that_a_shell_can_read() -> None:
    assert at_a_terminal(TELL.format("")) == "Next: costsim train 'a plan.json'\n"


def test_neither_a_document_nor_a_pipe_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert at_a_terminal(TELL.format("as_json=True")) == ""
    tell_next(("train", Path("plan.json")))
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


@pytest.mark.slow
def test_the_commands_that_are_told_run(tmp_path: Path) -> None:
    """From a plan to an adapted network by nothing but what each command says comes next."""
    import shlex

    typed = "costsim plan --device jetson-nano --resolution 32 --iterations 2"
    done = []
    for _ in range(5):
        words = shlex.split(typed)[1:]
        code = (
            f"import os; os.chdir({str(tmp_path)!r}); from costsim.cli import main; "
            f"raise SystemExit(main({words!r}))"
        )
        done.append(words[0])
        shown = at_a_terminal(code)
        following = [line for line in shown.splitlines() if line.startswith("Next: ")]
        if not following:
            break
        typed = following[-1].removeprefix("Next: ")
    assert done == ["plan", "plan", "train", "apply"]
    assert (tmp_path / "plan-adapted.safetensors").exists()

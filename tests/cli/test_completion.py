"""What a shell is told when a person presses the tab key, each time by a process of its own."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from costsim.solvers import SOLVERS

from costsim.cli import COMMANDS, main
from costsim.device import shipped_devices
from costsim.learning.adaptation.guard import GUARDS
from costsim.learning.methods import METHODS
from costsim.models.networks import NETWORKS
from costsim.run.criteria import CRITERIA

PATIENCE_S = 120.0
"""For a shell that waits for more."""


def offered(line: str, watch: str = "") -> list[str]:
    """The plain words that bash is given for the last word of `line`; none may load `watch`."""
    words = line.split(" ")
    code = (
        "import sys; from costsim.cli import main; code = main(); "
        f"sys.exit(99 if {watch!r} in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "_COSTSIM_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [value for kind, value in (row.split(",", 1) for row in done.stdout.splitlines())
            if kind == "plain"]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "known"),
    [
        ("costsim ", COMMANDS),
        ("costsim plan --device ", shipped_devices()),
        ("costsim inspect ", NETWORKS),
        ("costsim plan --model ", NETWORKS),
        ("costsim plan --solver ", SOLVERS),
        ("costsim pareto --criterion ", CRITERIA),
        ("costsim compare --solver ", SOLVERS),
        ("costsim adapt --method ", METHODS),
        ("costsim adapt --guard ", GUARDS),
        ("costsim calibrate --device ", shipped_devices()),
        ("costsim devices ", shipped_devices()),
    ],
)
def test_every_name_is_offered(line: str, known: object) -> None:
    assert offered(line, watch="torch") == list(known)  # type: ignore[call-overload]


def test_only_names_that_begin_so_are_offered() -> None:
    assert offered("costsim plan --device STM") == ["stm32f746", "stm32h743"]
    assert offered("costsim ca") == ["calibrate"]
    assert offered("costsim plan --device ./b") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("--method TinyTrain\\ \\(st\t", ["TinyTrain (static)"]),
        ("--method 'TinyTrain (st\t", ["TinyTrain (static)"]),
        ('--guard "2-fold,\t', ["2-fold, 3 rates"]),
        ("--guard lea\t", ["leave-one-out"]),
    ],
)
def test_bash_completes_names_with_spaces_as_one_word(
    typed: str, words: list[str], tmp_path: Path
) -> None:
    """What a real bash has on its line after the tab key is printed by that bash, word by word."""
    out = tmp_path / "words"
    controller, terminal = os.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        env={**os.environ, "PATH": path, "TERM": "dumb", "INPUTRC": os.devnull},
    )  # fmt: skip
    os.close(terminal)

    def say(text: str) -> None:
        os.write(controller, text.encode())

    end = threading.Timer(PATIENCE_S, shell.kill)
    end.start()
    with contextlib.suppress(OSError):  # of a shell that has gone
        say('eval "$(_COSTSIM_COMPLETE=bash_source costsim)"\n')
        say("tell() { printf '%s\\n' \"${@:3}\" > " + str(out) + "; }\n")
        say(f"costsim adapt {typed}")
        say("\001tell \n exit\n")  # control-A: to the beginning of the line
        while os.read(controller, 4096):
            pass
    end.cancel()
    shell.wait()
    os.close(controller)
    assert out.read_text().splitlines()[1:] == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_written(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "costsim"],
        env={**os.environ, "_COSTSIM_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "_COSTSIM_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"_COSTSIM_COMPLETE": "bash_complete"}, "COMP_WORDS is missing"),
        (
            {"_COSTSIM_COMPLETE": "zsh_complete", "COMP_WORDS": "costsim p", "COMP_CWORD": "x"},
            "COMP_CWORD: cannot read 'x'",
        ),
        ({"_COSTSIM_COMPLETE": "tcsh_source"}, "'tcsh_source' is unknown; allowed are bash_source"),
        ({"_COSTSIM_COMPLETE": "bash_foo"}, "'bash_foo' is unknown; allowed are bash_source"),
    ],
)
def test_what_no_shell_asks_is_refused_in_one_line(
    asked: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    assert main(["models"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line

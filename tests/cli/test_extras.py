"""A package that is missing is named with its extra at once, before anything heavy is loaded."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from costsim.base.errors import InputError
from costsim.base.extras import EXTRAS, PACKAGES, require

ROOT = Path(__file__).parents[2]
WITHOUT = """
import json, sys
sys.modules[{module!r}] = None
from costsim.cli import main
status = main({arguments!r})
print(json.dumps([status, "torch" in sys.modules]))
"""


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("asyncssh", ["measure", "plan.json", "--on", "ssh://pi@host"], "ssh"),
        ("serial", ["measure", "plan.json", "--on", "serial:/dev/ttyACM0"], "serial"),
        ("elftools", ["measure", "plan.json", "--on", "serial:/dev/ttyACM0"], "serial"),
        ("unicorn", ["measure", "plan.json", "--on", "unicorn:cortex-m7"], "emulator"),
        ("asyncssh", ["calibrate", "--on", "ssh://pi@host", "--out", "a.yaml"], "ssh"),
        ("starlette", ["explore", "--device", "jetson-nano"], "explore"),
        ("uvicorn", ["explore", "plan.json"], "explore"),
        ("datasets", ["plan", "--device", "jetson-nano", "--data", "hub:name"], "hub"),
        ("datasets", ["adapt", "--device", "jetson-nano", "--data", "hub:name"], "hub"),
        ("distributed", ["study", "s.yaml", "--scheduler", "tcp://h:1"], "cluster"),
        ("distributed", ["compare", "s.yaml", "--scheduler", "tcp://h:1"], "cluster"),
        (
            "tensorboard",
            ["pretrain", "--model", "m", "--data", "d", "--out", "w", "--log", "logs"],
            "tensorboard",
        ),
    ],
)
def test_a_missing_extra_is_named_before_torch_is_loaded(
    module: str, arguments: list[str], extra: str, tmp_path: Path
) -> None:
    script = WITHOUT.format(module=module, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [2, False], done.stderr
    (line,) = done.stderr.splitlines()
    assert f'pip install "costsim[{extra}]" ({PACKAGES.get(module, module)} is missing)' in line


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = project["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        packages = " ".join(named[extra])
        assert all(PACKAGES.get(module, module) in packages for module in modules)


def test_what_is_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    for extra in EXTRAS:
        require(extra, "this")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r'^this needs pip install "costsim\[ssh\]" \(asyncssh'):
        require("ssh", "this")

"""What a command reads is not written over by what it writes."""

import importlib
import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
from safetensors.torch import save_file

from costsim.cli import COMMANDS, main
from costsim.cli.command import group_of
from costsim.cli.overwriting import WRITTEN
from costsim.models.loading import load_model

ROOT = Path(__file__).parents[2]

SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    input_shape = (6,)
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
    def forward(self, x):
        return self.head(torch.relu(self.first(x)))
"""

SMALL = ["--model", "net.py:Net", "--data", "rows.npz", "--ways", "4", "--shots", "2"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script, samples, a device, a plan and a patch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SCRIPT)
    random, labels = np.random.default_rng(0), np.repeat(np.arange(4), 14)
    np.savez("rows.npz", x=random.normal(size=(len(labels), 6)) + labels[:, None], y=labels)
    shutil.copy(ROOT / "devices" / "jetson-nano.yaml", "board.yaml")
    assert main(["plan", *SMALL, "--device", "board.yaml", "--out", "plan.json"]) == 0
    return tmp_path


@pytest.mark.parametrize(
    ("command", "over", "told"),
    [
        (["plan", *SMALL, "--device", "board.yaml", "--out", "board.yaml"], "board.yaml",
         "--out: board.yaml is --device too"),
        (["plan", *SMALL, "--device", "board.yaml", "--report", "rows.npz"], "rows.npz",
         "--report: rows.npz is --data too"),
        (["plan", *SMALL, "--device", "board.yaml", "--out", "./net.py"], "net.py",
         "--out: net.py is --model too"),
        (["pareto", *SMALL, "--device", "board.yaml", "--csv", "board.yaml"], "board.yaml",
         "--csv: board.yaml is --device too"),
        (["train", "plan.json", "--out", "plan.json"], "plan.json",
         "--out: plan.json is PLAN too"),
        (["train", "plan.json", "--data", "rows.npz", "--out", "rows.npz"], "rows.npz",
         "--out: rows.npz is --data too"),
        (["adapt", "plan.json", "--out", "plan.json"], "plan.json", "--out: plan.json is PLAN too"),
        (["show", "plan.json", "--report", "plan.json"], "plan.json",
         "--report: plan.json is PLAN too"),
        (["validate", "plan.json", "--validation", "plan.json"], "plan.json",
         "--validation: plan.json is PLAN too"),
        (["measure", "plan.json", "--out", "link.json"], "plan.json", "--out: plan.json is PLAN"),
    ],
)  # fmt: skip
def test_what_is_read_stays(
    folder: Path, command: list[str], over: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "link.json").symlink_to("plan.json")
    before = (folder / over).read_bytes()
    capsys.readouterr()
    assert main(command) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "note:" not in one]
    assert line.startswith(f"costsim: {told}")
    assert (folder / over).read_bytes() == before


@pytest.mark.parametrize("beside", [False, True])
def test_what_a_plan_or_a_patch_was_made_with_stays(
    tmp_path: Path,
    beside: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights, images and scripts that the file names are read as those that are typed."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    net = "import torch\nfrom torch import nn\n\ndef make():\n    return nn.Sequential("
    layers = "nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    (made / "net.py").write_text(net + layers)
    monkeypatch.chdir(made)
    module = load_model("net.py:make", resolution=16).module
    save_file(module.state_dict(), "w.safetensors")
    x = np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3)).astype(np.uint8)
    np.savez("x.npz", x=x, y=np.repeat(np.arange(6), 10))
    model = ["--model", "net.py:make", "--resolution", "16", "--weights", "w.safetensors"]
    task = ["--data", "x.npz", "--ways", "5", "--shots", "2", "--queries", "2"]
    device = ["--device", "jetson-nano", "--memory", "2MB", "--macs", "100%"]
    assert main(["plan", *device, *model, *task, "--out", "plan.json"]) == 0
    assert main(["train", "plan.json", "--iterations", "1", "--out", "p.safetensors"]) == 0
    place = Path()
    if beside:
        monkeypatch.chdir(tmp_path)
        place = Path("made")
    for name in ("w.safetensors", "x.npz", "net.py"):
        out, plan = str(place / name), str(place / "plan.json")
        before = (made / name).read_bytes()
        commands = [
            ["train", plan, "--iterations", "1", "--out", out],
            ["adapt", plan, "--out", out],
            ["show", plan, "--report", out],
            ["validate", plan, "--report", out],
            ["measure", plan, "--on", "local", "--out", out],
        ]
        if name == "w.safetensors":
            patch = str(place / "p.safetensors")
            commands.append(["apply", patch, "--model", "net.py:make", "--out", out])
        for command in commands:
            capsys.readouterr()
            assert main(command) == 2, command
            told = capsys.readouterr().err.splitlines()[-1]
            assert f"{name} is what {command[1]} was made with" in told
            assert (made / name).read_bytes() == before


def test_what_is_written_again_or_is_no_file_is_no_matter(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["plan", *SMALL, "--device", "board.yaml"]
    assert main([*plan, "--out", "plan.json"]) == 0
    assert main([*plan, "--out", "/dev/null"]) == 0
    assert main(["train", "plan.json", "--iterations", "1", "--out", "patch.safetensors"]) == 0
    assert main(["train", "plan.json", "--iterations", "1", "--out", "patch.safetensors"]) == 0
    capsys.readouterr()
    assert json.loads((folder / "plan.json").read_text())["schema"].startswith("costsim.plan/")


def test_every_option_that_names_a_file_to_write_is_known() -> None:
    others = {"log"}  # a folder, which is added to
    for name in COMMANDS:
        command: click.Command = importlib.import_module(f"costsim.cli.{name}").command
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, click.Path):
                names = {one.removeprefix("--") for one in option.opts}
                if group_of(name, option) == "Output":
                    assert names & (WRITTEN | others), (name, option.opts)


@pytest.mark.parametrize(
    ("command", "text", "option"),
    [
        ("study", "models: [{model: 'net.py:Net', weights: w.pt}]\nmethods: [None]\n"
         "domains: [{data: rows.npz}]\n", "--csv"),
        ("study", "models: [{model: 'net.py:Net', weights: w.pt}]\nmethods: [None]\n"
         "domains: [{data: rows.npz}]\n", "--latex"),
        ("compare", "models: [{model: 'net.py:Net', weights: w.pt}]\ntasks: [{data: rows.npz}]\n",
         "--report"),
        ("compare", "models: [{model: 'net.py:Net', weights: w.pt}]\ntasks: [{data: rows.npz}]\n",
         "--csv"),
    ],
)  # fmt: skip
def test_what_a_study_names_stays(
    tmp_path: Path, command: str, text: str, option: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    for name, content in (("net.py", SCRIPT), ("w.pt", "w"), ("rows.npz", "r"), ("s.yaml", text)):
        (tmp_path / "studies" / name).write_text(content)
    for name in ("w.pt", "rows.npz", "net.py"):
        out = f"studies/{name}"
        before = Path(out).read_bytes()
        asked = [command, "studies/s.yaml", option, out]
        assert main([*asked, "--store", "s.sqlite"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"costsim: {option}: {name} is what studies/s.yaml names")
        assert Path(out).read_bytes() == before
    assert not Path("s.sqlite").exists()


def test_outputs_of_a_comparison_are_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("solvers: [greedy]\n")
    for more, told in (
        (["--csv", "c.sqlite"], "--csv: c.sqlite is --store too"),
        (["--csv", "x", "--report", "./x"], "--report: x is --csv too"),
        (["--report", "c.yaml"], "--report: c.yaml is STUDY.yaml too"),
    ):
        assert main(["compare", "c.yaml", *more]) == 2
        assert told in capsys.readouterr().err

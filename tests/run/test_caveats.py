"""Scored by what: each silence has its sentence, and the ordinary case has none."""

import json
from pathlib import Path

import pytest
import torch
from by_default import by_default
from torch import nn

from costsim.cli import main
from costsim.ir.graph import LayerGraph
from costsim.models.networks import NETWORKS
from costsim.models.networks.graph import architecture_graph
from costsim.models.tracing import trace
from costsim.problem.importance import ChannelScores, Importance
from costsim.run.criteria.caveats import data_caveat, loss_caveat, output_caveat, score_caveat
from costsim.run.criteria.loss import LOSSES


def ending_in(*last: nn.Module) -> LayerGraph:
    """The graph of a small network of 16 channels with these layers at its end."""
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), *last)
    return trace(module.eval(), torch.zeros(1, 3, 8, 8))


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    "last",
    [
        (*POOLED, nn.Linear(16, 10)),
        (*POOLED, nn.Linear(16, 3)),  # few
        (*POOLED, nn.Linear(16, 10), nn.Softmax(1)),
        (nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 10, 1), nn.Flatten()),
        (*POOLED, nn.Linear(16, 2000), nn.ReLU(), nn.Linear(2000, 1000)),  # ImageNet's
        (*POOLED, nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 40)),  # as many as the ways
        (*POOLED, nn.Linear(16, 1000)),  # wider than what it reads, as ResNet-18's
        (nn.Conv2d(16, 8, 1), nn.ReLU(), *POOLED, nn.Linear(8, 10)),
        (nn.Conv2d(16, 1000, 1), nn.ReLU(), *POOLED),  # at every place, as SqueezeNet's
    ],
)
def test_logits_are_told_from_features(last: tuple[nn.Module, ...]) -> None:
    graph = ending_in(*last)
    told = output_caveat(graph, "prototype", 40)
    assert told is not None
    assert "look like logits" in told
    assert "--loss cross_entropy" in told
    assert "--loss" not in (output_caveat(graph, "prototype", 40, choice=False) or "")
    assert output_caveat(graph, "cross_entropy", 40) is None


@pytest.mark.parametrize(
    "last",
    [
        POOLED,
        (*POOLED, nn.ReLU()),
        (nn.Conv2d(16, 8, 1), nn.ReLU(), *POOLED),  # a narrow last convolution, pooled
        (*POOLED, nn.Linear(16, 128)),  # an embedding
        (*POOLED, nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 64)),
    ],
)
def test_features_are_not_called_logits(last: tuple[nn.Module, ...]) -> None:
    assert output_caveat(ending_in(*last), "prototype", 10) is None


@pytest.mark.parametrize("name", NETWORKS)
def test_built_in_networks_return_features(name: str) -> None:
    graph = architecture_graph(NETWORKS[name], batch=1, resolution=64)
    assert output_caveat(graph, "prototype", 10) is None
    assert data_caveat(name, built_in=True, given=False) is None


@pytest.mark.parametrize("loss", LOSSES)
def test_a_map_is_not_the_output_of_a_classifier(loss: str) -> None:
    told = output_caveat(ending_in(nn.Conv2d(16, 2, 1)), loss, 10)
    assert told is not None
    assert "[N, 2, 6, 6]" in told
    assert "classifier of 10 classes" in told


def scored(*sums: float, samples: int = 10) -> Importance:
    channels = (ChannelScores(f"l{i}", "output", (one,)) for i, one in enumerate(sums))
    return Importance("fisher", tuple(channels), samples=samples)


@pytest.mark.parametrize(
    ("importance", "told"),
    [
        (scored(0.0, 0.0), "all but zero (0)"),
        (scored(1e-9, 2e-9), "all but zero (3e-09 in all)"),
        (scored(0.5, 1e-8, 1e-9), "l0 alone has 100 % of all gain"),
    ],
)
def test_scores_that_are_all_but_zero(importance: Importance, told: str) -> None:
    assert told in (score_caveat(importance) or "")


@pytest.mark.parametrize(
    "importance",
    [scored(0.1, 0.2), scored(0.5, 0.01, 0.003), scored(0.5, 0.0), scored(0.0, samples=0)],
)
def test_scores_that_say_something(importance: Importance) -> None:
    assert score_caveat(importance) is None


def test_a_loss_that_stays_where_it_was() -> None:
    assert "the loss did not move: 1.793 in the first" in (loss_caveat([1.7928] * 5) or "")
    assert loss_caveat([1.7928, 1.7921, 1.793]) is not None
    for losses in ([], [1.0], [2.3, 2.1], [1.0, 1.2, 1.0], [1e-5] * 4, [1.0, float("nan")]):
        assert loss_caveat(losses) is None


# In the commands.

NET = """
import torch
from torch import nn


def made(last, scale=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), *last)
    net.input_shape = (3, 32, 32)
    for parameter in net.parameters():
        parameter.data.mul_(scale)
    return net


def logits():
    return made([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)])


def dead():
    return made([nn.AdaptiveAvgPool2d(1), nn.Flatten()], 1e-3)


def segments():
    return made([nn.Conv2d(16, 2, 1)])
"""

LOGITS, OWN = "look like logits", "is your own, and without --data"
ZERO, STILL = "all but zero", "the loss did not move"
MAP = "flattened from [N, 2, 7, 7]"
CAVEATS = (LOGITS, OWN, ZERO, STILL, MAP)
SMALL = ("--device", "pi-zero-2", "--ways", "2", "--shots", "2")


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "caveat_nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def said(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Which of the sentences stand on stderr; stdout is a document of its own."""
    captured = capsys.readouterr()
    json.loads(captured.out)
    return {caveat for caveat in CAVEATS if caveat in captured.err}


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("name", "caveats"),
    [("logits", {LOGITS, OWN}), ("dead", {ZERO, OWN}), ("segments", {MAP, OWN})],
)
@pytest.mark.parametrize("command", ["plan", "pareto"])
def test_a_plan_and_a_frontier_say_it(
    command: str, name: str, caveats: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--points", "2") if command == "pareto" else ()
    main([command, *SMALL, "--model", f"caveat_nets:{name}", *more, "--json"])
    assert said(capsys) == caveats


@pytest.mark.usefixtures("nets")
def test_training_and_adapting_say_it(capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--model", "caveat_nets:dead")
    assert main(["plan", *SMALL, *model, "--out", "plan.json", "--json"]) == 0
    capsys.readouterr()
    task = ("--ways", "2", "--shots", "2", "--queries", "1", "--iterations", "3")
    assert main(["train", "plan.json", *task, "--learning-rate", "1e-9", "--json"]) == 0
    assert said(capsys) == {OWN, STILL}
    adapted = ["adapt", "--device", "pi-zero-2", *model, *task, "--learning-rate", "1e-9"]
    assert main([*adapted, "--copies", "1", "--no-augment", "--json"]) == 0
    captured = capsys.readouterr()
    assert {c for c in CAVEATS if c in captured.err} == {OWN, ZERO, STILL}
    notes = " ".join(json.loads(captured.out)["notes"])
    assert ZERO in notes
    assert STILL in notes


@pytest.mark.slow
@pytest.mark.usefixtures("nets")
def test_a_comparison_says_it_of_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["compare", "--store", "c.sqlite", "--model", "caveat_nets:logits", "--ways", "2"]
    more = ["--shots", "2", "--solver", "greedy", "--device", "pi-zero-2", "--jobs", "1", "--json"]
    assert main([*asked, *more]) == 0
    captured = capsys.readouterr()
    assert "note: caveat_nets:logits: the last layer gives 10 outputs" in captured.err
    assert "(1 of 1 cell)" in captured.err
    assert any(LOGITS in note for note in json.loads(captured.out)["notes"])


@pytest.mark.slow
@pytest.mark.usefixtures("nets")
def test_a_study_says_it_of_its_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text(
        "models: [{model: 'caveat_nets:logits', name: mine}]\nmethods: [TinyTrain]\n"
        "domains: [digits]\nseeds: 1\ndevices: [pi-zero-2]\n"
        "episode: {ways: 2, shots: 2, queries: 1}\nsettings: {iterations: 2}\n"
    )
    assert main(["study", "s.yaml", "--jobs", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "note: mine: the last layer gives 10 outputs" in captured.err
    assert any(LOGITS in note for note in json.loads(captured.out)["notes"])


def test_the_ordinary_case_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A built-in network with its own weights on the digits: planned, trained, adapted."""
    monkeypatch.chdir(tmp_path)
    size = ("--resolution", "64")
    assert main(["plan", *SMALL, *size, "--out", "plan.json", "--json"]) == 0
    assert said(capsys) == set()
    task = ("--ways", "2", "--shots", "2", "--queries", "1", "--iterations", "2")
    assert main(["train", "plan.json", *task, "--json"]) == 0
    assert said(capsys) == set()
    assert main(["adapt", "--device", "pi-zero-2", *size, *task, "--json"]) == 0
    assert said(capsys) == set()
    assert main(["pareto", *SMALL, *size, "--points", "2", "--json"]) == 0
    assert said(capsys) == set()


UNTRAINED = "those of an untrained network"


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    "command",
    by_default(
        ["plan", "pareto", "adapt", "compare", "study", "train"], ["plan", "adapt", "study"]
    ),
)
def test_every_command_that_scores_says_that_a_network_is_untrained(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", "mbv2-w0.35", "--resolution", "32")
    task = ("--ways", "2", "--shots", "2")
    Path("s.yaml").write_text(
        "models: [{model: mbv2-w0.35, resolution: 32}]\nmethods: [None]\ndomains: [digits]\n"
        "seeds: 1\ndevices: [pi-zero-2]\nepisode: {ways: 2, shots: 2, queries: 1}\n"
    )
    Path("c.yaml").write_text(
        "models: [mbv2-w0.35]\nsolvers: [last-layer]\n"
        "devices: [pi-zero-2]\ntasks: [{data: digits, ways: 2, shots: 2}]\n"
    )
    plan = ["plan", "--device", "pi-zero-2", *model, *task, "--solver", "last-layer"]
    plan += ["--optimizer", "sgd"]
    words = {
        "plan": plan,
        "pareto": ["pareto", "--device", "pi-zero-2", *model, *task, "--points", "2"],
        "adapt": ["adapt", "--device", "pi-zero-2", *model, *task, "--method", "None"],
        "compare": ["compare", "c.yaml", "--store", "c.sqlite", "--jobs", "1"],
        "study": ["study", "s.yaml", "--store", "s.sqlite", "--jobs", "1"],
        "train": ["train", "plan.json", "--queries", "1", "--iterations", "1"],
    }
    if command == "train":
        assert main([*plan, "--out", "plan.json"]) == 0
        capsys.readouterr()
    assert main(words[command]) in (0, 1)
    assert capsys.readouterr().err.count(UNTRAINED) == 1

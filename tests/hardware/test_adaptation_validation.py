"""`costsim validate --adaptation`: all phases run; bytes, MACs and runs as the plan file says."""

import json
from pathlib import Path

import pytest
import torch
from by_default import by_default

from costsim.cli import main
from costsim.hardware.meters.adaptation.images import task_images
from costsim.hardware.meters.adaptation.program import planned_adaptation, planned_scoring
from costsim.hardware.meters.adaptation.sequence import Extent, Sequence
from costsim.hardware.meters.plan_validation import ValidationRequest, load_request
from costsim.hardware.results.adaptation_validation import AdaptationValidation
from costsim.learning.training.copies import Copies
from costsim.learning.training.fine_tuning import TrainRequest, prepare
from costsim.learning.training.frozen_values import FrozenValues
from costsim.learning.training.trainer import Support, Trainer
from costsim.solving.planfile import read_plan

NETWORK = """
import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.project = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def forward(self, x):
        y = nn.functional.relu6(self.depthwise(nn.functional.relu6(self.expand(x))))
        return x + self.project(y)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), Residual(),
        nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    ).eval()
"""
MODEL = "validated_network:network"

PLAIN = ["--device", "jetson-nano", "--cache", "nothing"]
IN_RAM = [
    *("--device", "jetson-nano", "--cache", "ram", "--inspect", "1", "--copies", "2"),
    *("--image-interval", "2", "--means-interval", "3", "--optimizer", "sgd"),
]
IN_STORAGE = [
    *("--device", "pi-zero-2", "--cache", "storage", "--inspect", "2", "--copies", "2"),
    *("--optimizer", "sgd"),
]
MICRO_BATCHES = [*PLAIN, "--micro-batch", "2", "--image-interval", "2", "--optimizer", "sgd"]
BATCHES = [*PLAIN, "--batch", "4", "--optimizer", "momentum"]
UNEVEN = [*PLAIN, "--batch", "4", "--image-interval", "2", "--optimizer", "sgd"]
LOGITS = [*PLAIN, "--loss", "cross_entropy", "--bias", "--means-interval", "1"]
SUMMED = [*PLAIN, "--criterion", "step_gain", "--axis", "both+bias"]
NO_SCORES = [*PLAIN, "--criterion", "l2_norm"]
HALF = [*IN_RAM, "--bits", "16"]
WAYS = {
    "plain": PLAIN, "ram": IN_RAM, "storage": IN_STORAGE, "micro": MICRO_BATCHES,
    "batches": BATCHES, "uneven": UNEVEN, "logits": LOGITS, "summed": SUMMED,
    "no scores": NO_SCORES, "half": HALF,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("validated")
    (path / "validated_network.py").write_text(NETWORK)
    return path


@pytest.fixture(autouse=True)
def network(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def plan_of(folder):
    """A plan for the small network, made once for each way of adapting."""

    def made(way, arguments=None):
        path = folder / f"{way}.json"
        if not path.exists():
            common = ["--model", MODEL, "--resolution", "16", "--ways", "3", "--shots", "3"]
            given = WAYS[way] if arguments is None else arguments
            command = ["plan", *common, "--iterations", "4", *given, "--out", str(path)]
            assert main(command) == 0
        return path

    return made


def validated(path, *more):
    return main(["validate", str(path), "--model", MODEL, *map(str, more)])


def predicted_of(path):
    return json.loads(path.read_text())["predicted"]["adaptation"]


def changed(path, tmp_path, change):
    document = json.loads(path.read_text())
    change(document)
    out = tmp_path / "changed.json"
    out.write_text(json.dumps(document))
    return out


EACH_KIND = ("storage", "batches", "uneven", "logits", "summed", "half")
"""What the others do alone, these do together with something else."""


@pytest.mark.parametrize(
    ("extent", "way"),
    [
        *(("full", way) for way in EACH_KIND),
        *(
            pytest.param("full", way, marks=pytest.mark.slow)
            for way in WAYS
            if way not in EACH_KIND
        ),
        ("small", "ram"),
        # What each phase of the others does alone, it does in the whole of it, above.
        *(pytest.param("small", way, marks=pytest.mark.slow) for way in WAYS if way != "ram"),
    ],
)
def test_every_phase_is_as_the_plan_says(extent, way, plan_of, tmp_path, capsys):
    path, out = plan_of(way), tmp_path / "adaptation.json"
    steps = ["--steps", "2"] if extent == "small" else []
    assert validated(path, "--adaptation", extent, *steps, "--validation", out) == 0
    assert "comparisons are equal" in capsys.readouterr().out
    validation, predicted = AdaptationValidation.read(out), predicted_of(path)
    assert validation.extent == extent
    phases = {phase["phase"]: phase for phase in predicted["phases"]}
    assert validation.by_owner().keys() == validation.runs.keys() == phases.keys()
    for name, found in validation.by_owner().items():
        measured = {one.quantity: one.measured for one in found.values()}
        assert measured.pop("time") > 0
        macs = {f"{cause} MACs": n for cause, n in phases[name]["macs"].items() if n}
        macs.pop("unpadded MACs")
        wanted = {"runs": phases[name]["times"], "live peak": phases[name]["peak_bytes"]}
        assert measured == wanted | macs
        rounds = 2 if way == "summed" and name == "scoring" else 1
        whole = extent == "full" or name == "answering"
        assert validation.runs[name] == (phases[name]["times"] * rounds if whole else 1)
    totals = {one.quantity: one.measured for one in validation.totals()}
    assert totals["live peak"] == predicted["peak_bytes"]
    assert totals["MACs"] == predicted["macs"]
    for place, size in predicted["stored_bytes"].items():
        assert totals[f"in {place}"] == size


def test_what_is_planned_is_what_the_ways_are_for(plan_of):
    """A cut and a place where the parameters above ask for them: else they would test nothing."""
    recipes = {way: json.loads(plan_of(way).read_text())["recipe"] for way in WAYS}
    assert recipes["plain"]["cut"] is None
    for way, place in (("ram", "ram"), ("storage", "storage"), ("half", "ram")):
        assert recipes[way]["cut"]
        assert recipes[way]["cache_in"] == place
    assert (recipes["ram"]["image_interval"], recipes["ram"]["means_interval"]) == (2, 3)
    phases = {way: [p["phase"] for p in predicted_of(plan_of(way))["phases"]] for way in WAYS}
    assert phases["ram"] == ["scoring", "caching", "class means", "training", "answering"]
    assert phases["logits"] == ["scoring", "training", "answering"]
    assert "scoring" not in phases["no scores"]


@pytest.mark.parametrize(
    "way",
    by_default(
        ["plain", "ram", "storage", "micro", "batches", "logits"], ["plain", "ram", "logits"]
    ),
)
def test_all_of_it_trains_what_train_trains(way, plan_of):
    """The same images, copies, class means and order; only sums are in another order."""
    path = plan_of(f"{way} slowly", [*WAYS[way], "--optimizer", "sgd"])
    plan = read_plan(path)
    run = prepare(TrainRequest(plan, str(path), queries=0))
    before = {name: tensor.detach().clone() for name, tensor in run.subject.tensors.items()}
    assert run.train(lambda: False, lambda _run, _loss: None)

    request = ValidationRequest(plan, str(path))
    subject, _ = load_request(request)
    scored = planned_scoring(plan, subject.graph, str(path))
    whole = planned_adaptation(plan, subject.graph, scored, str(path))
    images, _ = task_images(request, subject, None)
    everyone = images.of(torch.arange(len(images.labels)), torch.float32)
    assert torch.equal(everyone, torch.from_numpy(run.task.images.copy()))
    network = subject.trainable()
    support = Support(Copies(everyone, whole.recipe), images.labels, FrozenValues(network, 0))
    order = Trainer(network, plan.plan, support, whole.recipe.rate)
    sequence = Sequence(
        whole, subject.tensors, images, order, Extent(None, counting=False), scored=scored
    )
    sequence.run()
    moved = 0
    for name, tensor in subject.tensors.items():
        wanted, there = run.subject.tensors[name].detach(), tensor.detach()
        distance = (wanted - before[name]).abs().max()
        assert (there - wanted).abs().max() <= 1e-3 * distance, name
        moved += bool(distance)
    assert moved
    sequence.restore()
    assert all(torch.equal(before[name], t.detach()) for name, t in subject.tensors.items())


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (("peak_bytes",), "differ: live peak"),
        (("macs",), "differ: MACs"),
        (("stored_bytes", "storage"), "differ: in storage"),
        (("phases", 0, "peak_bytes"), "scoring: live peak"),
        (("phases", 1, "macs", "forward"), "caching: forward MACs"),
        (("phases", 2, "times"), "class means: runs"),
        (("phases", 3, "peak_bytes"), "training: live peak"),
        (("phases", 3, "macs", "weight_gradient"), "training: weight_gradient MACs"),
        (("phases", 4, "macs", "recompute"), "answering: recompute MACs"),
    ],
)
@pytest.mark.parametrize("off_by", by_default([1, -1], [1]))
def test_a_figure_that_is_off_by_one_is_found_out(off_by, where, told, plan_of, tmp_path, capsys):
    path = plan_of("storage")
    if off_by < 0 and where[-1] == "recompute":
        pytest.skip("there is none to be taken from")

    def change(document):
        *way, last = where
        place = document["predicted"]["adaptation"]
        for key in way:
            place = place[key]
        place[last] += off_by

    wrong = changed(path, tmp_path, change)
    assert validated(wrong, "--adaptation", "small", "--steps", "1") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of " in printed
    assert told in printed


def test_a_phase_that_is_missing_is_found_out(plan_of, tmp_path, capsys):
    def change(document):
        del document["predicted"]["adaptation"]["phases"][1]

    wrong = changed(plan_of("ram"), tmp_path, change)
    assert validated(wrong, "--adaptation", "small", "--steps", "1") == 1
    assert "differ: caching: runs" in " ".join(capsys.readouterr().out.split())


def test_seconds_are_shown_and_not_judged(plan_of, tmp_path, capsys):
    def change(document):
        for phase in document["predicted"]["adaptation"]["phases"]:
            phase["compute_s"] = {"value": 1e6, "low": 1e6, "high": 1e6}

    wrong = changed(plan_of("plain"), tmp_path, change)
    capsys.readouterr()  # of making the plan, where this is its first test
    assert validated(wrong, "--adaptation", "small", "--steps", "1", "--json") == 0
    captured = capsys.readouterr()
    validation = AdaptationValidation.from_json(json.loads(captured.out), "stdout")
    assert {one.verdict for one in validation.comparisons if one.unit == "s"} == {"informal"}
    assert "not judged" in captured.err


def test_a_plan_in_8_bits_is_priced_again_in_32(plan_of, capsys):
    path = plan_of("eight", ["--device", "stm32f746"])
    assert validated(path, "--adaptation", "small", "--steps", "1") == 0
    assert "priced again for 32 bits" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--adaptation", "some"], "'some' is not one of 'small', 'full'"),
        (
            ["--adaptation", "small", "--on", "unicorn:cortex-m7", "--report", "x"],
            "of a step; with",
        ),
        (["--adaptation", "small", "--measurement", "m.json"], "--measurement: of a step"),
        (["--adaptation", "full", "--steps", "10"], "--steps: --adaptation full runs as often"),
        (["--adaptation", "small", "--steps", "0"], "--steps is 0; at least 1 is needed"),
        (["--adaptation", "small", "--report", "page.html"], "--report"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(arguments, told, plan_of, capsys):
    path = plan_of("plain")
    capsys.readouterr()
    assert validated(path, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("predicted", "adaptation"), None, "predicted.adaptation is missing"),
        (("recipe", "cut"), "nowhere", "recipe.cut: 'nowhere' is no call"),
        (("task", "images_sha256"), "0" * 64, "its images are not those"),
        (("task", "samples"), 10, "task.samples is 10, but"),
        (("importance", "criterion"), "guess", "does not say what is scored"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(keys, value, told, plan_of, tmp_path, capsys):
    def change(document):
        *way, last = keys
        for key in way:
            document = document[key]
        document[last] = value

    wrong = changed(plan_of("ram"), tmp_path, change)
    capsys.readouterr()
    assert validated(wrong, "--adaptation", "small") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert told in line
    assert Path(wrong).name in line


def test_other_images_are_told(plan_of, tmp_path, capsys):
    """Of a folder: what is drawn from it is not what the plan was made for, and costs as much."""
    from PIL import Image

    for name in "abc":
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            colour = (40 * number, 60, 200)
            Image.new("RGB", (16, 16), colour).save(tmp_path / "images" / name / f"{number}.png")
    path = plan_of("plain")
    arguments = ["--adaptation", "small", "--steps", "1", "--data", tmp_path / "images"]
    assert validated(path, *arguments) == 0
    assert "not the plan's (costs are alike)" in " ".join(capsys.readouterr().out.split())

"""`costsim plan`, called as a person calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from by_default import by_default
from costsim.solvers import SOLVERS
from fork_server import PIPE, run, start
from PIL import Image
from waiting import until

from costsim.cli import main
from costsim.device import load_device, shipped_devices
from costsim.pricing.accounting import ACCOUNTINGS
from costsim.problem.axes import SCORED_AXES
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.loss import LOSSES
from costsim.solving.planfile import read_plan

SMALL = ("--model", "mbv2-w0.35", "--resolution", "64", "--inspect", "4")
"""A quick plan: a small network on small images, few layers scored."""

TASK = ("--ways", "2", "--shots", "2")

NETWORKS = ("mcunet-5fps", "mbv2-w0.35", "proxyless-w0.3")

CONTRACT: Mapping[str, Any] = {
    "schema": "costsim.plan/2",
    "model": dict,
    "device": dict,
    "step": dict,
    "task": dict,
    "recipe": dict,
    "loss": str,
    "budgets": dict,
    "layers": [{"name": str, "axis": (str, type(None)), "channels": list, "bias": bool}],
    "predicted": {
        "memory": {
            "accounting": str,
            "peak_bytes": int,
            "arena_bytes": int,
            "paper_bytes": int,
            "kept_bytes": int,
            "gradient_bytes": int,
            "optimizer_bytes": int,
        },
        "macs": {"forward": int, "input_gradient": int, "weight_gradient": int},
        "latency_s": {"step": float, "low": float, "high": float},
        "energy_j": float,
        "adaptation": dict,
    },
    "solver": {
        "name": str,
        "status": str,
        "objective": float,
        "bound": (float, type(None)),
        "gap": (float, type(None)),
        "seconds": float,
    },
    "seed": int,
    "versions": dict,
}
"""What other programs may rely on in a plan file that has a plan."""


class Run(NamedTuple):
    """What one call of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line on stderr that is not a note."""
        lines = [line for line in self.err.splitlines() if not line.startswith("costsim: note: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("costsim: ")
        return lines[0].removeprefix("costsim: ")


Plan = Callable[..., Run]


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[str]) -> Plan:
    """Call `costsim plan` in this process."""

    def call(*arguments: object, device: str | Path = "jetson-nano") -> Run:
        status = main(["plan", "--device", str(device), *map(str, arguments)])
        return Run(status, *capfd.readouterr())

    return call


@pytest.fixture
def small(plan: Plan) -> Plan:
    """Call it on a quick problem."""

    def call(*arguments: object, device: str | Path = "jetson-nano") -> Run:
        return plan(*SMALL, *TASK, *arguments, device=device)

    return call


def costsim(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return run(["-m", "costsim", *arguments], **options)


def matches(document: Any, shape: Any, where: str = "plan") -> None:
    """Every key of `shape` is in `document`, with a value of that type or content."""
    if isinstance(shape, Mapping):
        assert isinstance(document, dict), where
        for key, inner in shape.items():
            assert key in document, f"{where}.{key}"
            matches(document[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(document, list), where
        for item in document:
            matches(item, shape[0], where)
    elif isinstance(shape, type | tuple):
        assert isinstance(document, shape), f"{where}: {document!r}"
    else:
        assert document == shape, where


def used(document: Any) -> dict[str, float]:
    """What a plan takes of each budget, under the budget's own name."""
    predicted, budgets = document["predicted"], document["budgets"]
    memory, macs = predicted["memory"], predicted["macs"]
    key = {
        "peak": "peak_bytes",
        "arena": "arena_bytes",
        "paper": "paper_bytes",
        "tiny-training": "tiny_training_bytes",
    }
    return {
        "memory_bytes": memory[key[budgets["accounting"]]],
        "working_bytes": memory["peak_bytes"],
        "macs": macs["input_gradient"] + macs["weight_gradient"],
        "latency_s": predicted["latency_s"]["step"],
        "energy_j": predicted["energy_j"],
    }


def assert_within_budgets(document: Any) -> None:
    amounts = used(document)
    for name, amount in amounts.items():
        limit = document["budgets"][name]
        assert limit is None or amount <= limit * (1 + 1e-9), name
    assert document["predicted"]["fits"] is True
    memory = document["predicted"]["memory"]
    assert memory["peak_bytes"] <= memory["arena_bytes"]


# Plans.


@pytest.mark.parametrize("device", shipped_devices())
def test_defaults_give_a_plan_within_the_devices_budgets(plan: Plan, device: str) -> None:
    run = plan("--json", device=device)
    assert run.status == 0
    document = run.document  # one document and nothing else, or this raises
    matches(document, CONTRACT)
    assert_within_budgets(document)
    assert document["layers"]
    recommended = load_device(device).training_budget
    assert document["budgets"]["memory_bytes"] == recommended.memory_bytes
    assert document["budgets"]["accounting"] == recommended.accounting
    full = document["predicted"]["macs"]["full_backward"]
    assert document["budgets"]["macs"] == int(recommended.macs_share.value * full)
    assert document["model"]["provenance"].startswith("built-in weights")
    assert "untrained" not in run.err


def test_a_network_without_weights_is_said_to_be_untrained(plan: Plan) -> None:
    run = plan("--model", "mbv2-w0.35", "--json")
    assert run.status == 0
    assert "seed 0 (no pretrained weights)" in run.document["model"]["provenance"]
    assert run.err.startswith("costsim: note: ")
    assert "those of an untrained network" in run.err


def test_table_is_on_stdout_and_notes_are_on_stderr(small: Plan) -> None:
    run = small()
    assert run.status == 0
    assert run.out.startswith("Update ")
    assert "untrained" not in run.out
    assert all(line.startswith("costsim: note: ") for line in run.err.splitlines())


def test_written_files_are_whole_and_read_back_as_printed(small: Plan, tmp_path: Path) -> None:
    out, report = tmp_path / "plan.json", tmp_path / "plan.html"
    run = small("--json", "--out", out, "--report", report)
    assert run.status == 0
    assert json.loads(out.read_text()) == run.document
    assert read_plan(out).to_json() == run.document
    page = report.read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    # self-contained: nothing is fetched
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.html", "plan.json"]


def test_a_link_is_followed_and_what_is_no_file_is_written_to(small: Plan, tmp_path: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target)
    assert small("--out", link).status == 0
    assert link.is_symlink()
    assert read_plan(target)
    assert small("--out", os.devnull).status == 0
    assert Path(os.devnull).is_char_device()


def test_same_request_same_plan(small: Plan) -> None:
    first, again, other = (small("--json", "--seed", s).document for s in (3, 3, 4))
    for document in (first, again, other):
        document["solver"].pop("seconds")
    assert first == again
    assert first["importance"] != other["importance"]


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "brute-force"])
def test_every_solver_answers(small: Plan, solver: str) -> None:
    run = small("--json", "--solver", solver, "--memory", "64MB", "--macs", "100%")
    assert run.status == 0
    matches(run.document, CONTRACT)
    assert_within_budgets(run.document)
    assert bool(run.document["layers"]) == (solver != "none")
    assert run.document["solver"]["status"] in ("optimal", "feasible")


def test_exact_solvers_find_no_less_than_greedy(small: Plan) -> None:
    gains = {
        solver: small("--json", "--solver", solver, "--macs", "12%").document["solver"]
        for solver in ("greedy", "ilp")
    }
    assert gains["ilp"]["status"] == "optimal"
    assert gains["ilp"]["objective"] >= gains["greedy"]["objective"]
    assert gains["ilp"]["bound"] >= gains["ilp"]["objective"] * (1 - 1e-9)


def test_brute_force_says_what_it_cannot_do(small: Plan) -> None:
    run = small("--solver", "brute-force")
    assert run.status == 2
    assert "brute" in run.complaint


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores(small: Plan, criterion: str) -> None:
    run = small("--json", "--criterion", criterion)
    assert run.status == 0
    assert run.document["importance"]["criterion"] == criterion
    assert run.document["layers"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_scores(small: Plan, loss: str) -> None:
    assert small("--json", "--loss", loss).document["layers"]


@pytest.mark.parametrize("axis", ["output", "input", "both"])
def test_axis(small: Plan, axis: str) -> None:
    document = small("--json", "--axis", axis).document
    found = {layer["axis"] for layer in document["layers"]}
    assert found
    assert found <= ({axis} if axis != "both" else {"output", "input"})


@pytest.mark.parametrize("solver", ["exact", "greedy"])
def test_biases_are_chosen_by_themselves(small: Plan, tmp_path: Path, solver: str) -> None:
    """The plan file has them, says what they gain, and adds up."""
    path = tmp_path / "plan.json"
    run = small("--axis", "output+bias", "--solver", solver, "--out", path, "--explain")
    assert run.status == 0
    file = read_plan(path)
    assert file.plan.biases
    assert re.search(rf"Update .*{len(file.plan.biases)}\s+bias", run.out)
    entries = {(e.name, e.axis): e for e in file.importance.layers}
    biases = {name for name, axis in entries if axis == "bias"}
    assert file.plan.biases <= biases
    for name in biases:
        entry = entries[name, "bias"]
        assert entry.gain == (entry.potential if name in file.plan.biases else 0)
    assert sum(e.gain for e in entries.values()) == pytest.approx(file.solver.objective)


def test_the_scores_that_can_be_asked_for_have_names(plan: Plan) -> None:
    run = plan("--axis", "depth")
    assert run.status == 2
    assert all(f"'{name}'" in run.err for name in SCORED_AXES)


def test_bias_comes_with_the_chosen_layers(small: Plan) -> None:
    assert not any(layer["bias"] for layer in small("--json").document["layers"])
    assert all(layer["bias"] for layer in small("--json", "--bias").document["layers"])


def test_bits_and_optimizer(small: Plan) -> None:
    document = small(
        "--json", "--bits", "weights=8,activations=8", "--optimizer", "adam", device="stm32h743"
    ).document
    step, memory = document["step"], document["predicted"]["memory"]
    assert step["bits"] == {"weights": 8, "activations": 8, "gradients": 32, "optimizer": 32}
    assert memory["gradient_bytes"] == 4 * memory["updated_weight_bytes"]
    assert memory["optimizer_bytes"] == 2 * memory["gradient_bytes"]


def test_a_choice_that_the_device_has_no_room_for_is_told(small: Plan) -> None:
    fisher = small(device="stm32f746")
    assert "scoring: what to update" in fisher.out
    assert "choosing would hold" not in fisher.err
    gradients = ("--criterion", "step_gain", "--inspect", "40")
    assert "at once, more than the 288 KiB" in small(*gradients, device="stm32f746").err
    held = small("--json", *gradients).document["predicted"]["adaptation"]["phases"][0][
        "peak_bytes"
    ]
    assert held > 288 * 1024


def test_micro_batches_take_less_memory_for_the_same_macs(small: Plan) -> None:
    request = ("--json", "--batch", "4", "--solver", "last-layer", "--memory", "1GB")
    whole = small(*request).document["predicted"]
    parts = small(*request, "--micro-batch", "1").document["predicted"]
    assert parts["macs"] == whole["macs"]
    assert parts["memory"]["peak_bytes"] < whole["memory"]["peak_bytes"]


def test_a_batch_of_any_size_is_priced_not_allocated(small: Plan) -> None:
    one, many = (
        small("--json", "--batch", n, "--solver", "none", "--memory", "2GB", "--inspect", 1)
        .document["predicted"]["macs"]["forward"]
        for n in (1, 5000)
    )  # fmt: skip
    assert many == 5000 * one


@pytest.mark.parametrize("accounting", ACCOUNTINGS)
def test_memory_budget_in_every_accounting(small: Plan, accounting: str) -> None:
    generous = small("--json", "--accounting", accounting, "--memory", "4MB").document
    amount = used(generous)["memory_bytes"]
    tight = small("--json", "--accounting", accounting, "--memory", amount - 1)
    assert tight.status == 0
    assert_within_budgets(tight.document)
    assert tight.document["predicted"]["memory"]["accounting"] == accounting
    assert used(tight.document)["memory_bytes"] < amount


@pytest.mark.parametrize(("option", "name"), [("--latency", "latency_s"), ("--energy", "energy_j")])
def test_time_and_energy_budgets_bind(small: Plan, option: str, name: str) -> None:
    free = used(small("--json", "--solver", "ilp").document)[name]
    least = used(small("--json", "--solver", "none").document)[name]
    limit = (free + least) / 2
    run = small("--json", "--solver", "ilp", option, f"{limit:.12g}")
    assert run.status == 0
    assert_within_budgets(run.document)
    assert used(run.document)[name] <= limit < free


def test_targets_of_a_device_take_different_times(small: Plan) -> None:
    times = {
        target: small("--json", "--target", target).document["predicted"]["latency_s"]["step"]
        for target in ("cpu", "gpu")
    }
    assert times["cpu"] != times["gpu"]


def test_a_device_file_of_ones_own(small: Plan, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "devices" / "pi-zero-2.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.read_text().replace("name: pi-zero-2", "name: mine", 1))
    run = small("--json", device=mine)
    assert run.status == 0
    assert run.document["device"]["name"] == "mine"


# No plan: the answer is no.


@pytest.mark.parametrize(
    ("option", "little", "pattern"),
    [
        ("--memory", "10KiB", r"memory 10 KiB is too little, ([0-9.]+KiB) would do"),
        ("--macs", "3", r"backward MACs 3 MAC is too little, ([0-9.]+[kM]?MAC) would do"),
        ("--macs", "0%", r"backward MACs 0 MAC is too little, ([0-9.]+[kM]?MAC) would do"),
        ("--latency", "1us", r"latency of a step 1 us is too little, ([0-9.]+[mu]?s) would do"),
        ("--latency", "0", r"latency of a step 0 us is too little, ([0-9.]+[mu]?s) would do"),
        ("--energy", "1uJ", r"energy of a step 1 uJ is too little, ([0-9.]+[mu]?J) would do"),
    ],
)
@pytest.mark.parametrize("solver", by_default(["greedy", "ilp"], ["greedy"]))
def test_the_smallest_budget_that_would_do_does(
    small: Plan, solver: str, option: str, little: str, pattern: str
) -> None:
    run = small("--json", "--solver", solver, option, little)
    assert run.status == 1
    found = re.search(pattern, run.complaint)
    assert found, run.complaint
    document = run.document
    assert document["solver"]["status"] == "infeasible"
    assert document["solver"]["reason"] in run.complaint
    assert document["predicted"] is None
    assert document["layers"] == []
    again = small("--json", "--solver", solver, option, found[1])
    assert again.status == 0
    assert_within_budgets(again.document)


def test_no_is_said_in_the_table_and_in_the_file(small: Plan, tmp_path: Path) -> None:
    out, report = tmp_path / "no.json", tmp_path / "no.html"
    run = small("--memory", "1KB", "--out", out, "--report", report)
    assert run.status == 1
    assert run.out.startswith("No plan is within the budgets: ")
    assert run.out.count("would do") == 1
    assert run.complaint == "No plan is within the budgets"  # the table says why
    assert read_plan(out).predicted is None
    assert "would do" in report.read_text()


@pytest.mark.parametrize("solver", ["exact", "ilp"])
def test_out_of_time_there_is_a_plan_and_how_far_from_the_best_it_may_be(
    small: Plan, solver: str
) -> None:
    run = small("--solver", solver, "--time-limit", "0s", "--macs", "2%", "--json")
    assert run.status == 0
    assert_within_budgets(run.document)
    said = run.document["solver"]
    assert said["status"] == "time_limit"
    assert said["bound"] > said["objective"] > 0
    assert said["gap"] > 0


def test_scores_that_are_all_zero_are_told(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose features do not depend on its weights: every gradient is 0."""
    (tmp_path / "flat.py").write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    dead = nn.Conv2d(3, 4, 3)\n"
        "    nn.init.zeros_(dead.weight)\n"
        "    nn.init.zeros_(dead.bias)\n"
        "    return nn.Sequential(dead, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    run = plan(
        "--model", "flat:make", "--resolution", "32", "--ways", "2", "--shots", "1",
        "--macs", "100%", "--json",
    )  # fmt: skip
    assert run.status == 0, run.err
    assert "the fisher scores are all but zero (0)" in run.err
    assert run.document["solver"]["objective"] == 0


# Models of one's own.

MODELS = """
import torch
from torch import nn
from zoo import ZOO, small_vit

globals().update(ZOO)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y, y


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x, y):
        return self.conv(x).mean((2, 3)) + y


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.odd = Cumulated()

    def forward(self, x):
        return self.odd(self.conv(x).mean((2, 3)))


class Cumulated(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


def not_numbers():
    model = ZOO["tiny"]()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    return model


def fails():
    raise RuntimeError("first line\\nsecond line")


number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module `mine` of models, which is the current folder."""
    (tmp_path / "mine_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))
    monkeypatch.delitem(sys.modules, "mine_models", raising=False)
    return tmp_path


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_like", "small_vit", "tiny"])
def test_a_model_of_ones_own(plan: Plan, name: str) -> None:
    run = plan(
        "--model", f"mine_models:{name}", "--resolution", 32, *TASK, "--inspect", 3, "--json"
    )
    assert run.status == 0, run.err
    matches(run.document, CONTRACT)
    assert_within_budgets(run.document)
    assert run.document["layers"]
    assert run.document["model"]["name"] == name


@pytest.mark.parametrize("batch", [1, 2])
def test_an_exported_program(plan: Plan, mine: Path, batch: int) -> None:
    import torch
    from zoo import tiny

    exported = torch.export.export(tiny(), (torch.zeros(batch, 3, 32, 32),))
    torch.export.save(exported, mine / "tiny.pt2")
    request = (*TASK, "--batch", batch, "--json")
    run = plan("--model", "tiny.pt2", *request)
    assert run.status == 0, run.err
    same = plan("--model", "mine_models:tiny", "--resolution", 32, *request).document
    assert run.document["predicted"]["macs"]["forward"] == same["predicted"]["macs"]["forward"]
    assert plan("--model", "tiny.pt2", *TASK, "--batch", 3).status == 2


# Real weights, real images.

WEIGHTS = {
    "mcunet-5fps": "mcunet-5fps.int8.pkl",
    "mbv2-w0.35": "mbv2-w0.35.int8.pkl",
    "proxyless-w0.3": "proxyless-w0.3.int8.pkl",
}
IMAGES = {
    "mcunet-5fps": "traffic_sign.tar.gz",
    "mbv2-w0.35": "omniglot.tar.gz",
    "proxyless-w0.3": "dtd.tar.gz",
}


def check_real(plan: Plan, shared: Path, device: str, network: str) -> None:
    weights = shared / "weights" / WEIGHTS[network]
    images = shared / "data" / IMAGES[network]
    run = plan("--model", network, "--weights", weights, "--data", images, "--json", device=device)
    assert run.status == 0, run.err
    matches(run.document, CONTRACT)
    assert_within_budgets(run.document)
    assert run.document["layers"]
    assert run.document["model"]["weights"] == str(weights)
    assert images.name in run.document["importance"]["source"]
    assert "untrained" not in run.err


@pytest.mark.parametrize(
    ("device", "network"), list(zip(shipped_devices(), (*NETWORKS, NETWORKS[0]), strict=True))
)
def test_real_images_and_published_weights(
    plan: Plan, shared: Path, device: str, network: str
) -> None:
    check_real(plan, shared, device, network)


@pytest.mark.slow
@pytest.mark.parametrize("device", shipped_devices())
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_on_every_device(plan: Plan, shared: Path, device: str, network: str) -> None:
    check_real(plan, shared, device, network)


def test_weights_of_another_network(plan: Plan, shared: Path) -> None:
    weights = shared / "weights" / WEIGHTS["proxyless-w0.3"]
    run = plan(*SMALL, *TASK, "--weights", weights)
    assert (run.status, run.out) == (2, "")
    assert str(weights) in run.complaint


def draw_images(folder: Path, classes: int, images: int) -> Path:
    for number in range(classes):
        place = folder / f"class{number}"
        place.mkdir(parents=True)
        for index in range(images):
            colour = (40 * number, 30 * index, 90)
            Image.new("RGB", (20, 12), colour).save(place / f"{index}.png")
    return folder


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "zip"])
def test_images_from_every_container(small: Plan, tmp_path: Path, kind: str) -> None:
    folder = draw_images(tmp_path / "images", 3, 3)
    path = folder if kind == "folder" else tmp_path / f"packed.{kind}"
    files = sorted(folder.rglob("*.png"))
    if kind.startswith("tar"):
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for file in files:
                archive.add(file, file.relative_to(folder))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in files:
                packed.write(file, file.relative_to(folder))
    document = small("--json", "--data", path).document
    assert document["importance"]["samples"] == 4
    reference = small("--json", "--data", folder).document
    assert document["layers"] == reference["layers"]


# Input that cannot be used: one line, status 2, nothing written.

BAD: Mapping[str, tuple[tuple[object, ...], str]] = {
    "unknown device": (("--device", "toaster"), "shipped are jetson-nano, pi-zero-2"),
    "missing device file": (("--device", "none.yaml"), "none.yaml"),
    "device is a folder": (("--device", "."), "cannot be read"),
    "memory unit": (("--memory", "12parsec"), "--memory: unknown unit 'parsec'"),
    "negative memory": (("--memory", "-1KB"), "--memory: cannot read '-1KB'"),
    "share above the whole": (("--macs", "150%"), "--macs: '150%' is outside 0% to 100%"),
    "negative MACs": (("--macs", "-5"), "--macs: cannot read '-5'"),
    "latency that is no number": (("--latency", "nan"), "--latency: cannot read 'nan'"),
    "infinite latency": (("--latency", "1e999s"), "--latency: '1e999s' is not a finite number"),
    "energy in seconds": (("--energy", "5s"), "allowed are J, mJ"),
    "unknown solver": (("--solver", "magic"), "known are greedy, "),
    "time limit for greedy": (("--solver", "greedy", "--time-limit", "1s"), "takes no time limit"),
    "unknown criterion": (("--criterion", "magic"), "known are fisher"),
    "unknown model": (("--model", "resnet"), "give one of mcunet-5fps, mbv2-w0.35"),
    "unknown target": (("--target", "tpu"), "allowed are gpu, cpu"),
    "unknown accounting": (("--accounting", "rough"), "'peak', 'arena', 'paper', 'tiny-training'"),
    "unknown optimizer": (("--optimizer", "lion"), "'sgd', 'momentum', 'adam'"),
    "unknown axis": (("--axis", "depth"), "'output', 'input', 'both'"),
    "biases twice": (("--axis", "output+bias", "--bias"), "give one of the two"),
    "unknown bits": (("--bits", "7"), "allowed are 8, 16, 32 and 64"),
    "bits of nothing": (("--bits", "biases=8"), "--bits: cannot read 'biases=8'"),
    "bits without kernels": (("--bits", "8"), "has kernels for 32"),
    "missing data": (("--data", "nowhere"), "nowhere: cannot be read"),
    "empty data": (("--data", "empty"), "empty: is empty"),
    "data is text": (("--data", "text.txt"), "text.txt: is not a folder, tar, tar.gz or zip"),
    "corrupt image": (("--data", "corrupt", "--ways", 2, "--shots", 3), "class1/1.png"),
    "class with too few images": (
        ("--data", "few", "--shots", 3),
        "few: has 0 classes with 3 images or more; 1 way needs as many",
    ),
    "more ways than classes": (("--data", "few", "--ways", 3, "--shots", 1), "few: has 2 classes"),
    "split of nothing": (("--split", "train"), "--split names a part of --data"),
    "unknown split": (("--data", "few", "--split", "train"), "has no split 'train'"),
    "more ways than digits": (("--ways", 11), "has 10 classes"),
    "no ways": (("--ways", 0), "ways is 0"),
    "no shots": (("--shots", 0), "shots is 0"),
    "more images than memory": (("--resolution", 3000), "50 images of 3000x3000"),
    "weights missing": (("--weights", "none.pth"), "none.pth: cannot be read"),
    "weights are text": (("--weights", "text.txt"), "text.txt: "),
    "no such module": (("--model", "nowhere:make"), "nowhere cannot be imported"),
    "no such factory": (("--model", "mine_models:make"), "mine_models has no 'make'"),
    "factory is a number": (("--model", "mine_models:number"), "neither a function nor a model"),
    "factory fails": (("--model", "mine_models:fails"), "RuntimeError: first line"),
    "no such output": (("--model", "mine_models:Pair", "--output", "2"), "there are 0, 1"),
    "model needs two inputs": (("--model", "mine_models:Two"), "must take one tensor"),
    "unknown operator": (("--model", "mine_models:Odd"), "cumsum"),
    "weights are not numbers": (("--model", "mine_models:not_numbers"), "head.weight"),
    "no such program": (("--model", "none.pt2"), "none.pt2: cannot be read"),
    "program is text": (("--model", "text.pt2"), "text.pt2: "),
    "plan into a missing folder": (("--out", "none/plan.json"), "--out: the folder none"),
    "plan onto a folder": (("--out", "empty"), "--out: empty is a folder"),
    "report into a missing folder": (("--report", "none/x.html"), "--report: the folder none"),
    "plan and report in one file": (("--out", "same", "--report", "same"), "both same"),
    "no batch": (("--batch", 0), "batch is 0"),
    "negative batch": (("--batch", -2), "batch is -2"),
    "batch that is no number": (("--batch", "few"), "'few' is not a valid integer"),
    "micro-batch that does not divide": (("--batch", 4, "--micro-batch", 3), "does not divide"),
    "no micro-batch": (("--micro-batch", 0), "micro batch is 0"),
    "no pixels": (("--resolution", 0), "resolution is 0"),
    "too few pixels": (("--resolution", 5), "at least 32 pixels"),
    "too many pixels": (("--resolution", 10**9), "resolution is 1000000000, batch 1: an input"),
    "negative seed": (("--seed", -1), "--seed is -1; allowed are 0 to"),
    "huge seed": (("--seed", 10**30), "allowed are 0 to"),
    "no iterations": (("--iterations", 0), "iterations is 0; at least 1 is needed"),
    "nothing inspected": (("--inspect", 0), "--inspect: cannot read '0'"),
    "unknown option": (("--fast",), "No such option"),
    "option without value": (("--model",), "--model"),
    "argument too many": (("everything",), "everything"),
}


@pytest.fixture
def clutter(mine: Path) -> Path:
    """The current folder with things that cannot be used."""
    (mine / "empty").mkdir()
    (mine / "text.txt").write_text("just words\n")
    (mine / "text.pt2").write_text("just words\n")
    draw_images(mine / "few", 2, 2)
    broken = draw_images(mine / "corrupt", 2, 3) / "class1" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    return mine


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_told_in_one_line(plan: Plan, clutter: Path, case: str) -> None:
    arguments, words = BAD[case]
    before = {p for p in clutter.rglob("*") if "__pycache__" not in p.parts}
    files = (
        () if {"--out", "--report"} & {*arguments} else ("--out", "p.json", "--report", "p.html")
    )
    run = plan(*files, *arguments)
    assert run.status == 2, run
    assert run.out == ""
    assert words in run.complaint
    assert "Traceback" not in run.err
    assert {p for p in clutter.rglob("*") if "__pycache__" not in p.parts} == before


def test_a_device_without_a_name_is_told_with_the_option(plan: Plan) -> None:
    run = plan(device="")
    assert (run.status, run.out) == (2, "")
    assert run.complaint == "--device is empty: the name of a shipped device or a YAML file"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("memory:", "memmory:", 1), "memmory"),
        (lambda text: re.sub(r"value: [0-9.]+ ?MB", "value: 3 parsec", text, count=1), "parsec"),
        (lambda text: re.sub(r"value: ([0-9.]+) ?MB", r"value: -\1 MB", text, count=1), "value"),
        (lambda _text: "- a\n- b\n", "mapping"),
        (lambda _text: "", "mapping"),
        (lambda text: text + "\nname: [", "board.yaml"),
    ],
)
def test_a_device_file_that_cannot_be_used(
    plan: Plan, tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    shipped = (Path(__file__).parents[2] / "devices" / "pi-zero-2.yaml").read_text()
    board = tmp_path / "board.yaml"
    board.write_text(change(shipped))
    assert board.read_text() != shipped
    run = plan(device=board)
    assert (run.status, run.out) == (2, "")
    assert "board.yaml" in run.err
    assert words in run.err


@pytest.mark.usefixtures("mine")
def test_an_unknown_operator_is_named_with_its_module(plan: Plan) -> None:
    complaint = plan("--model", "mine_models:Odd", "--resolution", 32).complaint
    assert "cumsum" in complaint
    assert re.search(r"\bodd\b", complaint)


@pytest.mark.parametrize("arguments", [(), ("plans",), ("plan",), ("--fast",)])
def test_the_command_itself_misused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    if arguments:
        assert err.count("\n") == 1
        assert err.startswith("costsim: ")
    else:
        assert err.startswith("Usage: costsim")
    if arguments == ("plans",):
        assert "plan" in err.removeprefix("costsim: no command 'plans'")


# A process of its own.


def test_json_through_a_pipe_is_one_document(tmp_path: Path) -> None:
    done = costsim("plan", "--device", "jetson-nano", *SMALL, *TASK, "--json", cwd=tmp_path)
    assert done.returncode == 0
    matches(json.loads(done.stdout), CONTRACT)
    assert all(line.startswith("costsim: note: ") for line in done.stderr.splitlines())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "--device", "stm32f746", *SMALL, *TASK),
        ("devices",),
        ("devices", "--json"),
    ],
)
def test_a_reader_that_goes_away_gets_no_traceback(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    process = start(["-m", "costsim", *arguments], stdout=write, stderr=PIPE)
    os.close(write)
    os.close(read)
    _, err = process.communicate()
    assert [line for line in err.splitlines() if not line.startswith("costsim: note: ")] == []
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_full_disk_is_told_in_one_line(form: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(["-m", "costsim", "devices", *form], stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("costsim: ")
    assert done.stderr.count("\n") == 1


def test_interrupted_while_planning(tmp_path: Path) -> None:
    """Ctrl-C once the work has begun: status 130, one line, nothing left behind."""
    (tmp_path / "slow_models.py").write_text(
        "import pathlib, time\n"
        "def make():\n    pathlib.Path('begun').touch()\n    time.sleep(600)\n"
    )
    process = start(
        ["-m", "costsim", "plan", "--device", "jetson-nano", "--model", "slow_models:make",
         "--out", "plan.json", "--report", "plan.html"],
        cwd=tmp_path, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    until((tmp_path / "begun").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(60)
    assert process.returncode == 130
    assert out == ""
    assert err.split("\n")[-2:] == ["costsim: interrupted", ""]
    assert "Traceback" not in err
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"slow_models.py", "begun"}


@pytest.mark.parametrize("delay_s", by_default([1.0, 2.5], [1.0]))
def test_interrupted_at_any_moment(tmp_path: Path, delay_s: float) -> None:
    """Also while modules are imported, so in an interpreter that has none of them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "costsim", "plan", "--device", "jetson-nano", "--inspect", "all",
         "--out", "plan.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    left = [path.name for path in tmp_path.iterdir()]
    assert left in ([], ["plan.json"])
    if left:  # it was faster, and what it wrote is whole
        assert read_plan(tmp_path / "plan.json").plan.subsets
        return
    # before the command itself is imported nobody can say it better than Python
    assert process.returncode == 130 or "costsim/cli/plan.py" not in err


def test_interrupted_while_a_class_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python 3.11 makes a `RuntimeError` of what is raised while a class is made."""

    class Field:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def plan_request(*_: object, **__: object) -> type:
        return type("Plan", (), {"field": Field()})

    monkeypatch.setattr("costsim.cli.plan.plan_request", plan_request)
    assert main(["plan", "--device", "jetson-nano"]) == 130
    assert capsys.readouterr().err == "costsim: interrupted\n"


def test_weights_larger_than_the_flash_are_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    """Four bytes each of some 430,000 parameters, in less than a megabyte: before any scoring."""
    plan = ["plan", "--resolution", "32", "--bits", "32", "--criterion", "l2_norm", "--device"]
    scored = [*plan[:5], "--device", "stm32f746"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("costsim.planning.posed_problem._score", lambda *_: pytest.fail("scored"))
        assert main(scored) == 2
    assert main([*plan, "stm32f746"]) == 2
    assert "of flash at 32 bits, and stm32f746 has 870 KiB" in capsys.readouterr().err
    assert main([*plan, "stm32h743"]) == 0

"""The weights that come with mcunet-5fps: what they are, and what they are worth."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from costsim.base.errors import InputError
from costsim.cli import main
from costsim.data import digits
from costsim.learning.pretraining.evaluation import Accuracy, evaluate
from costsim.learning.pretraining.pool import load_pool
from costsim.models.loading import load_model
from costsim.models.networks import NETWORKS
from costsim.models.networks.build import build
from costsim.models.networks.shipped import RANDOM, shipped_weights

NAME = "mcunet-5fps"
README = (Path(__file__).parents[2] / "costsim/models/networks/shipped/README.md").read_text()


def accuracy(weights: Path | None) -> Accuracy:
    """Of class means on digits, which were never trained on."""
    module = load_model(NAME, weights=weights).module
    pool = load_pool([digits()], NETWORKS[NAME].resolution, 0.0, limit=20)
    (found,) = evaluate(module, pool.pixels, pool.training, torch.device("cpu"))
    return found


def test_the_file_is_small_whole_and_in_half_precision() -> None:
    path = shipped_weights(NAME)
    assert path is not None
    assert path.stat().st_size < 1.1e6
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    expected = {name: tensor.shape for name, tensor in build(NAME).state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected


def test_only_networks_with_a_file_have_weights() -> None:
    assert {name for name in NETWORKS if shipped_weights(name)} == {NAME}
    assert shipped_weights("../README") is None


def test_they_are_the_default_and_random_is_the_network_of_the_seed() -> None:
    default, again = load_model(NAME), load_model(NAME, seed=5)
    assert default.provenance == "built-in weights, meta-trained on characters and drawings"
    key = "blocks.3.expand.weight"
    assert torch.equal(default.module.get_parameter(key), again.module.get_parameter(key))
    random = load_model(NAME, weights=RANDOM, seed=5)
    assert random.provenance == "initialised from seed 5 (no pretrained weights)"
    assert torch.equal(random.module.get_parameter(key), build(NAME, seed=5).get_parameter(key))
    with pytest.raises(InputError, match=r"\./random|random: cannot be read"):
        load_model(NAME, weights=Path("./elsewhere/random"))


def test_they_tell_digits_apart_that_they_were_not_trained_on() -> None:
    trained, random = accuracy(None), accuracy(RANDOM)
    assert (trained.ways, trained.shots, trained.episodes) == (10, 5, 600)
    assert trained.mean - trained.interval > random.mean + random.interval + 0.2
    told = re.search(r"digits, class means[^|]*\|\s*([\d.]+)[^|]*\|\s*([\d.]+)", README)
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * random.mean, abs=2)
    assert float(told[2]) == pytest.approx(100 * trained.mean, abs=2)


def test_a_plan_uses_them_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert main(["plan", "--device", "jetson-nano", "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    model = json.loads(printed.out)["model"]
    assert model["provenance"] == "built-in weights, meta-trained on characters and drawings"
    assert model["weights"] is None
    assert "untrained" not in printed.err
    assert main(["plan", "--device", "jetson-nano", "--weights", "random", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["model"]["weights"] == "random"
    assert "those of an untrained network" in printed.err


def test_their_origin_stands_beside_them() -> None:
    for needed in ("Omniglot", "MIT", "QuickDraw", "CC BY 4.0", "costsim pretrain", "Lake", "seed"):
        assert needed in README, needed

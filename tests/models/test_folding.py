"""Batch norm folded into the weights before it, trained there, and taken out again."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import costsim
from costsim.base.errors import InputError, Note
from costsim.cli import main
from costsim.learning.training import apply_patch, load_subject
from costsim.learning.training.fine_tuning import prepare
from costsim.learning.training.train_request import TrainRequest
from costsim.models.folding import fold_batch_norm, folded_weight, moved, unfolded
from costsim.models.loading import load_model
from costsim.planning import BudgetRequest

SCRIPT = """
import torch
from torch import nn

def make():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
    for part in net:
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.3, 2)
            nn.init.uniform_(part.weight, -1.5, 1.5)
            nn.init.normal_(part.bias)
    net.input_shape = (3, 32, 32)
    return net
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    (tmp_path / "net.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    return load_model("net.py:make").module


def test_the_folded_network_computes_the_same(model: nn.Module) -> None:
    model, x = model.double(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model, x)
    assert [(pair.layer, pair.norm) for pair in folded.pairs] == [
        ("0", "1"),
        ("3", "4"),
        ("6", "7"),
    ]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.module.modules())
    assert torch.allclose(folded.module(x), model(x), rtol=1e-12, atol=1e-13)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for pair in folded.pairs:
        weight = model.get_parameter(f"{pair.layer}.weight")
        again = unfolded(pair, folded_weight(weight, pair), weight)
        assert torch.allclose(again, weight, rtol=1e-14)
    bias = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert torch.equal(moved(bias + 0.5, bias, bias - 3), bias - 2.5)


def test_a_batch_norm_that_others_read_past_stays() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    assert not fold_batch_norm(Beside().eval(), torch.zeros(1, 3, 4, 4)).pairs


class Activated(nn.BatchNorm2d):
    """A batch norm with its activation inside, as timm has them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class Doubling(nn.BatchNorm2d):
    """One that does more, which nobody could see from outside."""

    def forward(self, x: Tensor) -> Tensor:
        once: Tensor = super().forward(x)
        return 2 * once


def test_what_a_batch_norm_does_beside_is_kept_or_refused() -> None:
    x = torch.randn(2, 3, 5, 5)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), Activated(4)).eval()
    folded = fold_batch_norm(net, x)
    assert len(folded.pairs) == 1
    assert torch.allclose(folded.module(x), net(x), atol=1e-6)
    with pytest.raises(InputError, match="its batch norms do more than batch norm"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), Doubling(4)).eval(), x)


def test_a_channel_of_scale_zero_keeps_what_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
    nn.init.zeros_(net.get_parameter("1.weight"))
    pair = fold_batch_norm(net, torch.zeros(1, 3, 4, 4)).pairs[0]
    weight = net.get_parameter("0.weight").detach()
    with pytest.warns(Note, match="1 multiplies 2 channels of 0 by 0: what they learnt is left"):
        assert torch.equal(unfolded(pair, torch.ones_like(weight), weight), weight)


def test_what_was_trained_folded_is_what_the_patch_makes_of_the_model(model: nn.Module) -> None:
    planned = costsim.make_plan(
        device="stm32f746",
        model="net.py:make",
        axes=("output", "bias"),
        ways=3,
        bits=costsim.BitWidths(),
        loss="cross_entropy",
        budget=BudgetRequest(memory_bytes=200_000, macs_share=0.9),
    )
    request = TrainRequest(planned.file, iterations=3, augment=False, learning_rate=0.02)
    run = prepare(request)
    run.train(lambda: False, lambda _run, _loss: None)
    patch = run.finish().patch
    base = load_subject("net.py:make", weights=None, resolution=32, seed=0)
    x = torch.rand(16, 3, 32, 32)
    before = base.predict(x)
    apply_patch(patch, base.tensors)
    after, wanted = base.predict(x), run.subject.predict(x)
    assert (after - before).abs().max() > 1e-2, "something was learnt"
    assert torch.allclose(after, wanted, rtol=1e-4, atol=1e-5)
    assert {change.layer for change in patch.changes} & {"1", "4", "7"}, "biases went to the norms"
    assert all(isinstance(model.get_submodule(n), nn.BatchNorm2d) for n in ("1", "4", "7"))


def test_an_ordinary_network_is_planned_trained_and_patched_on_a_microcontroller(
    model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    """The patch goes on the network that people have, and makes it what was trained."""
    torch.save(model.state_dict(), "base.pt")
    asked = ["--device", "stm32f746", "--model", "net.py:make", "--weights", "base.pt"]
    more = ["--bits", "32", "--ways", "3", "--loss", "cross_entropy", "--memory", "200KiB"]
    assert main(["plan", *asked, *more, "--axis", "output+bias", "--out", "p.json"]) == 0
    assert "3 batch norms folded into the weights before" in capsys.readouterr().err
    assert json.loads(Path("p.json").read_text())["model"]["batch_norm"] == "folded"
    assert main(["train", "p.json", "--iterations", "2", "--no-augment", "--out", "p.st"]) == 0
    assert main(["apply", "p.st", "--model", "net.py:make", "--weights", "base.pt",
                 "--out", "new.st"]) == 0  # fmt: skip
    new, base = load_file("new.st"), model.state_dict()
    assert new.keys() == base.keys()
    changed = {name for name in base if not torch.equal(new[name], base[name])}
    assert changed
    assert changed <= {name for name in base if name.endswith((".weight", ".bias"))}
    x = torch.rand(8, 3, 32, 32)
    trained = copy.deepcopy(model)
    trained.load_state_dict(new)
    assert (trained(x) - model(x)).abs().max() > 1e-3, "something was learnt"
    sparse = costsim.sparsify(model, "p.json")
    assert torch.allclose(sparse.eval()(x), model(x), atol=1e-4)
    assert main(["apply", "p.st", "--model", "net.py:make", "--remove", "--weights", "new.st",
                 "--out", "old.st"]) == 0  # fmt: skip
    assert all(torch.equal(value, base[name]) for name, value in load_file("old.st").items())

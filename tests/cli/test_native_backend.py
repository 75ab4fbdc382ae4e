"""`--backend native` of `costsim train` and `costsim adapt`: the same run, by kernels."""

import json

import pytest
from training import small_plan, write_network

from costsim.cli import main
from costsim.run.native.backend import why_not_native
from costsim.run.native.executor import NativeExecutor
from costsim.solving.planfile import write_plan

pytestmark = pytest.mark.skipif(why_not_native() is not None, reason=f"{why_not_native()}")

ADAPT = [
    "adapt", "--device", "jetson-nano", "--model", "mcunet-5fps", "--resolution", "48",
    "--method", "lastlayer", "--ways", "3", "--shots", "2", "--queries", "3", "--iterations", "3",
]  # fmt: skip
TRAIN = [
    "train", "plan.json", "--ways", "3", "--shots", "4", "--queries", "5",
    "--learning-rate", "0.003", "--iterations", "3",
]  # fmt: skip


@pytest.fixture
def native_steps(monkeypatch, tmp_path):
    """In a folder with a network and a plan; the number of passes that kernels begin."""
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path)
    write_plan(tmp_path / "plan.json", small_plan())
    begun = []
    begin = NativeExecutor.begin

    def counted(self):
        begun.append(1)
        return begin(self)

    monkeypatch.setattr(NativeExecutor, "begin", counted)
    return begun


@pytest.mark.parametrize("arguments", [TRAIN, ADAPT], ids=["train", "adapt"])
def test_losses_are_those_of_torch(arguments, native_steps, capsys):
    losses = []
    for backend in ("torch", "native"):
        assert main([*arguments, "--backend", backend, "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["losses"])
        assert bool(native_steps) == (backend == "native")
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_another_backend_is_refused_with_what_is_allowed(capsys):
    assert main([*ADAPT, "--backend", "tpu"]) == 2
    told = capsys.readouterr().err
    assert "'tpu' is not one of 'torch', 'native'" in told

"""Checkpoints, states and patches on disk: read as they were written, or refused."""

from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from costsim.base.errors import InputError
from costsim.learning.pretraining.state import Progressed, read_state, write_state
from costsim.learning.training import read_checkpoint, write_checkpoint
from costsim.learning.training.checkpoint import RunState

RUN = {"seed": 1}
STATE = RunState(
    iteration=1,
    batch=0,
    losses=(0.5,),
    loss_sum=0.0,
    weights={("output", "conv"): torch.arange(6.0).reshape(2, 3)},
    optimizer={("output", "conv"): torch.ones(1, 2, 3, dtype=torch.bfloat16)},
    means=None,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "checkpoint"
    write_checkpoint(path, STATE, RUN)
    return path


def test_a_checkpoint_is_read_as_it_was_written(written: Path) -> None:
    found = read_checkpoint(written, RUN)
    assert found.losses == STATE.losses
    assert torch.equal(found.weights["output", "conv"], STATE.weights["output", "conv"])
    assert torch.equal(found.optimizer["output", "conv"], STATE.optimizer["output", "conv"])


@settings(max_examples=200)
@given(st.data())
def test_one_changed_bit_is_noticed(written: Path, data: st.DataObject) -> None:
    """The law: refused in one line, or (spaces of the format) what was written after all."""
    content = bytearray(written.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    damaged = written.with_name("damaged")
    damaged.write_bytes(content)
    try:
        found = read_checkpoint(damaged, RUN)
    except InputError:
        return
    assert found.losses == STATE.losses
    for mine, theirs in ((found.weights, STATE.weights), (found.optimizer, STATE.optimizer)):
        assert all(torch.equal(mine[atom], theirs[atom]) for atom in theirs)


def test_exchanged_values_are_noticed(written: Path, tmp_path: Path) -> None:
    tensors = load_file(written)
    with safe_open(written, "pt") as file:
        metadata = file.metadata()
    tensors["weights/output/conv"][0, 0] += 1
    save_file(tensors, tmp_path / "other", metadata)
    with pytest.raises(InputError, match="is damaged: what it holds is not what was written"):
        read_checkpoint(tmp_path / "other", RUN)


def stepped(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    optimizers = {
        "adamw": lambda: torch.optim.AdamW(module.parameters(), 0.01),
        "momentum": lambda: torch.optim.SGD(module.parameters(), 0.01, momentum=0.9),
        "sgd": lambda: torch.optim.SGD(module.parameters(), 0.01),
    }
    optimizer: torch.optim.Optimizer = optimizers[kind]()
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


@pytest.mark.parametrize("kind", ["adamw", "momentum", "sgd"])
def test_a_state_of_pretraining_is_read_with_all_that_the_optimizer_keeps(
    kind: str, tmp_path: Path
) -> None:
    module, optimizer = stepped(kind)
    write_state(tmp_path / "state", module, optimizer, Progressed(1, 0.5, ()), RUN)
    fresh, empty = stepped(kind)
    empty.state.clear()
    assert read_state(tmp_path / "state", fresh, empty, RUN).step == 1
    for (_, mine), (_, theirs) in zip(
        fresh.named_parameters(), module.named_parameters(), strict=True
    ):
        for key, value in optimizer.state[theirs].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(empty.state[mine][key], value)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("all", "the optimizer's state is missing"),
        ("exp_avg_sq", r"tensor 'optimizer/exp_avg_sq/\w+' is missing"),
        ("shape", "optimizer/exp_avg/weight is .*needed"),
        ("type", "optimizer/exp_avg/weight is .*needed"),
        ("step", "optimizer/step/weight is not among 1 steps"),
    ],
)
def test_a_state_without_the_optimizers_is_not_begun_anew(
    lost: str, told: str, tmp_path: Path
) -> None:
    module, optimizer = stepped("adamw")
    kept = optimizer.state[cast("torch.Tensor", module.weight)]
    if lost == "all":
        optimizer.state.clear()
    elif lost == "exp_avg_sq":
        del kept["exp_avg_sq"]
    elif lost == "shape":
        kept["exp_avg"] = kept["exp_avg"][:1]
    elif lost == "type":
        kept["exp_avg"] = kept["exp_avg"].to(torch.int8)
    else:
        kept["step"] = torch.tensor(7.0)
    write_state(tmp_path / "state", module, optimizer, Progressed(1, 0.5, ()), RUN)
    again, empty = stepped("adamw")
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    with pytest.raises(InputError, match=told):
        read_state(tmp_path / "state", again, empty, RUN)
    assert all(torch.equal(before[name], tensor) for name, tensor in again.state_dict().items())

"""Where a run of meta-training stands, in one safetensors file; schema `costsim.pretraining/1`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from costsim.base.errors import InputError
from costsim.learning.pretraining.evaluation import Accuracy
from costsim.learning.training.checkpoint import RunKey, check_same_run
from costsim.learning.training.tensorfile import Header, check_names, read_tensors, write_tensors

SCHEMA = "costsim.pretraining/1"


@dataclass(frozen=True)
class Record:
    """What was measured after `step` steps."""

    step: int
    loss: float
    training_accuracy: float
    accuracies: tuple[Accuracy, ...]


class _Accuracy(Header):
    domain: str
    ways: int
    shots: int
    mean: float
    interval: float | None
    episodes: int


class _Record(Header):
    step: int
    loss: float
    training_accuracy: float
    accuracies: tuple[_Accuracy, ...]


class _Header(Header):
    step: int
    seconds: float
    records: tuple[_Record, ...]
    run: dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Progressed:
    """Where a run stands besides its tensors: `step` steps are done."""

    step: int
    seconds: float
    records: tuple[Record, ...]


def write_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progressed: Progressed,
    run: RunKey,
) -> None:
    """Write the state, whole or not at all."""
    tensors = {f"model/{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {
        f"optimizer/{key}/{name}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    records = tuple(
        _Record(
            step=record.step,
            loss=record.loss,
            training_accuracy=record.training_accuracy,
            accuracies=tuple(
                _Accuracy(
                    domain=one.domain,
                    ways=one.ways,
                    shots=one.shots,
                    mean=one.mean,
                    interval=one.interval,
                    episodes=one.episodes,
                )
                for one in record.accuracies
            ),
        )
        for record in progressed.records
    )
    header = _Header(
        step=progressed.step, seconds=progressed.seconds, records=records, run=dict(run)
    )
    write_tensors(path, tensors, SCHEMA, header)


def read_state(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: RunKey,
) -> Progressed:
    """Put `module` and `optimizer` where the run stood; of another run raises `InputError`.

    The number of steps and how often something is measured may differ: the schedule then goes on
    as if it had been so from the start.
    """
    header, tensors = read_tensors(path, SCHEMA, _Header)
    check_same_run(path, header.run, {key: run[key] for key in run if key != "steps"})
    model = {
        name.removeprefix("model/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("model/")
    }
    wanted = module.state_dict()
    check_names(path, model, wanted)
    for name, tensor in wanted.items():
        if model[name].shape != tensor.shape:
            raise InputError(
                f"{path}: {name} is {tuple(model[name].shape)}; {tuple(tensor.shape)} is needed"
            )
    module.load_state_dict(model)
    for name, parameter in module.named_parameters():
        state: dict[str, Any] = {}
        for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
            tensor_name = f"optimizer/{key}/{name}"
            if tensor_name in tensors:
                tensor = tensors[tensor_name]
                state[key] = tensor if key == "step" else tensor.to(parameter)
        if state:
            optimizer.state[parameter] = state
    records = tuple(
        Record(
            record.step,
            record.loss,
            record.training_accuracy,
            tuple(Accuracy(**one.model_dump()) for one in record.accuracies),
        )
        for record in header.records
    )
    return Progressed(header.step, header.seconds, records)

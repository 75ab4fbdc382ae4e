"""Where a run of meta-training stands, in one safetensors file; schema `costsim.pretraining/1`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

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
    step: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
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


def _states(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    step: int,
) -> dict[nn.Parameter, dict[str, Any]]:
    """What the optimizer keeps of each parameter that had a gradient: all of it, or nothing.

    What is not there would begin anew without a word.
    """
    kept = _kept_by(optimizer)
    named = dict(module.named_parameters())
    given = {name: t for name, t in tensors.items() if not name.startswith("model/")}
    trained = {name for name in named if any(f"optimizer/{key}/{name}" in given for key in kept)}
    check_names(path, given, {f"optimizer/{key}/{name}": None for name in trained for key in kept})
    if step and kept and not trained:
        raise InputError(f"{path}: the optimizer's state is missing")
    found: dict[nn.Parameter, dict[str, Any]] = {}
    for name, parameter in named.items():
        for key in kept if name in trained else ():
            tensor = given[f"optimizer/{key}/{name}"]
            if key != "step":
                _check_like(path, f"optimizer/{key}/{name}", tensor, parameter)
                tensor = tensor.to(parameter)
            elif tensor.numel() != 1 or not 0 <= float(tensor) <= step:
                raise InputError(f"{path}: optimizer/step/{name} is not among {step} steps")
            found.setdefault(parameter, {})[key] = tensor
    return found


def _kept_by(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """What an optimizer keeps of a parameter, by torch's names."""
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()
    return ("step", "exp_avg", "exp_avg_sq")


def _check_like(path: Path, name: str, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise InputError(
            f"{path}: {name} is {tuple(found.shape)}, {found.dtype}; "
            f"{tuple(wanted.shape)}, {wanted.dtype} is needed"
        )


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
    check_same_run(path, header.run, run, free={"steps"})
    model = {
        name.removeprefix("model/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("model/")
    }
    wanted = module.state_dict()
    check_names(path, model, wanted)
    for name, tensor in wanted.items():
        _check_like(path, name, model[name], tensor)
    states = _states(path, module, optimizer, tensors, header.step)
    module.load_state_dict(model)
    for parameter, state in states.items():
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

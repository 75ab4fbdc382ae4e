"""A training run under way, in one safetensors file; schema `costsim.checkpoint/1`.

It holds the selected channels as they are now, the optimizer state, the class means of the
iteration under way, and where the run stands. Random numbers need no state of their own: those
of an iteration follow from the run's seed and the iteration's number.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field
from torch import Tensor

from costsim.base.errors import InputError
from costsim.ir.program import AXES, Atom
from costsim.learning.training.tensorfile import Header, read_tensors, write_tensors

SCHEMA = "costsim.checkpoint/1"

_MEANS = "class_means"
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, eq=False)
class RunState:
    """Where a run stands: before batch `batch` of iteration `iteration`, both from 0.

    `losses` are the mean losses of whole iterations, `loss_sum` the sum so far in this one;
    `weights` compact `[selected]`, `optimizer` `[states, *selected]`, `means` `[classes, D]`,
    `accuracies` those measured on the way, by iterations done.
    """

    iteration: int
    batch: int
    losses: tuple[float, ...]
    loss_sum: float
    weights: Mapping[Atom, Tensor]
    optimizer: Mapping[Atom, Tensor]
    means: Tensor | None
    accuracies: Mapping[int, float] = field(default_factory=dict)


class _Header(Header):
    iteration: _Count
    batch: _Count
    losses: tuple[float, ...]
    loss_sum: float
    run: dict[str, str | int | float | bool]
    accuracies: tuple[tuple[_Count, float], ...] = ()


RunKey: TypeAlias = Mapping[str, str | int | float | bool]
"""What a run depends on: two runs with equal keys do the same."""


def check_same_run(
    path: Path, there: RunKey, here: RunKey, free: Collection[str] = frozenset()
) -> None:
    """Raise `InputError`, naming what differs, unless a file is of the run that `here` tells.

    The keys in `free` may differ.
    """
    for key in {**here, **there}:
        if key not in free and there.get(key) != here.get(key):
            raise InputError(
                f"{path}: belongs to another run: {key} is {there.get(key)!r} there and "
                f"{here.get(key)!r} here"
            )


def write_checkpoint(path: Path, state: RunState, run: RunKey) -> None:
    """Write a checkpoint of the run that `run` describes, whole or not at all."""
    tensors = {_name("weights", atom): tensor for atom, tensor in state.weights.items()}
    tensors |= {_name("optimizer", atom): tensor for atom, tensor in state.optimizer.items()}
    if state.means is not None:
        tensors[_MEANS] = state.means
    header = _Header(
        iteration=state.iteration,
        batch=state.batch,
        losses=state.losses,
        loss_sum=state.loss_sum,
        run=dict(run),
        accuracies=tuple(state.accuracies.items()),
    )
    write_tensors(path, tensors, SCHEMA, header)


def read_checkpoint(path: Path, run: RunKey) -> RunState:
    """The checkpoint at `path`, which must be of the run that `run` describes.

    Raises `InputError` for a file that is missing, cut short, foreign or of another run, naming
    what differs.
    """
    header, tensors = read_tensors(path, SCHEMA, _Header)
    check_same_run(path, header.run, run)
    weights: dict[Atom, Tensor] = {}
    optimizer: dict[Atom, Tensor] = {}
    means = tensors.pop(_MEANS, None)
    for name, tensor in tensors.items():
        what, _, rest = name.partition("/")
        kind, _, layer = rest.partition("/")
        if what not in ("weights", "optimizer") or kind not in (*AXES, "bias"):
            raise InputError(f"{path}: tensor {name!r} does not belong there")
        (weights if what == "weights" else optimizer)[kind, layer] = tensor  # type: ignore[index]
    return RunState(
        header.iteration,
        header.batch,
        header.losses,
        header.loss_sum,
        weights,
        optimizer,
        means,
        dict(header.accuracies),
    )


def _name(what: str, atom: Atom) -> str:
    return f"{what}/{atom[0]}/{atom[1]}"

"""Several processes as one: what torch's own launcher started, or this process alone."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from costsim.base.errors import InputError, shown
from costsim.base.units import parse_count


@dataclass(frozen=True)
class Group:
    """This process's `rank` among `size`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    @torch.no_grad()
    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        found = torch.tensor([float(flag)], device=device)
        dist.all_reduce(found)
        return bool(found.item() > 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def processes() -> int:
    """How many `torchrun` started; 1 without it. Raises `InputError` for what it never sets."""
    return _counted("WORLD_SIZE", 1, least=1)


def leads() -> bool:
    """Whether this process is the one that writes; a `RANK` of other programs means nothing."""
    return processes() == 1 or _counted("RANK", 0) == 0


def _counted(name: str, otherwise: int, least: int = 0) -> int:
    text = os.environ.get(name, str(otherwise))
    number = parse_count(text, least)
    if number is None:
        raise InputError(f"{name} is {shown(text)} in the environment; torchrun sets a number")
    return number


@contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """The group that `torchrun` started this process in; alone without it."""
    if processes() == 1:
        yield Group()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def choose_device(name: str | None = None) -> torch.device:
    """`name`, or a GPU of this process if there is one, else the CPU.

    Raises `InputError` for one that is not there.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        name = f"cuda:{_counted('LOCAL_RANK', 0) if processes() > 1 else 0}"
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"torch device {name!r} cannot be used: {reason}") from error
    return device

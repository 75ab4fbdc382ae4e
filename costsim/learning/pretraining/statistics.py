"""Running statistics of batch norm as one update a step, however the step is divided.

An episode is normalised by its own statistics; the running ones move once a step towards the mean
over all its episodes, so that they do not depend on how many processes share them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RunningStatistics:
    """Collects what the batch norms of `module` see in training mode."""

    def __init__(self, module: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        self.norms = [
            norm
            for norm in module.modules()
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None
        ]
        self.sums: list[Tensor] = []

    def tensors(self) -> list[Tensor]:
        """Running means and variances, in a fixed order."""
        found: list[Tensor] = []
        for norm in self.norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            found += [norm.running_mean, norm.running_var]
        return found

    def counts(self) -> list[Tensor]:
        """How many updates each norm has had."""
        return [n.num_batches_tracked for n in self.norms if n.num_batches_tracked is not None]

    @contextmanager
    def step(self) -> Iterator[None]:
        """Open around a step; call `collect` after each forward pass and `update` at its end."""
        before = [tensor.clone() for tensor in self.tensors()]
        self.sums = [torch.zeros_like(tensor) for tensor in before]
        kept = [norm.momentum for norm in self.norms]
        counts = [count.clone() for count in self.counts()]
        for norm in self.norms:
            norm.momentum = 1.0  # the running statistics become those of the batch
        try:
            yield
        finally:
            for norm, momentum in zip(self.norms, kept, strict=True):
                norm.momentum = momentum
            with torch.no_grad():
                for tensor, old in zip(self.tensors(), before, strict=True):
                    tensor.copy_(old)
                for count, number in zip(self.counts(), counts, strict=True):
                    count.copy_(number)

    @torch.no_grad()
    def collect(self) -> None:
        """Add the statistics of the forward pass that has just been."""
        if self.sums:
            torch._foreach_add_(self.sums, self.tensors())

    @torch.no_grad()
    def update(self, episodes: int) -> None:
        """Move towards the mean of `episodes` sums; call after `step` is closed."""
        for tensor, total in zip(self.tensors(), self.sums, strict=True):
            tensor.lerp_(total / episodes, self.momentum)
        for count in self.counts():
            count.add_(1)

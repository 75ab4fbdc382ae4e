"""One training step with nothing held that the program does not hold."""

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from costsim.execution.executor import Executor

Feed: TypeAlias = Callable[[int], tuple[Tensor, Any]]
"""Number of a pass to new images `[samples of a pass, ...]` and what its loss compares with."""


def one_step(executor: Executor, feed: Feed) -> Tensor:
    """One step of `executor`; the loss of its last pass.

    Unlike in a loop that holds its batch, an image lives only as long as the program needs it:
    nobody else refers to what `feed` returns.
    """
    state = executor.begin()
    loss = Tensor()
    for number in range(executor.program.step.passes):
        images, labels = feed(number)
        executor._load(state, images)
        del images
        executor._run(state, executor.program.loss_position)
        loss = executor._begin_backward(state, labels)
        executor._run(state, executor._first_late_update)
    executor.update(state)
    return loss

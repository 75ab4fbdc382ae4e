"""One training step with nothing held that the program does not hold."""

from torch import Tensor

from costsim.run.execution.executor import Executor, Feed

__all__ = ["Feed", "one_step"]


def one_step(executor: Executor, feed: Feed) -> Tensor:
    """One step of `executor`; the loss of its last pass."""
    return executor.step_from(feed)

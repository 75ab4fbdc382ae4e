"""Calling operators past autograd, which has no part in running a training program."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import Variable


@contextmanager
def past_autograd() -> Iterator[None]:
    """Within, operators are not recorded, and their calls skip what would see to that.

    As `torch.no_grad`, and beyond it: views are not tracked and writing to a tensor does not count
    its version up. Whoever writes to tensors of others must count (`increment_version`). It takes
    five in a hundred off a step on single small images.
    """
    tracking = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
    with (
        torch.no_grad(),
        torch._C._AutoDispatchBelowAutograd(),
        torch._C._ExcludeDispatchKeyGuard(tracking),
    ):
        yield


def gradient_of(loss: Tensor, output: Tensor) -> Tensor:
    """The gradient of a scalar with respect to `output`, from the engine itself.

    `torch.autograd.grad` comes to the same call; what it checks before takes as long.
    """
    engine = Variable._execution_engine
    found: tuple[Tensor, ...] = engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (output,), False, accumulate_grad=False
    )
    return found[0]

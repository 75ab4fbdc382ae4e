"""Calling operators past autograd, which has no part in running a training program."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable


class past_autograd:  # noqa: N801
    """Within, operators are not recorded, and their calls skip what would see to that.

    As `torch.no_grad`, and beyond it: views are not tracked and writing to a tensor does not count
    its version up. Whoever writes to tensors of others must count (`increment_version`). It takes
    five in a hundred off a step on single small images.
    """

    def __enter__(self) -> None:
        tracking = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
        self._enabled = torch.is_grad_enabled()
        self._guards: list[Any] = [
            torch._C._AutoDispatchBelowAutograd(),
            torch._C._ExcludeDispatchKeyGuard(tracking),
        ]
        for guard in self._guards:
            guard.__enter__()
        torch._C._set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_grad_enabled(self._enabled)
        for guard in reversed(self._guards):
            guard.__exit__(None, None, None)


def gradient_of(loss: Tensor, output: Tensor) -> Tensor:
    """The gradient of a scalar with respect to `output`, from the engine itself.

    `torch.autograd.grad` comes to the same call; what it checks before takes as long.
    """
    engine = Variable._execution_engine
    found: tuple[Tensor, ...] = engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (output,), False, accumulate_grad=False
    )
    return found[0]

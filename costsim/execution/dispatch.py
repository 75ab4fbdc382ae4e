"""Calling operators past autograd, which has no part in running a training program."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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

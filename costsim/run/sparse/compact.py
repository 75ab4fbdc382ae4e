"""The selected part of a dense weight as a parameter of its own, and the two kept in step.

A dense parameter whose gradient is zero outside the selection would not do: AdamW decays it all
the same, and optimizer state would be dense.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from costsim.base.errors import InputError
from costsim.run.execution.selection import Selection


class CompactParameter:
    """One parameter of a sparse module, and the dense tensor of the model it is a part of.

    `parameter` has the compact form of `selection`; what it holds is written to `dense`. Both may
    change between two forwards: the one by an optimizer, the other by someone who loads weights.
    """

    def __init__(self, parameter: nn.Parameter, dense: Tensor, selection: Selection) -> None:
        if (parameter.dtype, parameter.device) != (dense.dtype, dense.device):
            raise InputError(
                f"the model is {dense.dtype} on {dense.device}, its selected parameters "
                f"{parameter.dtype} on {parameter.device}; move both through the sparse module"
            )
        self.parameter, self.selection = parameter, selection
        # Not the model's parameter itself: autograd has no part in writing to it.
        self._dense = dense.detach()
        if not self._agree():
            self.push()
        self.note()

    @property
    def is_ahead(self) -> bool:
        """Whether the compact side changed since `note`."""
        # What is written through `.data` leaves the version as it is.
        return self.parameter._version != self._compact_seen or not self._agree()

    @property
    def is_behind(self) -> bool:
        """Whether the dense side changed since `note`."""
        return self._dense._version != self._dense_seen

    def push(self) -> None:
        """Write the dense side."""
        self.selection.write(self._dense, self.parameter.detach())

    def pull(self) -> None:
        """Read the dense side."""
        self.parameter.detach().copy_(self.selection.read(self._dense))

    def note(self) -> None:
        """Take the two sides for equal as they are."""
        self._compact_seen, self._dense_seen = self.parameter._version, self._dense._version

    def _agree(self) -> bool:
        return torch.equal(self.selection.read(self._dense), self.parameter.detach())


def synchronise(parts: Sequence[CompactParameter]) -> None:
    """Bring the side of each that did not change to the one that did.

    Raises `RuntimeError`, before anything is changed, if both sides of one did.
    """
    behind = [part for part in parts if part.is_behind]
    if any(part.parameter._version != part._compact_seen for part in behind):
        raise RuntimeError(
            "the model's weights and the sparse module's parameters were both changed since the "
            "last forward pass; load weights through the sparse module"
        )
    ahead = [part for part in parts if not part.is_behind and part.is_ahead]
    for part in behind:
        part.pull()
    for part in ahead:
        part.push()
    if behind or ahead:  # parts of one tensor count their versions together
        for part in parts:
            part.note()


class Branch(nn.Module):
    """A name in the path of a compact parameter. What it holds is saved with the dense model."""

    def add(self, path: str, parameter: nn.Parameter) -> None:
        """Register `parameter` under a dotted path, as the dense model has it."""
        first, _, rest = path.partition(".")
        if not rest:
            self.register_parameter(first, parameter)
            return
        if first not in self._modules:
            self.add_module(first, Branch())
        inner = self._modules[first]
        assert isinstance(inner, Branch)
        inner.add(rest, parameter)

    def _save_to_state_dict(self, *arguments: object) -> None:
        """Nothing: the dense model has it."""

    def _load_from_state_dict(self, *arguments: object) -> None:
        """Nothing: it is read from the dense model."""


def path_of(tensor: str) -> str:
    """The name of a tensor of a layer graph as a module path: the transpose `a.w.T` is `a.w_T`."""
    return re.sub(r"\.T(?=\[|$)", "_T", tensor)

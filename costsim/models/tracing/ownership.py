"""Which layer the parameters of a call belong to, and that each belongs to one only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from costsim.base.errors import InputError
from costsim.models.tracing.names import owner_of


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """A trainable parameter, where a call reads it: as its weight, bias or value, of a layer."""

    parameter: str
    role: str
    layer: str


class Owners:
    """Names of layers: what owns the parameter, or where two would be alike its own name."""

    def __init__(self) -> None:
        self._parameters: dict[str, str] = {}

    def name(self, parameter: str, suffix: str) -> str:
        """The layer of the calls whose weight (else bias) is `parameter`."""
        name = owner_of(parameter, suffix)
        return name if self._parameters.setdefault(name, parameter) == parameter else parameter


def check_uses(uses: Iterable[Use], tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` for memory that two layers read, or one in two ways.

    The gradient of each would be a part of the true one: only the calls of one layer are summed.
    """
    spans = []
    for use in sorted(set(uses)):
        tensor = tensors[use.parameter]
        start = tensor.data_ptr()
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        if start and tensor.numel():
            spans.append((start, start + (reach + 1) * tensor.element_size(), use))
    for (_, end, first), (start, _, second) in pairwise(sorted(spans)):
        if start < end:
            raise InputError(
                f"layers {first.layer!r} and {second.layer!r} read one parameter "
                f"({first.role} {first.parameter!r}, {second.role} {second.parameter!r}), and "
                "gradients are summed within one layer only: give one a copy of its own"
            )

"""Images of another size or made of windows: torch's own kernels for each way of doing it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from costsim.ir.operators import Shape
from costsim.ir.operators.sampling import Fold, Resize, Unfold

aten: Any = torch.ops.aten

_LINEAR = {1: "upsample_linear1d", 2: "upsample_bilinear2d", 3: "upsample_trilinear3d"}


def _name(o: Resize) -> str:
    rank = len(o.size)
    if o.mode == "linear":
        return _LINEAR[rank]
    if o.mode == "cubic":
        return "upsample_bicubic2d"
    exact = "_upsample_nearest_exact" if o.mode == "nearest-exact" else "upsample_nearest"
    return f"{exact}{rank}d"


def _told(o: Resize) -> list[Any]:
    """Whether corners are aligned, where a mode has that, and the scales that were asked for."""
    corners = [o.align_corners] if o.mode in ("linear", "cubic") else []
    return [*corners, *(o.scales or (None,) * len(o.size))]


def resized(o: Resize, x: Tensor) -> Tensor:
    """`x` of the size of `o`."""
    result: Tensor = getattr(aten, _name(o))(x, list(o.size), *_told(o))
    return result


def gradient_of_resized(o: Resize, dy: Tensor, shape: Shape) -> Tensor:
    """The gradient of images of `shape`, of that of what they were resized to."""
    backward = getattr(aten, f"{_name(o)}_backward")
    result: Tensor = backward(dy, list(o.size), list(shape), *_told(o))
    return result


def folded(o: Fold | Unfold, columns: Tensor, size: Shape) -> Tensor:
    """Columns added up to images of `size`, in memory of that size: torch's own is that of both."""
    image = F.fold(columns, size, o.kernel, o.dilation, o.padding, o.stride)
    return image.clone()

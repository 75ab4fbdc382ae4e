"""One arena of a program, and its buffers as tensors."""

import torch
from torch import Tensor

from costsim.ir.operators import Shape, elements
from costsim.run.execution.layout import memory_format

ALIGNMENT_BYTES = 64
SLACK_BYTES = 256
"""Beyond the last buffer: a vector may be read that begins inside of it."""


class ArenaViews:
    """Memory for `size_bytes` of buffers at their offsets; what is in it is not set."""

    def __init__(self, size_bytes: int) -> None:
        block = torch.empty(size_bytes + ALIGNMENT_BYTES + SLACK_BYTES, dtype=torch.uint8)
        start = -block.data_ptr() % ALIGNMENT_BYTES
        self._bytes = block[start:]
        self.address = self._bytes.data_ptr()
        self._views: dict[tuple[int, Shape, torch.dtype, bool], Tensor] = {}

    def view(
        self, offset_bytes: int, shape: Shape, dtype: torch.dtype, *, channels_last: bool
    ) -> Tensor:
        """The buffer at an offset as a tensor of this shape, images with `channels_last` or not."""
        key = offset_bytes, shape, dtype, channels_last
        if key not in self._views:
            size = elements(shape) * dtype.itemsize
            flat = self._bytes[offset_bytes : offset_bytes + size].view(dtype)
            form = memory_format(shape, channels_last)
            like = torch.empty(shape, dtype=dtype, device="meta", memory_format=form)
            self._views[key] = flat.as_strided(shape, like.stride())
        return self._views[key]

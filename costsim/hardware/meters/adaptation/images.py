"""The images of a plan's task, as a device keeps them: eight bits an element."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.data import digits, open_source, sample_task
from costsim.hardware.meters.plan_validation import ValidationRequest
from costsim.learning.training.base_model import Subject
from costsim.learning.training.fine_tuning import found_again

_HALF = 127.5
"""Of the levels 0 to 255, which images in [-1, 1] stand for."""


@dataclass(frozen=True, eq=False)
class TaskImages:
    """Support images: `levels` `[N, C, H, W]` (uint8) and `labels` `[N]`, 0, 1, ..."""

    levels: Tensor
    labels: Tensor

    def of(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """The images at `places` `[k]` as the network takes them, in [-1, 1]."""
        return (self.levels[places].float() / _HALF - 1).to(dtype)


def task_images(
    request: ValidationRequest, subject: Subject, progress: Progress | None
) -> tuple[TaskImages, list[str]]:
    """The images that the plan was made for, or as many of `request.data`, which is then noted.

    Raises `InputError` where the plan's are no longer there, and for others that are not as many.
    """
    planned, data, split = request.plan.task, request.data, request.split
    if data is None and planned.data is not None:
        data = found_again(Path(planned.data), request.source)
        split = planned.split if split is None else split
    channels, height, width = subject.input_shape
    task = sample_task(
        digits() if data is None else open_source(data, split, progress),
        ways=planned.ways,
        shots=planned.shots,
        seed=planned.seed,
        resolution=(height, width),
        channels=channels,
        progress=progress,
    )
    if len(task.labels) != planned.samples:
        raise InputError(
            f"{request.source}: task.samples is {planned.samples}, but {task.description} has "
            f"{counted(len(task.labels), 'image')}"
        )
    notes = []
    if task.digest != planned.images_sha256:
        if request.data is None:
            raise InputError(
                f"{request.source}: was made for {planned.source}, and its images are not those "
                f"that {task.description} has now: say with which to run it (--data)"
            )
        notes.append(
            f"the images are those of {task.description}, not the plan's (costs are alike)"
        )
    levels = np.rint((task.images.astype(np.float64) + 1) * _HALF).astype(np.uint8)
    return TaskImages(torch.from_numpy(levels), torch.from_numpy(task.labels.copy())), notes

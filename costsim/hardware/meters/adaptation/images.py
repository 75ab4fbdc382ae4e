"""The images of a plan's task, as a device keeps them: eight bits an element."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.hardware.meters.plan_validation import ValidationRequest
from costsim.learning.training.base_model import Subject
from costsim.learning.training.planned_task import draw_planned_task
from costsim.learning.training.train_request import TrainRequest

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
    planned = request.plan.task
    asked = TrainRequest(request.plan, request.source, queries=0)
    if request.data is not None:
        asked = replace(
            asked,
            data=request.data,
            split=request.split,
            ways=planned.ways,
            shots=planned.shots,
        )
    task = draw_planned_task(asked, subject, progress)
    if len(task.labels) != planned.samples:
        raise InputError(
            f"{request.source}: task.samples is {planned.samples}, but {task.description} has "
            f"{counted(len(task.labels), 'image')}"
        )
    notes = []
    if task.digest != planned.images_sha256:
        notes.append(
            f"the images are those of {task.description}, not the plan's (costs are alike)"
        )
    levels = np.rint((task.images.astype(np.float64) + 1) * _HALF).astype(np.uint8)
    return TaskImages(torch.from_numpy(levels), torch.from_numpy(task.labels.copy())), notes

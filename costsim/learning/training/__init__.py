"""Fine-tuning what a plan chose, and writing the outcome as a patch on the base model."""

from costsim.learning.training.base_model import Subject, load_planned, load_subject
from costsim.learning.training.checkpoint import RunState, read_checkpoint, write_checkpoint
from costsim.learning.training.fine_tuning import Run, Trained, TrainRequest, prepare
from costsim.learning.training.patch import (
    Change,
    Origin,
    Patch,
    apply_patch,
    make_patch,
    plan_digest,
    read_patch,
    remove_patch,
    write_patch,
)
from costsim.learning.training.trainer import Diverged, Support, Trainer

__all__ = [
    "Change",
    "Diverged",
    "Origin",
    "Patch",
    "Run",
    "RunState",
    "Subject",
    "Support",
    "TrainRequest",
    "Trained",
    "Trainer",
    "apply_patch",
    "load_planned",
    "load_subject",
    "make_patch",
    "plan_digest",
    "prepare",
    "read_checkpoint",
    "read_patch",
    "remove_patch",
    "write_checkpoint",
    "write_patch",
]

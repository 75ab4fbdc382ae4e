"""Everything `costsim pretrain` does between its options and its output."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costsim.base.errors import InputError
from costsim.base.progress import Progress
from costsim.base.units import counted
from costsim.data import ImageSource, digits, open_source
from costsim.learning.pretraining.backbone import feature_count, inference_tensors, load_backbone
from costsim.learning.pretraining.parallel import choose_device, process_group
from costsim.learning.pretraining.pool import load_pool
from costsim.learning.pretraining.run import Pretraining, StepResult
from costsim.learning.pretraining.settings import PretrainSettings
from costsim.learning.pretraining.state import Record
from costsim.learning.training.tensorfile import write_tensors
from costsim.models.inputs import DEFAULT_RESOLUTION
from costsim.models.networks import NETWORKS

TRANSFER_IMAGES = 40
"""Images a class that a transfer source is measured on."""


@dataclass(frozen=True)
class PretrainRequest:
    """What to train, on what, and how."""

    model: str
    weights: Path | None
    data: Sequence[str]
    transfer: Sequence[str]
    settings: PretrainSettings
    compute: str | None = None
    checkpoint: Path | None = None
    resume: bool = False
    log: Path | None = None


class PretrainRun:
    """A run that is ready to train."""

    def __init__(self, request: PretrainRequest, training: Pretraining, start: str) -> None:
        self.request, self.training, self.start = request, training, start
        self.notes: list[str] = []
        self.key = {
            **request.settings.key(),
            "model": request.model,
            "start": start,
            "data": ", ".join(domain.name for domain in training.pool.training),
            "images": len(training.pool.pixels),
        }
        self.writer: Any = None

    def save(self) -> None:
        """Write the checkpoint."""
        if self.request.checkpoint is not None:
            self.training.write(self.request.checkpoint, self.key)

    def write(self, out: Path, *, half: bool) -> None:
        """Write the weights for inference."""
        write_tensors(out, inference_tensors(self.training.backbone, half=half))

    def log_step(self, result: StepResult) -> None:
        """One step for TensorBoard."""
        if self.writer is not None:
            self.writer.add_scalar("training/loss", result.loss, result.step)
            self.writer.add_scalar("training/accuracy", result.accuracy, result.step)
            self.writer.add_scalar("training/learning_rate", result.learning_rate, result.step)
            self.writer.add_scalar("training/resolution", result.resolution, result.step)

    def log_record(self, record: Record) -> None:
        """One measurement for TensorBoard."""
        if self.writer is not None:
            for one in record.accuracies:
                self.writer.add_scalar(f"accuracy/{one.domain}", one.mean, record.step)

    def outcome(self, out: Path) -> dict[str, Any]:
        """What was done, for `--json`."""
        settings, training = self.request.settings, self.training
        last = training.records[-1].accuracies if training.records else ()
        return {
            "schema": "costsim.pretrained/1",
            "model": self.request.model,
            "start": self.start,
            "data": [domain.name for domain in training.pool.training],
            "steps": training.steps_done,
            "seconds": training.seconds,
            "settings": settings.key(),
            "accuracies": [
                {
                    "domain": one.domain,
                    "ways": one.ways,
                    "shots": one.shots,
                    "mean": one.mean,
                    "interval": one.interval,
                    "episodes": one.episodes,
                }
                for one in last
            ],
            "out": str(out),
            "out_bytes": out.stat().st_size,
        }


@contextmanager
def opened(request: PretrainRequest, progress: Progress | None) -> Iterator[PretrainRun]:
    """A run, started or gone on with; closes logs and leaves the process group at the end."""
    settings = request.settings
    device = choose_device(request.compute)
    writer = None if request.log is None else _writer(request.log)
    with process_group(device) as group:
        largest = max(stage.resolution for stage in settings.stages)
        sources = [_source(path, progress) for path in request.data]
        stored = largest
        pool = load_pool(sources, stored, settings.held_out, progress)
        transfer = [
            load_pool([_source(path, progress)], stored, 0.0, progress, limit=TRANSFER_IMAGES)
            for path in request.transfer
        ]
        side = NETWORKS[request.model].resolution if request.model in NETWORKS else None
        backbone, start = load_backbone(
            request.model,
            weights=request.weights,
            seed=settings.seed,
            resolution=side or DEFAULT_RESOLUTION,
        )
        features = feature_count(backbone, largest)
        training = Pretraining(backbone, features, pool, settings, device, group, transfer)
        run = PretrainRun(request, training, start)
        run.writer = writer if group.leads else None
        if request.resume:
            if request.checkpoint is not None and request.checkpoint.exists():
                training.restore(request.checkpoint, run.key)
                run.notes.append(f"going on after {counted(training.steps_done, 'step')}")
            else:
                run.notes.append(f"{request.checkpoint} is not there yet: starting anew")
        try:
            yield run
        finally:
            if writer is not None:
                writer.close()


def _source(path: str, progress: Progress | None) -> ImageSource:
    return digits() if path == "digits" else open_source(path, progress=progress)


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError('--log needs TensorBoard: pip install "costsim[tensorboard]"') from error
    return SummaryWriter(str(folder))

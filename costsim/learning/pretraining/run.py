"""The run itself: episodes, steps, measurements, checkpoints."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from costsim.base.errors import CostsimError, InputError
from costsim.learning.pretraining.augment import PRESETS, augment
from costsim.learning.pretraining.episodes import check_domains, draw_episode, generator
from costsim.learning.pretraining.evaluation import Accuracy, evaluate
from costsim.learning.pretraining.objective import Learner, episode_loss
from costsim.learning.pretraining.parallel import Group
from costsim.learning.pretraining.pool import Domain, Pool
from costsim.learning.pretraining.settings import PretrainSettings
from costsim.learning.pretraining.state import Progressed, Record, read_state, write_state
from costsim.learning.pretraining.statistics import RunningStatistics
from costsim.learning.training.checkpoint import RunKey


class Diverged(CostsimError):
    """The loss is no longer a finite number; says at which step."""


@dataclass(frozen=True)
class StepResult:
    """Of one step, over all its episodes and processes."""

    step: int
    loss: float
    accuracy: float
    images: int
    resolution: int
    learning_rate: float


class Pretraining:
    """Meta-trains `backbone` on `pool`; one `step()` at a time.

    What a step draws follows from the seed and its number alone, so that a checkpoint, which holds
    parameters, running statistics and the optimizer's state, goes on bit for bit. With several
    processes each takes its share of a step's episodes; gradients and statistics are summed.

    `transfer` are pools of other images to measure on, `{name: (pixels, classes)}`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        pool: Pool,
        settings: PretrainSettings,
        device: torch.device,
        group: Group | None = None,
        transfer: Sequence[Pool] = (),
    ) -> None:
        self.group = group or Group()
        if settings.episodes % self.group.size:
            raise InputError(
                f"{settings.episodes} episodes a step cannot be shared by {self.group.size} "
                "processes; give a multiple"
            )
        check_domains(pool.training, settings)
        self.settings, self.pool, self.device, self.transfer = settings, pool, device, transfer
        self.how = PRESETS[settings.augmentation]
        classes = sum(len(domain.members) for domain in pool.training) * self.how.symmetries
        self.learner = Learner(
            backbone,
            features,
            classes if settings.auxiliary else 0,
            settings.temperature,
            settings.seed,
        )
        self.learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learner.train()
        self.statistics = RunningStatistics(backbone, settings.norm_momentum)
        self.optimizer = _optimizer(self.learner, settings)
        self.steps_done, self.seconds = 0, 0.0
        self.records: list[Record] = []
        self._pixels: dict[tuple[int, int], Tensor] = {}
        self._recent: list[StepResult] = []
        precision = settings.precision
        if precision == "auto":
            precision = "bfloat16" if device.type == "cuda" else "float32"
        self.autocast = precision == "bfloat16"

    @property
    def backbone(self) -> nn.Module:
        """What is trained, as it stands."""
        return self.learner.backbone

    def pixels(self, side: int, which: int = -1) -> Tensor:
        """The pool (or transfer pool `which`) at `side`, kept for the current resolution."""
        if (which, side) not in self._pixels:
            for old in [key for key in self._pixels if key[0] == which]:
                del self._pixels[old]
            pool = self.pool if which < 0 else self.transfer[which]
            self._pixels[which, side] = pool.at(side).to(self.device)
        return self._pixels[which, side]

    def step(self) -> StepResult:
        """One step. Raises `Diverged` before anything is updated."""
        started = time.perf_counter()
        settings, number = self.settings, self.steps_done
        side, rate = settings.resolution_at(number), settings.learning_rate_at(number)
        totals = torch.zeros(4, device=self.device)
        mine = range(self.group.rank, settings.episodes, self.group.size)
        self.optimizer.zero_grad(set_to_none=False)
        with self.statistics.step():
            for index in mine:
                totals += self._episode(number, index, side)
                self.statistics.collect()
        gradients = [p.grad for p in self.learner.parameters() if p.grad is not None]
        self.group.sum([*gradients, *self.statistics.sums, totals])
        loss, right, queries, images = totals.tolist()
        if not torch.isfinite(totals[0]):
            raise Diverged(f"the loss is not finite in step {number + 1}")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.statistics.update(settings.episodes)
        self.steps_done += 1
        self.seconds += time.perf_counter() - started
        result = StepResult(number + 1, loss, right / queries, int(images), side, rate)
        self._recent.append(result)
        return result

    def _episode(self, number: int, index: int, side: int) -> Tensor:
        """Gradients of one episode added up; `[loss, right, queries, images]`."""
        settings = self.settings
        rng = generator(settings, number, index)
        episode = draw_episode(rng, self.pool.training, settings, self.how.symmetries)
        pixels = self.pixels(side)[torch.from_numpy(episode.rows).to(self.device)]
        images = augment(pixels, episode.symmetries, self.how, rng)
        images = images.contiguous(memory_format=torch.channels_last)
        labels, classes, is_query = (
            torch.from_numpy(array).to(self.device)
            for array in (episode.labels, episode.classes, episode.is_query)
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            features = self.learner(images)
        loss, right = episode_loss(
            self.learner,
            features.float(),
            labels,
            classes,
            is_query,
            episode.ways,
            settings.auxiliary,
        )
        loss = loss / settings.episodes
        loss.backward()
        queries = is_query.sum()
        return torch.stack(
            [loss.detach(), right.float(), queries.float(), queries * 0.0 + len(images)]
        )

    def measure(self, *, final: bool = False, episodes: int = 600) -> Record:
        """Accuracy on the held-out classes and the transfer pools, kept among `records`.

        Images are as large as in the current stage; with `final` as in the last one.
        """
        step = max(0, self.steps_done - 1)
        side = self.settings.stages[-1].resolution if final else self.settings.resolution_at(step)
        accuracies = list(
            evaluate(
                self.backbone, self.pixels(side), self.pool.held_out, self.device, episodes=episodes
            )
        )
        for which, other in enumerate(self.transfer):
            accuracies += evaluate(
                self.backbone,
                self.pixels(side, which),
                other.training,
                self.device,
                episodes=episodes,
            )
        recent, self._recent = self._recent, []
        count = max(1, len(recent))
        record = Record(
            self.steps_done,
            sum(result.loss for result in recent) / count,
            sum(result.accuracy for result in recent) / count,
            tuple(accuracies),
        )
        self.records.append(record)
        return record

    def write(self, path: Path, run: RunKey) -> None:
        """A checkpoint of the run that `run` describes; only the leading process writes."""
        if self.group.leads:
            progressed = Progressed(self.steps_done, self.seconds, tuple(self.records))
            write_state(path, self.learner, self.optimizer, progressed, run)

    def restore(self, path: Path, run: RunKey) -> None:
        """Go on from a checkpoint; raises `InputError` where it does not fit."""
        progressed = read_state(path, self.learner, self.optimizer, run)
        self.steps_done, self.seconds = progressed.step, progressed.seconds
        self.records = list(progressed.records)


def train(
    run: Pretraining,
    *,
    stop: Callable[[], bool],
    watch: Callable[[StepResult], None],
    measured: Callable[[Record], None],
    save: Callable[[], None],
    measure_every: int,
    save_every: int,
) -> bool:
    """Steps until the schedule's end, or until `stop`; whether the end was reached."""
    while run.steps_done < run.settings.steps:
        watch(run.step())
        done = run.steps_done
        last = done == run.settings.steps
        if run.group.any(stop(), run.device) and not last:
            save()
            return False
        if last or (measure_every and done % measure_every == 0):
            if run.group.leads:
                measured(run.measure(final=last))
            run.group.wait()
        if last or (save_every and done % save_every == 0):
            save()
    return True


def _optimizer(learner: Learner, settings: PretrainSettings) -> torch.optim.Optimizer:
    """Weight decay on convolutions and matrices alone."""
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


__all__ = ["Accuracy", "Diverged", "Domain", "Pretraining", "StepResult", "train"]

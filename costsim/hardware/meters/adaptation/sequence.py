"""All phases of an adaptation in the order in which a device runs them, on a real task."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from costsim.base.progress import Progress, silent
from costsim.hardware.meters.adaptation.images import TaskImages
from costsim.hardware.meters.adaptation.phase import OutputLoss, PhaseMeter
from costsim.hardware.meters.adaptation.scores import Scores
from costsim.hardware.meters.plan_validation import classification_loss
from costsim.ir.program.adaptation import AdaptationProgram, Phase, Scored
from costsim.learning.training.augment import augment
from costsim.learning.training.trainer import Trainer
from costsim.run.criteria.loss import CrossEntropy, PrototypeLoss


@dataclass(frozen=True)
class Extent:
    """How much of an adaptation is run: every phase `most` times, or all of it for None.

    `counting` says what is measured; see `PhaseMeter`.
    """

    most: int | None
    counting: bool

    def runs(self, planned: int) -> int:
        """How often a phase is run that an adaptation runs `planned` times."""
        return planned if self.most is None else min(planned, self.most)


class Sequence:
    """One adaptation of the network that `tensors` are of, which it trains in place.

    `order` says which images each step takes and as which of their copies; it trains nothing.
    What outlives runs is really held: the images in 8 bits, what the part before the cut makes of
    them, the class means, the scores, the optimizer's state. A pass that is not full is filled with
    its first sample again, which has no part in the loss.

    Where not all of it is run, an iteration that begins at the cut takes what was kept so far, and
    class means are those of the images seen so far.
    """

    def __init__(
        self,
        whole: AdaptationProgram,
        tensors: Mapping[str, Tensor],
        images: TaskImages,
        order: Trainer,
        extent: Extent,
        *,
        scored: Scored | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.whole, self.images, self.order, self.extent = whole, images, order, extent
        self.recipe, self.samples = whole.recipe, len(images.labels)
        self.progress = progress or silent
        self.dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
        self.scores = None if scored is None else Scores(whole.graph, scored)
        self.meters = {
            phase.phase: PhaseMeter(
                phase,
                tensors,
                counting=extent.counting,
                learning_rate=self.recipe.rate,
                momentum=self.recipe.momentum,
                scorer=self.scores,
            )
            for phase in whole.phases
        }
        self.means: Tensor | None = None
        self.kept: Tensor | None = None
        self.filled = 0
        self._base = self._trained()

    # The whole.

    @torch.no_grad()
    def run(self) -> None:
        """Everything from the task's images to an answer, as far as it goes.

        Raises `LossNotFinite` where training diverges, and `InputError` for a loss that does not
        suit the network.
        """
        self._score()
        self._keep()
        if Phase.TRAINING in self.meters:
            for iteration in range(self.recipe.iterations):
                self._iterate(iteration)
        self._take_means()
        for _ in self._passes(Phase.ANSWERING, torch.zeros(1, dtype=torch.long), self._shown):
            pass

    @torch.no_grad()
    def restore(self) -> None:
        """The weights as they were before."""
        if (meter := self.meters.get(Phase.TRAINING)) is not None:
            for atom, selection in meter.executor.selections.items():
                selection.write(meter.executor.parameter(atom), self._base[atom])

    def lasting_bytes(self) -> dict[str, int]:
        """Bytes of what outlives runs, as it lies in memory here, by the program's names."""
        training = self.meters.get(Phase.TRAINING)
        found = {
            "support images": self.images.levels.nbytes,
            "class means": 0 if self.means is None else self.means.nbytes,
            "cached values": 0 if self.kept is None else self.kept.nbytes,
            "scores": 0 if self.scores is None else self.scores.bytes,
            "updated weights": 0 if training is None else training.written_bytes,
            "optimizer state": 0 if training is None else training.state_bytes,
        }
        return {name: size for name, size in found.items() if size}

    def held_bytes(self, phase: Phase) -> int:
        """The most bytes of RAM that are alive in a phase; frozen weights stand apart."""
        sizes = self.lasting_bytes()
        return self.meters[phase].live_bytes + sum(
            sizes.get(buffer.name, 0)
            for buffer in self.whole.lasting
            if buffer.place == "ram" and phase in buffer.phases - buffer.counted_in
        )

    def _trained(self) -> Mapping[object, Tensor]:
        if (meter := self.meters.get(Phase.TRAINING)) is None:
            return {}
        return {
            atom: selection.read(meter.executor.parameter(atom)).detach().clone()
            for atom, selection in meter.executor.selections.items()
        }

    # Its phases.

    def _score(self) -> None:
        meter = self.meters.get(Phase.SCORING)
        for _ in range(0 if meter is None else meter.phase.rounds):
            for _ in self._passes(
                Phase.SCORING, torch.arange(self.samples), self._shown, self._as_logits
            ):
                pass

    def _keep(self) -> None:
        """What the part before the cut makes of every image, and of every copy."""
        if Phase.CACHING not in self.meters:
            return
        assert self.whole.recipe.cut is not None
        copies = self.recipe.drawn_copies if self.recipe.augment else 0
        rows = torch.arange(self.samples * (1 + copies))
        shape = self.whole.graph[self.whole.recipe.cut].shape[1:]
        self.kept, self.filled = torch.zeros((len(rows), *shape), dtype=self.dtype), 0
        for part, values in self._passes(Phase.CACHING, rows, self._shown):
            self.kept[part] = values
            self.filled += len(part)

    def _take_means(self) -> None:
        """The mean of the features of each class."""
        if Phase.MEANS not in self.meters or not self._left(Phase.MEANS):
            return
        ways, labels = self.whole.task.ways, self.images.labels
        sums, counts = None, torch.zeros(ways)
        for part, outputs in self._passes(Phase.MEANS, torch.arange(self.samples), self._begun):
            features = outputs.flatten(1)
            if sums is None:
                sums = features.new_zeros(ways, features.shape[1])
            sums.index_add_(0, labels[part], features)
            counts += torch.bincount(labels[part], minlength=ways)
        assert sums is not None
        self.means = sums.div_(counts.clamp_min(1).unsqueeze(1).to(self.dtype))

    def _iterate(self, iteration: int) -> None:
        """Class means where the recipe says so, then the steps of an iteration."""
        if not self._left(Phase.TRAINING):
            return
        if iteration % self.recipe.means_interval == 0:
            self._take_means()
        order, most = self.order, self.whole[Phase.TRAINING].program.step.batch
        for batch in range(order.batches(iteration)):
            order.iteration, order.batch = iteration, batch
            for places in torch.split(torch.from_numpy(order.samples().copy()), most):
                if self._left(Phase.TRAINING):
                    self._step(iteration, places)

    def _step(self, iteration: int, places: Tensor) -> None:
        """One optimizer step over the images at `places`."""
        meter = self.meters[Phase.TRAINING]
        step, count = meter.phase.program.step, len(places)
        size = step.samples_a_pass
        rows = places
        if self.recipe.augment:
            copies = self.order.support.copies.picks[iteration][places]
            rows = (1 + copies) * self.samples + places
        rows, labels = _filled(rows, step.batch), self.images.labels[places]

        def take(number: int) -> tuple[Tensor, OutputLoss]:
            first = number * size
            here = labels[first : first + size]
            return (
                self._begun(rows[first : first + size]),
                lambda outputs: self._loss(outputs[: len(here)], here) / count,
            )

        self._tell(Phase.TRAINING)
        meter.run(take)

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum over these samples, which may be none: the pass is there all the same."""
        if not len(labels):
            return outputs.sum()
        if self.recipe.loss == "prototype":
            return PrototypeLoss(self.recipe.temperature)(outputs, labels, self.means)
        return CrossEntropy()(outputs, labels, None)

    def _as_logits(self, part: Tensor) -> OutputLoss:
        """A loss of any network: what is scored chooses nothing any more."""
        labels = self.images.labels[part]
        return lambda outputs: classification_loss(outputs[: len(labels)], labels)

    # What a run begins with: rows are the images, then all of their first copies, and so on.

    def _shown(self, rows: Tensor) -> Tensor:
        """Images and changed copies."""
        places = rows % self.samples
        found = self.images.of(places, self.dtype)
        changed = rows >= self.samples
        if bool(changed.any()):
            numbers = (rows // self.samples - 1)[changed]
            amounts = self.order.support.copies.amounts.to(self.dtype)
            found[changed] = augment(found[changed], amounts[numbers, places[changed]])
        return found

    def _begun(self, rows: Tensor) -> Tensor:
        """What an iteration begins with: the same, or what was kept of it."""
        return self._shown(rows) if self.kept is None else self.kept[rows % self.filled]

    def _passes(
        self,
        phase: Phase,
        rows: Tensor,
        begin: Callable[[Tensor], Tensor],
        loss: Callable[[Tensor], OutputLoss] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Runs over `rows`, a pass each, as far as they go: which rows, and the outputs of them."""
        meter = self.meters[phase]
        for part in torch.split(rows, meter.batch):
            if not self._left(phase):
                return
            self._tell(phase)
            taken = begin(_filled(part, meter.batch)), None if loss is None else loss(part)
            output = meter.run([taken].__getitem__)  # of one pass: training alone may have more
            yield part, output[: len(part)]

    def _left(self, phase: Phase) -> bool:
        meter = self.meters[phase]
        return meter.runs < self.extent.runs(meter.phase.times * meter.phase.rounds)

    def _tell(self, phase: Phase) -> None:
        meter = self.meters[phase]
        total = self.extent.runs(meter.phase.times * meter.phase.rounds)
        what = "counting" if self.extent.counting else "timing"
        self.progress(f"{what}: {phase}", meter.runs, total)


def _filled(rows: Tensor, size: int) -> Tensor:
    """As many as `size`, with the first again where they are fewer."""
    return torch.cat([rows, rows[:1].expand(size - len(rows))])

"""Losses that a criterion differentiates, summed over samples.

The sum, not the mean: the gradient of the sum with respect to what one sample computed is that
sample's own gradient, whatever the number of samples beside it.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from costsim.base.errors import InputError
from costsim.base.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A loss in two parts: what all samples share, and the sum over some of them."""

    def context(self, outputs: "Tensor", labels: "Tensor") -> "Tensor | None":
        """What the loss of each sample depends on besides itself, held constant."""

    def __call__(self, outputs: "Tensor", labels: "Tensor", context: "Tensor | None") -> "Tensor":
        """The sum of the losses of these samples: a scalar."""


def prototypes(features: "Tensor", labels: "Tensor") -> "Tensor":
    """Class means `[classes, D]` of features `[N, ...]`, without gradient; labels are 0, 1, ...

    Raises `InputError` for fewer than two classes and for a class without samples.
    """
    import torch

    flat = features.detach().flatten(1)
    classes = int(labels.max()) + 1
    counts = torch.bincount(labels, minlength=classes)
    if classes < 2:
        raise InputError(
            "the prototype loss needs samples of at least 2 classes; there is 1: "
            "give more --ways, or data with more classes"
        )
    if not bool(counts.all()):
        raise InputError(f"label {int(counts.argmin())} has no samples; labels are 0, 1, 2, ...")
    sums = flat.new_zeros(classes, flat.shape[1]).index_add_(0, labels, flat)
    return sums / counts.unsqueeze(1).to(flat.dtype)


def prototype_loss(
    features: "Tensor",
    labels: "Tensor",
    temperature: float = 10.0,
    means: "Tensor | None" = None,
) -> "Tensor":
    """Cross entropy over `temperature` times the cosine similarity to class means, summed.

    `features` is `[N, ...]`, flattened to `[N, D]`; `means` is `[classes, D]`, by default those
    of these very samples, constant for the gradient. A sample's own class mean therefore
    contains the sample itself. A feature of length zero is similar to nothing (cosine 0).

    The classifier of prototypical networks (Snell et al., NeurIPS 2017) with the cosine
    similarity that TinyTrain uses.
    """
    from torch.nn import functional

    if means is None:
        means = prototypes(features, labels)
    similarity = _unit(features.flatten(1)) @ _unit(means).T
    return functional.cross_entropy(temperature * similarity, labels, reduction="sum")


def _unit(vectors: "Tensor") -> "Tensor":
    lengths = vectors.norm(dim=1, keepdim=True)
    unit: Tensor = vectors / lengths.where(lengths > 0, lengths.new_ones(()))
    return unit


@dataclass(frozen=True)
class PrototypeLoss:
    """`prototype_loss`, for a model that returns features."""

    temperature: float = 10.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature {self.temperature}; a positive number is needed")

    def context(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """The class means of all samples."""
        return prototypes(outputs, labels)

    def __call__(self, outputs: "Tensor", labels: "Tensor", context: "Tensor | None") -> "Tensor":
        """The sum over these samples, with the class means of all."""
        return prototype_loss(outputs, labels, self.temperature, context)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy of logits `[N, D]`, for a model with a classifier of at least as many classes.

    Raises `InputError` for other shapes and for a label of D or more.
    """

    def context(self, outputs: "Tensor", labels: "Tensor") -> None:
        """Nothing: each sample is on its own."""

    def __call__(self, outputs: "Tensor", labels: "Tensor", context: "Tensor | None") -> "Tensor":
        """The sum over these samples."""
        from torch.nn import functional

        logits = outputs.flatten(1) if outputs[0, ...].numel() == outputs.shape[1] else outputs
        if logits.ndim != 2:
            raise InputError(
                f"cross entropy needs logits [N, classes]; the model returns {tuple(outputs.shape)}"
            )
        if int(labels.max()) >= logits.shape[1]:
            raise InputError(
                f"cross entropy: label {int(labels.max())} and a model of {logits.shape[1]} "
                "outputs; use the prototype loss or a wider classifier"
            )
        return functional.cross_entropy(logits, labels, reduction="sum")


LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "prototype": Entry(
            "costsim.run.criteria.loss:PrototypeLoss", "for a model that returns features"
        ),
        "cross_entropy": Entry(
            "costsim.run.criteria.loss:CrossEntropy", "for one that returns logits"
        ),
    },
)

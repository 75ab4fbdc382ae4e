"""The classifier: the class mean most similar to an image's features."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Answers:
    """The class `[M]` of each query image, the share of right ones, their mean log-likelihood.

    The class is that of the most similar class mean (cosine).
    """

    predictions: Tensor
    accuracy: float
    log_likelihood: float


def classify(features: Tensor, means: Tensor, labels: Tensor, temperature: float) -> Answers:
    """Of features `[M, D]`, by the class means `[classes, D]`; `labels` `[M]` are the right ones.

    The likelihood is that of similarities times `temperature`.
    """
    similarity = cosine(features, means)
    found = similarity.argmax(1)
    likelihoods = (temperature * similarity).log_softmax(1)
    return Answers(
        found.cpu(),
        float((found == labels).double().mean()),
        float(likelihoods.gather(1, labels.unsqueeze(1)).double().mean()),
    )


def cosine(features: Tensor, means: Tensor) -> Tensor:
    """Similarities `[N, classes]` of features `[N, D]` to means `[classes, D]`."""
    normal = torch.nn.functional.normalize
    return normal(features) @ normal(means).T

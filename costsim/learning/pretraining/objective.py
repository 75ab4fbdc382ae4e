"""What a step minimises: prototypes by cosine, and a plain classification beside it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Learner(nn.Module):
    """A backbone with its learned temperature and the classifier of the auxiliary loss.

    The temperature is kept as its logarithm. Features are the backbone's outputs, flattened.
    """

    def __init__(
        self, backbone: nn.Module, features: int, classes: int, temperature: float, seed: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.classifier = nn.Linear(features, classes) if classes else None
        if self.classifier is not None:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                drawn = torch.randn(self.classifier.weight.shape, generator=generator)
                self.classifier.weight.copy_(drawn * features**-0.5)
                self.classifier.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """`[N, 3, side, side]` to features `[N, D]`."""
        features: Tensor = self.backbone(images)
        return features.flatten(1)

    def logits(self, features: Tensor, labels: Tensor, is_query: Tensor, ways: int) -> Tensor:
        """`[queries, ways]`: temperature times the cosine to the class means of the support."""
        support, query = features[~is_query], features[is_query]
        means = features.new_zeros(ways, features.shape[1])
        means = means.index_add(0, labels[~is_query], support)  # a cosine needs no division
        cosine = functional.normalize(query, dim=1) @ functional.normalize(means, dim=1).T
        return self.log_temperature.exp() * cosine


def episode_loss(
    learner: Learner,
    features: Tensor,
    labels: Tensor,
    classes: Tensor,
    is_query: Tensor,
    ways: int,
    auxiliary: float,
) -> tuple[Tensor, Tensor]:
    """The loss of one episode, and the number of its queries that are classified rightly."""
    logits = learner.logits(features, labels, is_query, ways)
    wanted = labels[is_query]
    loss = functional.cross_entropy(logits, wanted)
    if auxiliary and learner.classifier is not None:
        plain = functional.cross_entropy(learner.classifier(features), classes, label_smoothing=0.1)
        loss = loss + auxiliary * plain
    return loss, (logits.detach().argmax(1) == wanted).sum()

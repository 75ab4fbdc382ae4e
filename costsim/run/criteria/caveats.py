"""What a person should know of scores and of a training before believing them.

Each is one sentence that says what was found and what to do, or None in the ordinary case: a
network that returns features, trained, on images that are meant for it. They come from shapes,
names and numbers that are there anyway; torch is not needed.
"""

from collections.abc import Sequence

from costsim.base.units import format_percent
from costsim.ir.graph import LayerGraph
from costsim.ir.head import linear_head
from costsim.problem.importance import Importance

FEW_OUTPUTS = 32
"""A last linear layer that narrows to fewer looks like a classifier; embeddings are wider."""

CLASSES = frozenset({10, 100, 101, 102, 200, 365, 1000, 1001, 10_450, 11_221, 21_841, 21_843})
"""Numbers of classes of well-known data sets: such a layer is a classifier though it is wide."""

NOTHING = 1e-6
"""Scores that sum to less are those of vanishing gradients; trained networks have 0.1 and more."""

ALL = 0.9999
"""Where one layer of several has this share of all gain, the gradients of the others vanish."""

STILL = 1e-3
"""A loss that stays within this share of itself over a whole training did not move."""


def output_caveat(graph: LayerGraph, loss: str, ways: int, *, choice: bool = True) -> str | None:
    """Where the output is not what `loss` is of, features `[N, D]` or logits `[N, classes]`.

    `choice`: whether a person can say `--loss`.
    """
    call = graph[graph.output]
    wide = [size for size in call.shape[2:] if size != 1]
    if wide:
        shape = ", ".join(["N", *map(str, call.shape[1:])])
        return (
            f"the output is [N, D] flattened from [{shape}], and scored and trained as "
            f"{'logits' if loss != 'prototype' else 'features'} of a classifier of {ways} classes: "
            "if this network is none (a detector, a segmentation), wrap it to return features"
        )
    if loss == "prototype" and _looks_like_logits(graph, ways):
        other = "give --loss cross_entropy, or " if choice else ""
        return (
            f"the last layer gives {call.shape[1]} outputs, which look like logits, and they are "
            f"taken as features by the prototype loss: {other}return the features before that layer"
        )
    return None


def _looks_like_logits(graph: LayerGraph, ways: int) -> bool:
    """Whether the output is that of a linear layer to as many values as there may be classes."""
    if (head := linear_head(graph, pooled=True)) is None or head.weight is None:
        return False
    outputs, inputs = (*head.weight.shape, 0)[:2]
    if outputs in CLASSES:  # however narrow what it reads: ResNet-18 has 512 features
        return True
    narrows = outputs < inputs and (outputs == ways or outputs < FEW_OUTPUTS)
    return narrows and linear_head(graph) is not None


def data_caveat(model: str, *, built_in: bool, given: bool) -> str | None:
    """Where a person's own `model` is shown the digits that stand in for want of `--data`."""
    if built_in or given:
        return None
    return (
        f"{model} is your own, and without --data it is shown handwritten digits (scikit-learn): "
        "give the images that it is for"
    )


def weights_caveat(model: str, provenance: str) -> str | None:
    """Where a `model` starts from a seed, by the `provenance` of its weights."""
    if "no pretrained weights" not in provenance:
        return None
    return (
        f"{model} is {provenance}: costs are right, scores and accuracies are those of an "
        "untrained network; give weights for a real choice"
    )


def score_caveat(importance: Importance) -> str | None:
    """Where scores are all but zero, or one layer's leave nothing of the others."""
    if not importance.samples:
        return None
    told = "is this network trained, and --loss the one for its output?"
    gains = importance.layer_gains
    if importance.full_gain < NOTHING:
        whole = "0" if not importance.full_gain else f"{importance.full_gain:.1g} in all"
        return f"the {importance.criterion} scores are all but zero ({whole}), mere noise: {told}"
    layer = max(gains, key=lambda name: gains[name])
    share = importance.share(gains[layer]) or 0.0
    if len(gains) > 2 and share >= ALL:
        return (
            f"{layer} alone has {format_percent(share)} of all gain, the scores of the other "
            f"{len(gains) - 1} layers are all but zero: {told}"
        )
    return None


def loss_caveat(losses: Sequence[float]) -> str | None:
    """Where the losses of a training, one an iteration, did not move though they were not zero."""
    if len(losses) < 2 or not all(abs(loss) < float("inf") for loss in losses):
        return None
    low, high = min(losses), max(losses)
    if high < STILL or high - low > STILL * high:
        return None
    return (
        f"the loss did not move: {losses[0]:.4g} in the first iteration, {losses[-1]:.4g} in the "
        "last; nothing was learnt. Is the network trained, the loss the one for its output, the "
        "learning rate large enough?"
    )

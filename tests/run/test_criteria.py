"""Criteria against oracles: per-sample backward passes, channel masks, finite differences."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from graphs import GraphBuilder
from running import with_statistics
from settled import settled_images
from torch import Tensor
from torch.nn import functional

from costsim.base.errors import InputError
from costsim.data import digits, open_images, sample_task
from costsim.ir.graph import LayerGraph
from costsim.ir.operators import (
    Add,
    BatchNorm,
    Convolution,
    LayerNorm,
    Permute,
    Reshape,
    UpdateKind,
)
from costsim.ir.step import TrainingStep
from costsim.models.networks.build import build
from costsim.models.networks.graph import architecture_graph
from costsim.problem.importance import Importance, inspected_layers, tinytrain_scores
from costsim.run.criteria import CRITERIA
from costsim.run.criteria.loss import LOSSES, CrossEntropy, PrototypeLoss, prototype_loss
from costsim.run.criteria.passes import by_channel
from costsim.run.criteria.step_gain import StepGain
from costsim.run.execution.forward import evaluate

SAMPLES = 6
LABELS = np.array([0, 0, 1, 1, 2, 2])


def residual(batch: int) -> LayerGraph:
    """A strided stem, a grouped and a depthwise convolution under a skip, a linear head."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(batch, 3, 8, 8), 4, 3, stride=2, layer="stem"))
    y = g.relu(g.conv(x, 8, 3, groups=2, layer="grouped"))
    y = g.relu(g.conv(y, 8, 3, groups=8, bias=False, layer="depthwise"))
    y = g.conv(y, 4, layer="project")
    x = g.relu(g.add(Add(), (x, y)))
    x = g.conv(x, 6, 3, layer="last", bias=False)
    g.linear(g.pool(g.relu(x)), 5)
    return g.graph()


def reused(batch: int) -> LayerGraph:
    """One convolution called three times."""
    g = GraphBuilder()
    x = g.relu(g.conv(g.input(batch, 3, 5, 5), 4, layer="stem"))
    for _ in range(3):
        x = g.relu(g.conv(x, 4, 3, layer="shared"))
    g.pool(x)
    return g.graph()


def tokens(batch: int) -> LayerGraph:
    """Patches as tokens `[N, L, D]` through layer norm and linear layers with a skip."""
    g = GraphBuilder()
    x = g.conv(g.input(batch, 3, 4, 4), 6, 2, stride=2, layer="patch")
    length = g.shape(x)[2] * g.shape(x)[3]
    x = g.add(Permute((0, 2, 1)), (g.add(Reshape((batch, 6, length)), (x,)),))
    y = g.add(LayerNorm(1, 1e-5), (x,), (6,), True, "norm")
    y = g.linear(g.relu(g.linear(y, 9)), 6)
    x = g.add(Add(), (x, y))
    g.linear(g.add(Reshape((batch, length * 6)), (x,)), 4)
    return g.graph()


def normalised(batch: int) -> LayerGraph:
    """Convolutions with frozen batch norm."""
    g = GraphBuilder()
    x = g.input(batch, 3, 5, 5)
    for width in (4, 6):
        x = g.conv(x, width, 3, bias=False)
        x = g.relu(g.add(BatchNorm(1e-5), (x,), (width,), True))
    g.pool(x)
    return with_statistics(g.graph())


GRAPHS: Mapping[str, Callable[[int], LayerGraph]] = {
    "residual": residual,
    "reused": reused,
    "tokens": tokens,
    "normalised": normalised,
}


def tensors_of(graph: LayerGraph, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for parameter in graph.parameters:
        fan_in = max(1, int(np.prod(parameter.shape[1:])))
        tensor = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        tensor = tensor.abs() + 0.5 if parameter.name.endswith("var") else tensor * fan_in**-0.5
        tensors[parameter.name] = tensor.to(dtype)
    return tensors


def differentiable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, all requiring gradient but the statistics of batch norm."""
    return {name: t.requires_grad_("running" not in name) for name, t in tensors.items()}


def images_for(graph: LayerGraph, samples: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((samples, *graph[graph.input].shape[1:]))


KINDS: tuple[UpdateKind, ...] = ("output", "input", "bias")


def targets(graph: LayerGraph) -> list[tuple[str, UpdateKind]]:
    return [
        (layer, axis) for layer in graph.layers for axis in KINDS if graph.selectable(layer, axis)
    ]


def channels(graph: LayerGraph, layer: str, axis: UpdateKind) -> int:
    """Channels along an axis; of a bias its elements."""
    if axis != "bias":
        return graph.selectable_channels(layer, axis)
    bias = graph.layers[layer].bias
    assert bias is not None
    return bias.size


def told(axis: UpdateKind, values: np.ndarray) -> np.ndarray:
    """What a criterion tells of the scores of channels: of a bias their sum."""
    return values.sum(keepdims=True) if axis == "bias" else values


def score(name: str, graph: LayerGraph) -> Importance:
    return CRITERIA[name].score(
        graph,
        tensors_of(graph),
        images_for(graph),
        LABELS,
        layers=[*graph.layers],
        axes=KINDS,
    )


def per_sample(graph: LayerGraph) -> list[tuple[Tensor, Tensor]]:
    """The samples one at a time and, for each, the label: for a graph of batch 1."""
    images = torch.tensor(images_for(graph))
    return [(images[n : n + 1], torch.tensor(LABELS[n : n + 1])) for n in range(len(images))]


def means_of(graph: LayerGraph, tensors: Mapping[str, Tensor]) -> Tensor:
    """Class means of the features, one sample at a time."""
    features = torch.cat([evaluate(graph, tensors, x)[0] for x, _ in per_sample(graph)])
    return torch.stack([features[label == LABELS].mean(0) for label in range(3)]).detach()


def one_loss(features: Tensor, label: Tensor, means: Tensor) -> Tensor:
    similarity = torch.cosine_similarity(features[:, None], means[None], dim=-1)
    return functional.cross_entropy(10 * similarity, label)


@pytest.mark.parametrize("name", GRAPHS)
def test_fisher_against_a_backward_pass_for_each_sample(name: str) -> None:
    graph = GRAPHS[name](1)
    tensors = differentiable(tensors_of(graph))
    means = means_of(graph, tensors)
    expected = {
        layer: np.zeros(graph.selectable_channels(layer, "output")) for layer in graph.layers
    }
    for x, label in per_sample(graph):
        output, values = evaluate(graph, tensors, x, keep=[call.name for call in graph.calls])
        loss = one_loss(output, label, means)
        for layer, total in expected.items():
            calls = graph.layers[layer].calls
            gradients = torch.autograd.grad(loss, [values[c] for c in calls], retain_graph=True)
            inner = np.zeros_like(total)
            for call, g in zip(calls, gradients, strict=True):
                product = (values[call] * g).detach().numpy()[0]
                channels_first = name != "tokens" or product.ndim != 2
                inner += (
                    product.reshape(len(total), -1).sum(1) if channels_first else product.sum(0)
                )
            total += inner**2
    importance = score("fisher", graph)
    for layer, total in expected.items():
        np.testing.assert_allclose(
            importance.scores(layer), total / (2 * SAMPLES), rtol=1e-10, atol=1e-14
        )


def gained(
    graph: LayerGraph, tensors: Mapping[str, Tensor], layer: str, axis: UpdateKind, gain: Tensor
) -> dict[str, Tensor]:
    """The tensors with one layer's weight (and bias, along the output) times a gain a channel."""
    found = graph.layers[layer]
    assert found.weight is not None
    weight = tensors[found.weight.name]
    changed = dict(tensors)
    if axis == "bias":
        assert found.bias is not None
        changed[found.bias.name] = tensors[found.bias.name] * gain
        return changed
    if axis == "output":
        changed[found.weight.name] = weight * gain.view(-1, *[1] * (weight.ndim - 1))
        if found.bias is not None:
            changed[found.bias.name] = tensors[found.bias.name] * gain
        return changed
    operator = graph[found.calls[0]].operator
    groups = operator.groups if isinstance(operator, Convolution) else 1
    outputs = torch.arange(weight.shape[0]) // (weight.shape[0] // groups)
    inputs = torch.arange(weight.shape[1])
    read = outputs[:, None] * weight.shape[1] + inputs[None]  # the channel each weight reads
    changed[found.weight.name] = weight * gain[read].view(*read.shape, *[1] * (weight.ndim - 2))
    return changed


@pytest.mark.parametrize("name", GRAPHS)
def test_fisher_is_the_squared_derivative_of_a_gain(name: str) -> None:
    """`Δ = 1/(2N) Σ_n (dL_n/dm)²` for a gain m on the channel, along both axes and of biases."""
    graph = GRAPHS[name](1)
    tensors = tensors_of(graph)
    means = means_of(graph, tensors)
    importance = score("fisher", graph)
    for layer, axis in targets(graph):
        total = np.zeros(channels(graph, layer, axis))
        for x, label in per_sample(graph):
            gain = torch.ones(len(total), dtype=torch.float64, requires_grad=True)
            output, _ = evaluate(graph, gained(graph, tensors, layer, axis, gain), x)
            (derivative,) = torch.autograd.grad(one_loss(output, label, means), gain)
            total += derivative.numpy() ** 2
        np.testing.assert_allclose(
            importance.scores(layer, axis),
            told(axis, total / (2 * SAMPLES)),
            rtol=1e-9,
            atol=1e-14,
        )


@pytest.mark.parametrize("name", GRAPHS)
def test_fisher_against_finite_differences(name: str) -> None:
    graph = GRAPHS[name](1)
    tensors = tensors_of(graph)
    means = means_of(graph, tensors)
    importance = score("fisher", graph)
    h = 1e-6
    along = [(layer, axis) for layer, axis in targets(graph) if axis != "bias"]
    for layer, axis in along[-3:]:
        channel, total = 1, 0.0
        for x, label in per_sample(graph):
            losses = []
            for sign in (1, -1):
                gain = torch.ones(graph.selectable_channels(layer, axis), dtype=torch.float64)
                gain[channel] += sign * h
                output, _ = evaluate(graph, gained(graph, tensors, layer, axis, gain), x)
                losses.append(one_loss(output, label, means).item())
            total += ((losses[0] - losses[1]) / (2 * h)) ** 2
        assert importance.scores(layer, axis)[channel] == pytest.approx(
            total / (2 * SAMPLES), rel=1e-4, abs=1e-12
        )


@pytest.mark.parametrize("criterion", [n for n, one in CRITERIA.items() if one.uses_samples])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_graphs_batch_changes_nothing(name: str, criterion: str) -> None:
    """One, four (the last pass is filled up), six (one pass) and nine (filled up) at a time."""
    one = score(criterion, GRAPHS[name](1))
    for batch in (4, SAMPLES, 9):
        many = score(criterion, GRAPHS[name](batch))
        for layer, axis in targets(GRAPHS[name](1)):
            np.testing.assert_allclose(
                many.scores(layer, axis), one.scores(layer, axis), rtol=1e-9, atol=1e-14
            )


@pytest.mark.parametrize("name", GRAPHS)
def test_weight_criteria_by_their_formulas(name: str) -> None:
    graph = GRAPHS[name](SAMPLES)
    tensors = differentiable(tensors_of(graph))
    output, _ = evaluate(graph, tensors, torch.tensor(images_for(graph)))
    prototype_loss(output, torch.tensor(LABELS)).backward()
    names = ("l2_norm", "weight_gradient", "gradient_norm", "first_order", "first_order_adam")
    found = {n: score(n, graph) for n in names}
    for layer, axis in targets(graph):
        found_layer = graph.layers[layer]
        parameter = found_layer.bias if axis == "bias" else found_layer.weight
        assert parameter is not None
        weight = tensors[parameter.name]
        assert weight.grad is not None
        w, g = weight.detach().numpy(), weight.grad.numpy()
        if axis == "bias":
            expected = {
                "l2_norm": np.abs(w).sum(),
                "weight_gradient": np.abs(w * g).sum(),
                "gradient_norm": np.abs(g).sum(),
                "first_order": ((g / SAMPLES) ** 2).sum(),
                "first_order_adam": np.abs(g / SAMPLES).sum(),
            }
            for criterion, value in expected.items():
                assert found[criterion].scores(layer, axis) == pytest.approx(value, rel=1e-9)
            continue
        operator = graph[graph.layers[layer].calls[0]].operator
        groups = operator.groups if isinstance(operator, Convolution) else 1
        for channel in range(graph.selectable_channels(layer, axis)):
            where: tuple[Any, ...]
            if axis == "output":
                where = (channel,)
            else:  # the outputs of its group read it, at its place within the group
                group, place = divmod(channel, w.shape[1])
                size = w.shape[0] // groups
                where = (slice(group * size, (group + 1) * size), place)
            expected = {
                "l2_norm": np.sqrt((w[where] ** 2).sum()),
                "weight_gradient": np.abs(w[where] * g[where]).sum(),
                "gradient_norm": np.sqrt((g[where] ** 2).sum()),
                "first_order": ((g[where] / SAMPLES) ** 2).sum(),
                "first_order_adam": np.abs(g[where] / SAMPLES).sum(),
            }
            for criterion, value in expected.items():
                assert found[criterion].scores(layer, axis)[channel] == pytest.approx(
                    value, rel=1e-9, abs=1e-14
                )


@pytest.mark.parametrize("direction", ["sgd", "adam"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_gain_of_a_step_from_the_gradients_of_single_samples(
    name: str, direction: Literal["sgd", "adam"]
) -> None:
    """Fisher along the update by definition: products of each sample's gradient with the step."""
    graph, rate = GRAPHS[name](1), 0.05
    tensors = differentiable(tensors_of(graph))
    means = means_of(graph, tensors)
    weights = {
        (layer, axis): graph.layers[layer].bias if axis == "bias" else graph.layers[layer].weight
        for layer, axis in targets(graph)
    }
    rows: list[dict[tuple[str, UpdateKind], np.ndarray]] = []
    for x, label in per_sample(graph):
        output, _ = evaluate(graph, tensors, x)
        loss = one_loss(output, label, means)
        used = [tensors[p.name] for p in weights.values() if p is not None]
        found = torch.autograd.grad(loss, used, allow_unused=True)
        rows.append(
            {
                target: (torch.zeros_like(w) if g is None else g).numpy()
                for target, w, g in zip(weights, used, found, strict=True)
            }
        )
    importance = StepGain(rate, direction).score(
        GRAPHS[name](SAMPLES),
        {k: t.detach() for k, t in tensors.items()},
        images_for(graph),
        LABELS,
        layers=[*graph.layers],
        axes=KINDS,
    )
    for layer, axis in targets(graph):
        gradients = np.stack([row[layer, axis] for row in rows])
        step = np.sign(gradients.sum(0)) if direction == "adam" else gradients.mean(0)
        products = torch.tensor(gradients * step)
        slopes = np.stack([by_channel(one, graph, layer, axis).sum(1).numpy() for one in products])
        gain = rate * slopes.mean(0) - rate**2 / 2 * (slopes**2).mean(0)
        np.testing.assert_allclose(
            importance.scores(layer, axis),
            told(axis, np.maximum(gain, 0)),
            rtol=1e-8,
            atol=1e-13,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step size is 0; a number above 0"),
        ({"direction": "down"}, "direction 'down'; allowed are sgd, adam"),
    ],
)
def test_steps_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StepGain(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "random"])
def test_permuting_channels_permutes_scores(criterion: str) -> None:
    graph, order = residual(SAMPLES), torch.tensor([3, 0, 5, 1, 4, 2])
    tensors = tensors_of(graph)
    moved = dict(tensors)
    moved["last.weight"] = tensors["last.weight"][order]
    (head,) = [layer for layer in graph.layers if layer.startswith("linear")]
    moved[f"{head}.weight"] = tensors[f"{head}.weight"][:, order]

    def scores(which: Mapping[str, Tensor], layer: str, axis: UpdateKind) -> np.ndarray:
        importance = CRITERIA[criterion].score(
            graph, which, images_for(graph), LABELS, layers=[layer], axes=[axis]
        )
        return importance.scores(layer, axis)

    moves: tuple[tuple[str, UpdateKind], ...] = (("last", "output"), (head, "input"))
    for layer, axis in moves:
        np.testing.assert_allclose(
            scores(moved, layer, axis), scores(tensors, layer, axis)[order.numpy()], rtol=1e-9
        )


def test_the_sum_over_samples_not_the_mean() -> None:
    """Every sample twice: the same Fisher scores, twice the gradient."""
    for name, factor in (("fisher", 1), ("weight_gradient", 2), ("gradient_norm", 2)):
        once, twice = (
            CRITERIA[name].score(
                residual(2),
                tensors_of(residual(1)),
                np.concatenate([images_for(residual(1))] * times),
                np.concatenate([LABELS] * times),
                layers=["grouped"],
            )
            for times in (1, 2)
        )
        np.testing.assert_allclose(
            twice.scores("grouped"), factor * once.scores("grouped"), rtol=1e-9
        )
        assert (once.samples, twice.samples) == (SAMPLES, 2 * SAMPLES)


def test_scores_do_not_depend_on_which_other_layers_are_inspected() -> None:
    graph = residual(SAMPLES)
    for name, criterion in CRITERIA.items():
        every = score(name, graph)
        assert every.layers == tuple(graph.layers)
        alone = criterion.score(
            graph, tensors_of(graph), images_for(graph), LABELS, layers=["project"]
        )
        np.testing.assert_allclose(
            alone.scores("project"), every.scores("project"), rtol=1e-12, atol=0
        )


def test_nothing_before_the_earliest_inspected_layer_is_recorded() -> None:
    graph = architecture_graph("mcunet-5fps", batch=4, resolution=64)
    tensors = dict(build("mcunet-5fps").state_dict())
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.untyped_storage().nbytes())
        return tensor

    images, labels = np.random.default_rng(0).random((4, 3, 64, 64)), np.array([0, 0, 1, 1])
    kept = []
    for last in (1, 6, None):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            CRITERIA["fisher"].score(
                graph, tensors, images, labels, layers=inspected_layers(graph, last)
            )
        kept.append(len(saved))
    assert kept[0] < kept[1] < kept[2] / 3
    assert all(not tensor.requires_grad for tensor in tensors.values())


def test_single_precision_agrees() -> None:
    """On images of which rounding decides nothing."""
    graph = residual(SAMPLES)
    images = settled_images(graph, tensors_of(graph), TrainingStep(SAMPLES)).numpy()
    for name in CRITERIA:
        double, single = (
            CRITERIA[name].score(
                graph, tensors_of(graph, dtype), images, LABELS, layers=[*graph.layers], axes=KINDS
            )
            for dtype in (torch.float64, torch.float32)
        )
        for layer, axis in targets(graph):
            np.testing.assert_allclose(
                single.scores(layer, axis), double.scores(layer, axis), rtol=2e-3, atol=1e-6
            )


def test_values_in_another_order_of_dimensions() -> None:
    """A layer over `[L, N, D]` is scored from a graph of one sample, and only from that."""

    def sequence_first(batch: int) -> LayerGraph:
        g = GraphBuilder()
        x = g.conv(g.input(batch, 3, 4, 4), 6, 2, stride=2, layer="patch")
        side = g.shape(x)[2] * g.shape(x)[3]
        x = g.add(Permute((2, 0, 1)), (g.add(Reshape((batch, 6, side)), (x,)),))
        x = g.add(Permute((1, 0, 2)), (g.linear(x, 5),))
        g.add(Reshape((batch, side * 5)), (x,))
        return g.graph()

    with pytest.raises(InputError, match="score with a graph traced for one sample"):
        score("fisher", sequence_first(2))
    (name,) = [layer for layer in sequence_first(1).layers if layer != "patch"]
    graph = sequence_first(1)
    tensors, total = tensors_of(graph), np.zeros(5)
    means = means_of(graph, tensors)
    for x, label in per_sample(graph):
        gain = torch.ones(5, dtype=torch.float64, requires_grad=True)
        output, _ = evaluate(graph, gained(graph, tensors, name, "output", gain), x)
        total += torch.autograd.grad(one_loss(output, label, means), gain)[0].numpy() ** 2
    np.testing.assert_allclose(score("fisher", graph).scores(name), total / 12, rtol=1e-9)


def test_a_layer_that_does_not_reach_the_output_scores_zero() -> None:
    g = GraphBuilder()
    x = g.input(2, 3, 4, 4)
    g.conv(x, 4, layer="aside")
    g.pool(g.conv(x, 4, layer="main"))
    graph = LayerGraph(g.calls)
    for name in ("fisher", "gradient_norm", "weight_gradient"):
        importance = score(name, graph)
        assert not importance.scores("aside").any()
        assert importance.scores("main").all()


def test_the_biases_are_those_of_the_layers_and_of_the_norms_behind_them() -> None:
    """Convolutions of a network with norms have no bias; a weight is scored only where asked."""
    graph = normalised(SAMPLES)
    first, norm, second, last = graph.layers
    tensors = tensors_of(graph)
    arguments = (graph, tensors, images_for(graph), LABELS)
    found = CRITERIA["fisher"].score(*arguments, layers=[first, second], axes=("output", "bias"))
    assert [(entry.layer, entry.axis) for entry in found.channels] == [
        (first, "output"),
        (norm, "bias"),
        (second, "output"),
        (last, "bias"),
    ]
    behind = CRITERIA["fisher"].score(*arguments, layers=[second], axes=("bias",))
    assert behind.layers == (last,)
    assert behind.scores(last, "bias") == found.scores(last, "bias")
    # What only a whole value has, not a channel of it, is no bias of channels.
    graph = residual(SAMPLES)
    with pytest.raises(InputError, match="no channels to score along bias in depthwise"):
        CRITERIA["l2_norm"].score(graph, tensors_of(graph), layers=["depthwise"], axes=("bias",))


# Losses.


def test_the_prototype_loss_by_its_formula() -> None:
    features = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(LABELS)
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    total = sum(one_loss(features[n : n + 1], labels[n : n + 1], means) for n in range(6))
    torch.testing.assert_close(prototype_loss(features, labels), total)
    maps = features.reshape(6, 7, 1, 1)
    torch.testing.assert_close(prototype_loss(maps, labels), total)
    assert prototype_loss(features, labels, 1.0) != total
    assert torch.isfinite(prototype_loss(torch.zeros(6, 7), labels))
    with pytest.raises(InputError, match="at least 2 classes"):
        prototype_loss(features, torch.zeros(6, dtype=torch.int64))
    with pytest.raises(InputError, match="label 1 has no samples"):
        prototype_loss(features, torch.tensor([0, 0, 0, 2, 2, 2]))
    with pytest.raises(InputError, match="temperature 0"):
        PrototypeLoss(0)


def test_no_gradient_flows_through_the_prototypes() -> None:
    features = torch.randn(6, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor(LABELS)
    (gradient,) = torch.autograd.grad(prototype_loss(features, labels), features)
    means = torch.stack([features[labels == c].mean(0) for c in range(3)]).detach()
    (fixed,) = torch.autograd.grad(prototype_loss(features, labels, means=means), features)
    torch.testing.assert_close(gradient, fixed)


def test_cross_entropy() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor(LABELS)
    loss = LOSSES["cross_entropy"]
    expected = functional.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss(logits, labels, None), expected)
    torch.testing.assert_close(loss(logits.reshape(6, 3, 1, 1), labels, None), expected)
    with pytest.raises(InputError, match="label 2 and a model of 2 outputs"):
        loss(logits[:, :2], labels, None)
    with pytest.raises(InputError, match="needs logits"):
        CrossEntropy()(torch.randn(6, 3, 2, 2), labels, None)


def test_a_loss_may_be_given_by_name_or_as_a_value() -> None:
    graph = residual(SAMPLES)
    arguments = (graph, tensors_of(graph), images_for(graph), LABELS)
    fisher = CRITERIA["fisher"]
    named = fisher.score(*arguments, layers=["last"], loss="cross_entropy")
    assert named == fisher.score(*arguments, layers=["last"], loss=CrossEntropy())
    assert named != fisher.score(*arguments, layers=["last"])
    with pytest.raises(InputError, match="loss 'mse' is unknown; known are prototype, cross_e"):
        fisher.score(*arguments, layers=["last"], loss="mse")


# Random, and what all criteria share.


def test_random_is_a_function_of_seed_and_layer() -> None:
    graph = residual(1)
    random = CRITERIA["random"]
    scored = random.score(graph, {}, layers=["last"], seed=7)
    expected = np.random.default_rng([7, zlib.crc32(b"last/output")]).random(6)
    np.testing.assert_array_equal(scored.scores("last"), expected)
    torch.manual_seed(3)
    assert random.score(graph, {}, layers=["last"], seed=7) == scored
    assert random.score(graph, {}, layers=["last"], seed=8) != scored
    assert scored.samples == 0


def test_the_table_is_keyed_by_name() -> None:
    assert CRITERIA
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert score(name, residual(2)).criterion == name


def test_progress_and_source() -> None:
    graph, told = residual(4), []
    importance = CRITERIA["fisher"].score(
        graph,
        tensors_of(graph),
        images_for(graph),
        LABELS,
        layers=["last"],
        source="noise",
        seed=5,
        progress=lambda *args: told.append(args),
    )
    assert told == [("fisher", 4, 6), ("fisher", 6, 6)]
    assert (importance.source, importance.samples, importance.seed) == ("noise", 6, 5)


def poisoned(name: str) -> dict[str, Tensor]:
    tensors = tensors_of(residual(1))
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] = torch.nan
    return tensors


def huge() -> dict[str, Tensor]:
    tensors = tensors_of(residual(1), torch.float32)
    for name in ("grouped.weight", "depthwise.weight"):
        tensors[name] = tensors[name] * 1e30
    return tensors


BAD: Mapping[str, tuple[dict[str, object], str]] = {
    "unknown layer": ({"layers": ["nowhere"]}, "layer 'nowhere' is not in the model"),
    "unknown axis": ({"axes": ["depth"]}, "axis 'depth'; allowed are output, input, bias"),
    "no channels": (
        {"layers": ["depthwise"], "axes": ["input"]},
        "no channels to score along input in depthwise",
    ),
    "no samples": ({"images": None}, "needs labelled samples"),
    "empty": ({"images": np.empty((0, 3, 8, 8)), "labels": LABELS[:0]}, "at least one sample"),
    "labels": ({"labels": LABELS[:5]}, "6 images and 5 labels; one each is needed"),
    "negative label": ({"labels": LABELS - 1}, "label -1; labels are 0, 1, 2"),
    "size": ({"images": np.zeros((6, 3, 9, 9))}, r"samples are \(3, 9, 9\); the model takes"),
    "nan image": ({"images": np.full((6, 3, 8, 8), np.nan)}, "samples have values that are not"),
    "nan weight": (
        {"tensors": poisoned("grouped.weight")},
        "layer 'grouped': grouped.weight has values that are not finite",
    ),
    "overflow": ({"tensors": huge()}, "layer 'depthwise': the activations are not finite"),
    "missing": ({"tensors": {}}, r"layer 'stem': stem\.weight is missing"),
    "shape": (
        {"tensors": {**tensors_of(residual(1)), "last.weight": torch.zeros(2)}},
        r"layer 'last': last\.weight is \(2,\); \(6, 4, 3, 3\) is needed",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_line(bad: str) -> None:
    change, message = BAD[bad]
    arguments = {
        "tensors": tensors_of(residual(1)),
        "images": images_for(residual(1)),
        "labels": LABELS,
        "layers": ["last"],
        **change,
    }
    with pytest.raises(InputError, match=message) as caught:
        CRITERIA["fisher"].score(residual(2), **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_gradient_that_overflows_is_named() -> None:
    g = GraphBuilder()
    x = g.conv(g.input(6, 3, 4, 4), 4, layer="first")
    x = g.conv(x, 4, layer="second")
    g.linear(g.pool(x), 3)
    graph = g.graph()
    tensors = tensors_of(graph, torch.float32)
    # forward stays finite: first and second scale down by what the head scales up
    for name, factor in (("first", 1e-38), ("linear", 1e38)):
        (full,) = [n for n in tensors if n.startswith(name) and n.endswith("weight")]
        tensors[full] = tensors[full] * factor
        tensors[full.replace("weight", "bias")].zero_()
    tensors["second.bias"].zero_()
    tensors["second.weight"] *= 1e3
    images = images_for(graph)
    with pytest.raises(InputError, match=r"layer '(first|second)': the gradient is not finite"):
        CRITERIA["fisher"].score(
            graph, tensors, images, LABELS, layers=["first", "second"], loss="cross_entropy"
        )


# Real images and a real network.


@pytest.mark.parametrize("criterion", CRITERIA)
def test_digits_through_a_built_in_network(criterion: str) -> None:
    task = sample_task(digits(), ways=5, shots=2, seed=0, resolution=48)
    graph = architecture_graph("mcunet-5fps", batch=10, resolution=48)
    tensors = dict(build("mcunet-5fps").state_dict())
    layers = inspected_layers(graph, 6)
    importance = CRITERIA[criterion].score(
        graph, tensors, task.images, task.labels, layers=layers, source=task.description
    )
    importance.check(graph)
    assert importance.layers == layers
    assert all(value > 0 for value in tinytrain_scores(importance, graph).values())


def test_real_images_through_a_built_in_network(shared: Path) -> None:
    """Scores of two halves of one task agree in rank far better than chance."""
    source = open_images(shared / "data" / "traffic_sign.tar.gz")
    task = sample_task(source, ways=5, shots=4, queries=4, seed=0, resolution=64)
    graph = architecture_graph("mcunet-5fps", batch=20, resolution=64)
    tensors = dict(build("mcunet-5fps").state_dict())
    (layer,) = inspected_layers(graph, 1)
    halves = [
        CRITERIA["fisher"].score(graph, tensors, images, labels, layers=[layer]).scores(layer)
        for images, labels in (
            (task.images, task.labels),
            (task.query_images, task.query_labels),
        )
    ]
    one, other = [half.argsort().argsort().astype(float) for half in halves]
    assert np.corrcoef(one, other)[0, 1] > 0.5

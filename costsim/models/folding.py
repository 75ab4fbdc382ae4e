"""Batch norm taken into the weights before it, where a device or narrow widths want that.

In evaluation mode `y = g (W x + b - m) / sqrt(v + eps) + h` is the layer with weight `s W` and bias
`s (b - m) + h`, where `s = g / sqrt(v + eps)`. So the network without batch norm computes what the
one with it does, and what it learns is taken back by the same line: `W = W' / s`, `h` moved by what
the bias moved.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from costsim.base.code import others_prints_aside
from costsim.base.errors import InputError, note
from costsim.base.units import counted
from costsim.ir.graph import Call, LayerGraph
from costsim.models.tracing import capture

TOLERANCE = 1e-4
"""Of outputs before and after, as a share of the largest: rounding in 32 bits is far below."""

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer and the batch norm after it, by their modules' names; `scale` is `s` above, [O]."""

    layer: str
    norm: str
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Folded:
    """A module without the batch norms of `pairs`; it shares nothing with the one it came from."""

    module: nn.Module
    pairs: tuple[Pair, ...]

    @property
    def sentence(self) -> str:
        """What was done, for a person."""
        norms = counted(len(self.pairs), "batch norm")
        return f"{norms} folded into the weights before; costsim apply gives the model as is"

    def norm_of(self, layer: str) -> Pair | None:
        """The pair whose layer this is, None of one that no batch norm follows."""
        return next((pair for pair in self.pairs if pair.layer == layer), None)


@torch.no_grad()
def fold_batch_norm(module: nn.Module, example_input: Tensor) -> Folded:
    """A copy of `module` with each batch norm that follows a layer alone folded into it.

    One that follows anything else, or a layer whose value others read too, stays. Raises
    `InputError` for a model that cannot be traced, or whose outputs are others afterwards.
    """
    graph = capture(module, example_input).graph
    found = (_pair(graph, call, module) for call in graph.calls)
    names = [pair for pair in found if pair is not None]
    folded = copy.deepcopy(module)
    pairs = tuple(_folded(folded, layer, norm) for layer, norm in names)
    if pairs:
        _check_equal(module, folded, example_input)
    return Folded(folded, pairs)


def _pair(graph: LayerGraph, norm: Call, module: nn.Module) -> tuple[str, str] | None:
    """The modules of a layer and the batch norm that alone reads it, if `norm` is such a one."""
    if norm.weight is None or norm.bias is None or not norm.inputs:
        return None
    before = graph[norm.inputs[0]]
    readers = [call for call in graph.calls if before.name in call.inputs]
    if before.weight is None or before.layer is None or before.name == graph.output:
        return None
    once = all(
        len(graph.layers[call.layer].calls) == 1
        for call in (before, norm)
        if call.layer is not None
    )
    names = before.weight.name.removesuffix(".weight"), norm.weight.name.removesuffix(".weight")
    parts = [_submodule(module, name) for name in names]
    if len(readers) != 1 or not once or not isinstance(parts[0], LAYERS):
        return None
    return names if isinstance(parts[1], nn.modules.batchnorm._BatchNorm) else None


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _folded(module: nn.Module, layer: str, norm: str) -> Pair:
    """Fold one batch norm of `module` in place."""
    conv, batch_norm = module.get_submodule(layer), module.get_submodule(norm)
    assert isinstance(conv, LAYERS)
    assert isinstance(batch_norm, nn.modules.batchnorm._BatchNorm)
    assert batch_norm.running_mean is not None
    assert batch_norm.running_var is not None
    scale = batch_norm.weight.double() / (batch_norm.running_var.double() + batch_norm.eps).sqrt()
    bias = torch.zeros(len(scale)).double() if conv.bias is None else conv.bias.double()
    bias = batch_norm.bias.double() + (bias - batch_norm.running_mean.double()) * scale
    pair = Pair(layer, norm, scale)
    like, trains = conv.weight, batch_norm.bias.requires_grad
    conv.weight = nn.Parameter(folded_weight(like, pair), requires_grad=like.requires_grad)
    conv.bias = nn.Parameter(bias.to(like), requires_grad=trains)
    parent, _, last = norm.rpartition(".")
    setattr(module.get_submodule(parent), last, _what_is_left(batch_norm))
    return pair


def _what_is_left(batch_norm: nn.Module) -> nn.Module:
    """What a batch norm does beside: nothing, but for those that have an activation inside."""
    inside = [part for part in batch_norm.children() if not isinstance(part, nn.Identity)]
    return nn.Sequential(*inside).eval() if inside else nn.Identity().eval()


def _check_equal(module: nn.Module, folded: nn.Module, example_input: Tensor) -> None:
    with others_prints_aside():
        before, after = module(example_input).double(), folded(example_input).double()
    largest = float(before.abs().max()) or 1.0
    if before.shape != after.shape or float((before - after).abs().max()) > TOLERANCE * largest:
        raise InputError(
            "its batch norms do more than batch norm: folded into the weights, other outputs come "
            "out; fold them yourself, or plan with --bits 32 on a device that has the operator"
        )


@torch.no_grad()
def folded_weight(weight: Tensor, pair: Pair) -> Tensor:
    """The weight `[O, ...]` times the scale of the batch norm after it."""
    return (weight.double() * pair.scale.view(-1, *[1] * (weight.ndim - 1))).to(weight)


@torch.no_grad()
def unfolded(pair: Pair, weight: Tensor, original: Tensor) -> Tensor:
    """The weight before folding whose folded form is `weight`, [O, ...].

    A channel that its batch norm multiplies by zero keeps its `original` values: nothing that it
    learnt could be said there, which is noted.
    """
    scale = pair.scale.view(-1, *[1] * (weight.ndim - 1))
    found = torch.where(scale == 0, original.double(), weight.double() / scale)
    silent = (pair.scale == 0) & (weight.flatten(1) != 0).any(1)
    if bool(silent.any()):
        note(
            f"{pair.norm} multiplies {counted(int(silent.sum()), 'channel')} of {pair.layer} by 0: "
            "what they learnt is left out"
        )
    return found.to(original)


def moved(bias: Tensor, before: Tensor, original: Tensor) -> Tensor:
    """The batch norm's bias, `original` until now, once the folded one went from `before` to
    `bias`; all [O]."""
    return (original.double() + bias.double() - before.double()).to(original)
